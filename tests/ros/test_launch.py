"""The launch file with the real `ros2 launch`, from a workspace built by colcon."""

import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from lifecycle_msgs.srv import GetState
from rcl_interfaces.srv import GetParameters
from rclpy.parameter import parameter_value_to_python
from support import write_policy

from .conftest import Probe
from .test_colcon import ENVIRONMENT, build, sourced, tool

pytest.importorskip("launch_ros", reason="launch_ros comes with ROS 2, which is not sourced here")
pytestmark = [
    pytest.mark.ros,
    pytest.mark.skipif(tool("ros2") is None, reason="the ros2 command is not here: source ROS 2"),
]

END_SECONDS = 20.0
Launcher = Callable[..., subprocess.Popen[str]]


@pytest.fixture(scope="module")
def install(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("workspace"))


@pytest.fixture
def policy(tmp_path: Path) -> str:
    return f"policy:={write_policy(tmp_path / 'policy.onnx')}"


@contextmanager
def launcher(install: Path, tmp_path: Path, *file: str) -> Iterator[Launcher]:
    """Start `ros2 launch` of a file in a process group of its own; end the group at the end."""
    started: list[subprocess.Popen[str]] = []

    def start(*arguments: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            sourced(install, "ros2", "launch", *file, *arguments),
            stdin=subprocess.DEVNULL,
            stdout=(tmp_path / "launch.log").open("w"),
            stderr=subprocess.STDOUT,
            text=True,
            env=ENVIRONMENT | {"ROS_LOG_DIR": str(tmp_path / "log")},
            start_new_session=True,
        )
        started.append(process)
        return process

    yield start
    for process in started:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


@pytest.fixture
def launch(install: Path, tmp_path: Path) -> Iterator[Launcher]:
    with launcher(install, tmp_path, "offrl_policy", "policy.launch.py") as start:
        yield start


def log(tmp_path: Path) -> str:
    return (tmp_path / "launch.log").read_text()


def test_active_in_stop_without_sensors_and_ends_cleanly(
    policy: str, launch: Launcher, probe: Probe, tmp_path: Path
) -> None:
    process = launch(policy)
    probe.wait_for(lambda: probe.state == "STOP", "STOP", feed=False)
    assert "scan: no message yet" in probe.reason
    assert probe.call(GetState, "/policy/get_state").current_state.label == "active"
    process.send_signal(signal.SIGINT)
    assert process.wait(END_SECONDS) == 0
    assert "process has finished cleanly" in log(tmp_path)


def test_two_interrupts_of_the_group_give_one_safe_command_and_a_clean_end(
    policy: str, launch: Launcher, probe: Probe, tmp_path: Path
) -> None:
    """Ctrl-C reaches launch and node; launch signals the node again, and so may the user."""
    process = launch(policy)
    probe.wait_for(lambda: probe.state == "NOMINAL", "NOMINAL")
    probe.feed(0.5)
    probe.commands.clear()
    for _ in range(2):
        os.killpg(process.pid, signal.SIGINT)
        probe.feed(0.2)
    end = time.monotonic() + END_SECONDS
    while process.poll() is None and time.monotonic() < end:
        probe.feed(0.1)
    assert process.returncode == 0
    speeds = [message.linear.x for _, message in probe.commands]
    assert speeds[-1] == 0.0
    assert speeds.count(0.0) == 1
    assert "process has finished cleanly" in log(tmp_path)
    assert "Traceback" not in log(tmp_path)


def test_arguments_reach_the_node(
    policy: str, launch: Launcher, probe: Probe, tmp_path: Path
) -> None:
    more = tmp_path / "more.yaml"
    more.write_text("/**: {ros__parameters: {dwell: 2.5, mode: engaged}}")
    expected = {"dwell": 2.5, "mode": "shadow", "use_sim_time": True, "autostart": False}
    launch(
        policy,
        "namespace:=robot1",
        "mode:=shadow",
        "use_sim_time:=true",
        "autostart:=false",
        f"params_file:={more}",
    )
    answer = probe.call(GetParameters, "/robot1/policy/get_parameters", names=list(expected))
    found = [parameter_value_to_python(value) for value in answer.values]
    assert found == list(expected.values())
    state = probe.call(GetState, "/robot1/policy/get_state").current_state.label
    assert state == "unconfigured"


@pytest.mark.parametrize(
    ("arguments", "sentences"),
    [
        (["policy:=/none.onnx"], ["/none.onnx: no such policy file", "node exited with 2"]),
        (["policy:=/none.onnx", "mode:=shadw"], ["Valid options are: ['engaged', 'shadow']"]),
        ([], ["missing required argument 'policy'"]),
    ],
)
def test_what_cannot_start_ends_with_the_reason(
    arguments: list[str], sentences: list[str], launch: Launcher, tmp_path: Path
) -> None:
    assert launch(*arguments).wait(END_SECONDS) == 1
    for sentence in sentences:
        assert sentence in log(tmp_path)
    assert "Traceback" not in log(tmp_path)
