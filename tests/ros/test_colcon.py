"""`colcon build` of the ROS 2 workspace into a folder of its own, and what it installs."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

SOURCES = Path(__file__).parents[2] / "ros_ws" / "src"
# this interpreter's folder first: installed scripts ask `env` for their python3
ENVIRONMENT = os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}


def tool(name: str) -> str | None:
    """The path of a command, also where the environment's folder is not in PATH."""
    return shutil.which(name, path=ENVIRONMENT["PATH"])


def build(base: Path) -> Path:
    """Build the packages under a folder; return the install folder."""
    colcon = tool("colcon")
    if colcon is None:
        pytest.skip("colcon is not installed: pip install colcon-common-extensions")
    bases = [f"--{name}-base={base / name}" for name in ("build", "install")]
    command = [colcon, f"--log-base={base / 'log'}", "build", f"--base-paths={SOURCES}", *bases]
    done = subprocess.run(command, capture_output=True, text=True, cwd=base, env=ENVIRONMENT)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "3 packages finished" in done.stdout
    return base / "install"


def sourced(install: Path, *command: str) -> list[str]:
    """A command line that sources the workspace first, as a user does."""
    return ["bash", "-c", 'source "$0/local_setup.bash" && exec "$@"', str(install), *command]


@pytest.fixture(scope="module")
def install(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("workspace"))


def test_every_package_is_installed_and_indexed(install: Path) -> None:
    for name in ("offrl_contract", "offrl_data", "offrl_policy"):
        share = install / name / "share"
        assert (share / "ament_index" / "resource_index" / "packages" / name).is_file()
        assert (share / name / "package.xml").is_file()


def test_launch_file_and_parameters_are_installed(install: Path) -> None:
    share = install / "offrl_policy" / "share" / "offrl_policy"
    assert (share / "launch" / "policy.launch.py").is_file()
    assert (share / "config" / "policy.yaml").is_file()


@pytest.mark.ros
def test_installed_node_runs_with_the_python_of_the_environment(install: Path) -> None:
    script = install / "offrl_policy" / "lib" / "offrl_policy" / "policy_node"
    assert script.read_text().startswith("#!/usr/bin/env python3\n")
    command = sourced(install, str(script), "--ros-args", "-p", "autostart:=true")
    done = subprocess.run(command, capture_output=True, text=True, env=ENVIRONMENT, timeout=60)
    assert done.returncode == 2
    assert "parameter policy: missing" in done.stdout + done.stderr
