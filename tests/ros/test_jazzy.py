"""The node's tests with the wheels of ROS 2 Jazzy, in an environment of their own."""

import os
import subprocess
import sys
import venv
from pathlib import Path

import pytest

pytestmark = [pytest.mark.ros, pytest.mark.timeout(900)]

ROOT = Path(__file__).parents[2]
MESSAGES = ["diagnostic", "geometry", "lifecycle", "nav", "rosgraph", "sensor", "std", "trajectory"]
WHEELS = ["ros-rclpy[fastrtps]==7.1.6", *(f"ros-{name}-msgs" for name in MESSAGES), "ros-std-srvs"]
FILES = (
    "test_clocks.py",
    "test_node.py",
    "test_parameters.py",
    "test_neighbours.py",
    "test_replay.py",
)
SITE = "import site; print(*site.getsitepackages())"


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An interpreter with Jazzy's wheels first, and everything else of this environment."""
    if sys.version_info >= (3, 13):
        pytest.skip("there are no ROS wheels for this Python")
    folder = tmp_path_factory.mktemp("jazzy")
    venv.create(folder, with_pip=True, symlinks=True)
    python = folder / "bin" / "python"
    pip = [python, "-m", "pip", "install", "-q", "-c", ROOT / "constraints-jazzy.txt", *WHEELS]
    done = subprocess.run(pip, capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"Jazzy's wheels cannot be installed: {done.stderr.splitlines()[-1]}")
    here, there = (
        subprocess.check_output([each, "-c", SITE], text=True).split()[0]
        for each in (sys.executable, python)
    )
    after = f"import site; site.addsitedir({here!r})"  # with the .pth files in it
    Path(there, "zz_this.pth").write_text(after + "\n")
    return python


def test_node(python: Path) -> None:
    # without what the wheels of this environment have set at its start, and a domain of its own
    mine = ("LD_LIBRARY_PATH", "_ROS_WHEELS", "OFFRL_TEST_DOMAIN", "PYTEST")
    environment = {key: each for key, each in os.environ.items() if not key.startswith(mine)}
    command = [python, "-c", "import rclpy; print(rclpy.__file__)"]
    found = subprocess.check_output(command, text=True, env=environment)
    assert found.startswith(str(python.parents[1]))
    files = [str(ROOT / "tests" / "ros" / name) for name in FILES]
    command = [python, "-m", "pytest", "-q", "-n", "0", "-p", "no:cacheprovider", *files]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    print(done.stdout[-2000:])  # noqa: T201
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    assert " passed" in done.stdout
    assert " failed" not in done.stdout
