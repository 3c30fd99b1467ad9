"""A goal in the robot's frame over real DDS, while /tf moves."""

import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from rclpy.qos import DurabilityPolicy, QoSProfile
from ros_interfaces import TF2_MSGS, provide
from support import STORE, encode, header, write_policy

from .conftest import START_SECONDS, NodeStarter, Probe

pytestmark = pytest.mark.ros

TF = "tf2_msgs/msg/TFMessage"
POSE = "geometry_msgs/msg/PoseStamped"
ROBOT = """
robot: test
rate: 20.0
observation:
  - {name: goal, topic: /goal_pose, type: geometry_msgs/msg/PoseStamped, field: pose, frame: base_link, max_age: 60.0, frame_max_age: 0.4}
action:
  - {name: cmd, topic: /cmd_vel, type: geometry_msgs/msg/Twist, field: [linear.x, angular.z], limits: [[-1, 1], [-2, 2]], safe: [0.0, 0.0]}
reward: "goal_0"
"""  # noqa: E501


@pytest.fixture(scope="module", autouse=True)
def transforms(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        provide("tf2_msgs", TF2_MSGS, tmp_path_factory.mktemp("tf2_msgs"), patch)
        yield


def transform(parent: str, child: str, x: float, y: float, yaw: float) -> object:
    kinds = STORE.types
    made = kinds["geometry_msgs/msg/TransformStamped"](
        header(parent),
        child,
        kinds["geometry_msgs/msg/Transform"](
            kinds["geometry_msgs/msg/Vector3"](x, y, 0.0),
            kinds["geometry_msgs/msg/Quaternion"](0.0, 0.0, np.sin(yaw / 2), np.cos(yaw / 2)),
        ),
    )
    return kinds[TF]([made])


def goal(x: float, y: float) -> object:
    kinds = STORE.types
    pose = kinds["geometry_msgs/msg/Pose"](
        kinds["geometry_msgs/msg/Point"](x, y, 0.0),
        kinds["geometry_msgs/msg/Quaternion"](0.0, 0.0, 0.0, 1.0),
    )
    return kinds[POSE](header("map"), pose)


def publish_static(probe: Probe) -> None:
    """Send map to odom once, latched, as a static broadcaster does."""
    from tf2_msgs.msg import TFMessage

    latched = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
    publisher = probe.create_publisher(TFMessage, "/tf_static", latched)
    publisher.publish(encode(transform("map", "odom", 0.0, 1.0, 0.0), TF))


def drive(probe: Probe, seconds: float, x: float, y: float, yaw: float) -> None:
    """Publish where the robot is in odom, 50 times a second."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        probe.send("/tf", transform("odom", "base_link", x, y, yaw), TF)
        probe.spin(0.02)


def reach_nominal(probe: Probe) -> None:
    """Send the goal until it is heard."""
    end = time.monotonic() + START_SECONDS
    while probe.state != "NOMINAL":
        assert time.monotonic() < end, probe.reason
        probe.send("/goal_pose", goal(1.0, 0.0), POSE)
        drive(probe, 0.1, 0.0, 0.0, 0.0)


def test_goal_in_the_robot_frame_while_the_robot_moves(
    tmp_path: Path, start_node: NodeStarter, probe: Probe
) -> None:
    """The goal is sent until it is heard, then never again. Numbers worked out by hand."""
    publish_static(probe)
    start_node(write_policy(tmp_path / "policy.onnx", text=ROBOT))
    reach_nominal(probe)
    quarter = np.pi / 2.0
    for place, expected in (
        ((0.0, 0.0, 0.0), (1.0, -1.0, 0.0)),
        ((1.0, -1.0, quarter), (0.0, 0.0, -quarter)),
        ((1.0, 1.0, quarter), (-2.0, 0.0, -quarter)),
    ):
        drive(probe, 0.5, *place)
        np.testing.assert_allclose(probe.observations[-1].position, expected, atol=1e-6)
    probe.spin(0.8)
    assert probe.state == "STOP"
    assert probe.reason.startswith("goal: transform 0.")
    assert probe.reason.endswith(" s old")
    drive(probe, 0.5, 0.0, 0.0, 0.0)
    assert probe.state == "NOMINAL"


def test_malformed_transforms_are_none_and_the_robot_stops(
    tmp_path: Path, start_node: NodeStarter, probe: Probe
) -> None:
    publish_static(probe)
    process = start_node(write_policy(tmp_path / "policy.onnx", text=ROBOT))
    reach_nominal(probe)
    for _ in range(40):
        probe.send("/tf", b"\x00\x01\x00\x00\xff\xff\x00\x00", TF)
        probe.spin(0.02)
    assert probe.state == "STOP"
    assert probe.reason.startswith("goal: transform 0.")
    drive(probe, 0.5, 0.0, 0.0, 0.0)
    assert probe.state == "NOMINAL"
    assert process.poll() is None
