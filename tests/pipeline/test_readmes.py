"""What the READMEs tell a newcomer to type: `make demo`, made small, and commands on its bags."""

import json
import re
import shlex
import struct
import subprocess
import sys
from pathlib import Path

import pytest
from offrl_contract import cli
from offrl_policy.policy_file import Policy

ROOT = Path(__file__).resolve().parents[2]
FOREVER = ("serve", "record")  # tested where they live
SHORT = {"100000": "200"}  # training steps
MORE = {"evaluate": ["--steps", "50"]}

pytestmark = [pytest.mark.ros, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def small_demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a whole demo, made small."""
    pytest.importorskip("rclpy", reason="rclpy is not installed: pip install 'offrl[ros]'")
    pytest.importorskip("pybullet", reason="pybullet is not installed: pip install 'offrl[sim]'")
    out = tmp_path_factory.mktemp("demo") / "out"
    sizes = ("--episodes", 100, "--steps", 300, "--drives", 2, "--disturbed", 1, "--speed", 4)
    command = [sys.executable, ROOT / "sim" / "demo.py", "--out", out, *sizes]
    done = subprocess.run([*map(str, command)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return out


def test_figures_are_those_of_the_drives(small_demo: Path) -> None:
    figures = json.loads((small_demo / "results.json").read_text())
    for driver in ("behaviour", "bc", "policy"):
        returns = figures[driver]["returns"]
        assert len(returns) == 2
        assert all(-20.0 < value < 20.0 for value in returns)
        assert 0 <= figures[driver]["successes"] + figures[driver]["collisions"] <= 2
    assert figures["nominal_episodes"] == 2
    assert figures["disturbed_episodes"] == {"shove": 1, "dirty_lidar": 1}


def test_the_picture_is_a_picture(small_demo: Path) -> None:
    content = (small_demo / "drive.png").read_bytes()
    assert content[:8] == b"\x89PNG\r\n\x1a\n"
    width, height = struct.unpack(">II", content[16:24])
    assert width > 3 * height > 300


def test_the_policy_file_is_sound_and_the_node_left_in_order(small_demo: Path) -> None:
    Policy(small_demo / "policy.onnx").self_check()
    (log,) = (small_demo / "logs").glob("*_offrl_serve.log")
    text = log.read_text()
    assert "NOMINAL" in text
    assert "Traceback" not in text


def test_a_folder_of_something_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    (tmp_path / "logs").mkdir()  # of the user's own bags
    command = [sys.executable, str(ROOT / "sim" / "demo.py"), "--out", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 2
    assert "holds something else than a demo" in done.stderr
    assert (tmp_path / "thesis.tex").exists()


def commands(readme: Path) -> list[list[str]]:
    """Every `offrl` line of the bash blocks."""
    blocks = re.findall(r"```bash\n(.*?)```", readme.read_text(), re.DOTALL)
    lines = [shlex.split(line) for block in blocks for line in block.splitlines()]
    return [line[1:] for line in lines if line and line[0] == "offrl" and line[1] not in FOREVER]


@pytest.fixture(scope="module")
def folder(small_demo: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A user's folder: bags and a robot file of their own."""
    here = tmp_path_factory.mktemp("user")
    (here / "logs").mkdir()
    for part in ("bags_a", "bags_b"):
        (here / "logs" / part).symlink_to(small_demo / part)
    (here / "bags").symlink_to(here / "logs")
    (here / "run").symlink_to(here / "runs" / "iql")
    (here / "my_robot.yaml").write_text((ROOT / "robots" / "diffdrive.yaml").read_text())
    return here


@pytest.mark.parametrize(
    ("readme", "count"),
    [("README.md", 8), ("export/README.md", 2), ("ros_ws/src/offrl_data/README.md", 5)],
)
def test_commands_run(
    readme: str, count: int, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    found = commands(ROOT / readme)
    assert len(found) == count
    for command in found:
        words = [SHORT.get(word, word) for word in command]
        assert cli.run([*words, *MORE.get(command[0], [])]) == 0, command


def test_python_of_the_data_package_runs(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    readme = ROOT / "ros_ws" / "src" / "offrl_data" / "README.md"
    (code,) = re.findall(r"```python\n(.*?)```", readme.read_text(), re.DOTALL)
    scope: dict[str, object] = {}
    exec(compile(code, str(readme), "exec"), scope)
    assert scope["dataset"].observations.shape[1] == 40
