"""The commands of the READMEs, typed as they stand, in one folder, on bags of the simulator."""

import re
import shlex
from pathlib import Path

import pytest
from offrl_contract import cli

ROOT = Path(__file__).resolve().parents[2]
FOREVER = ("serve", "record")  # tested where they live
SHORT = {"100000": "200"}  # training steps

pytestmark = [pytest.mark.ros, pytest.mark.timeout(600)]


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
    [("README.md", 7), ("export/README.md", 2), ("ros_ws/src/offrl_data/README.md", 5)],
)
def test_commands_run(
    readme: str, count: int, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    found = commands(ROOT / readme)
    assert len(found) == count
    for command in found:
        assert cli.run([SHORT.get(word, word) for word in command]) == 0, command


def test_python_of_the_data_package_runs(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    readme = ROOT / "ros_ws" / "src" / "offrl_data" / "README.md"
    (code,) = re.findall(r"```python\n(.*?)```", readme.read_text(), re.DOTALL)
    scope: dict[str, object] = {}
    exec(compile(code, str(readme), "exec"), scope)
    assert scope["dataset"].observations.shape[1] == 40
