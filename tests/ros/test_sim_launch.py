"""The simulator's launch file with the real `ros2 launch`: the bridge, and the node that drives."""

import json
import signal
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path

import pytest
from rclpy.qos import qos_profile_sensor_data
from rosgraph_msgs.msg import Clock
from std_msgs.msg import String
from support import write_policy

from .conftest import Probe

pytest.importorskip("launch_ros", reason="launch_ros comes with ROS 2, which is not sourced here")

from .test_launch import Launcher, install, launcher, log, pytestmark

__all__ = ["install", "pytestmark"]

FILE = Path(__file__).parents[2] / "sim" / "launch" / "sim.launch.py"
END_SECONDS = 60.0
ARM = files("offrl_contract").joinpath("robots", "panda.yaml")


@pytest.fixture
def launch(install: Path, tmp_path: Path) -> Iterator[Launcher]:
    with launcher(install, tmp_path, str(FILE)) as start:
        yield start


def test_arguments_are_documented(launch: Launcher, tmp_path: Path) -> None:
    assert launch("--show-args").wait(END_SECONDS) == 0
    shown = log(tmp_path)
    for name in ("task", "robot", "profile", "seed", "episodes", "real_time_factor", "policy"):
        assert f"'{name}':" in shown
    assert "PandaReach" in shown


def test_a_policy_drives_the_arm_and_the_launch_ends_with_the_episodes(
    launch: Launcher, probe: Probe, tmp_path: Path
) -> None:
    """The hand goes down at 0.2 m/s, whatever it sees; the node follows the simulator's clock."""
    policy = write_policy(tmp_path / "policy.onnx", (0.0, 0.0, -0.2), ARM.read_text())
    episodes: list[dict[str, object]] = []
    probe.create_subscription(
        String, "/sim/episode", lambda message: episodes.append(json.loads(message.data)), 10
    )
    process = launch("task:=PandaReach", f"policy:={policy}", "seed:=7", "episodes:=1")
    probe.wait_for(lambda: probe.state == "NOMINAL", "NOMINAL", feed=False)
    probe.wait_for(lambda: bool(episodes), "the end of the episode", feed=False)
    assert (episodes[0]["seed"], episodes[0]["success"]) == (7, False)
    assert process.wait(END_SECONDS) == 0
    assert "Traceback" not in log(tmp_path)
    assert not episodes[1:]


def test_without_a_policy_the_robot_waits_for_commands(
    launch: Launcher, probe: Probe, tmp_path: Path
) -> None:
    clocks: list[Clock] = []
    probe.create_subscription(Clock, "/clock", clocks.append, qos_profile_sensor_data)
    process = launch("real_time_factor:=4.0")
    probe.wait_for(lambda: len(clocks) > 50, "the clock", feed=False)
    assert not probe.gates
    process.send_signal(signal.SIGINT)
    assert process.wait(END_SECONDS) == 0
    assert "process has finished cleanly" in log(tmp_path)


def test_what_cannot_start_ends_with_the_reason(launch: Launcher, tmp_path: Path) -> None:
    assert launch("task:=PandaReech").wait(END_SECONDS) == 1
    assert "Did you mean 'PandaReach'?" in log(tmp_path)
    assert "the simulator exited with 2" in log(tmp_path)
    assert "Traceback" not in log(tmp_path)
