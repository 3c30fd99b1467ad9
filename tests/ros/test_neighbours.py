"""Others on the node's topics, over real DDS: told in diagnostics and in the log."""

from pathlib import Path

import pytest
from geometry_msgs.msg import Twist
from nav_msgs.msg import Odometry
from rclpy.qos import DurabilityPolicy, QoSProfile
from sensor_msgs.msg import Imu
from std_srvs.srv import SetBool
from support import ROBOT, write_policy

from .conftest import NodeStarter, Probe

pytestmark = pytest.mark.ros


def problems(probe: Probe) -> str:
    """The problems of the newest diagnostics, one a line."""
    if not probe.diagnostics:
        return ""
    values = probe.diagnostics[-1].status[0].values
    return "\n".join(pair.value for pair in values if pair.key.startswith("problem"))


def test_two_nodes_on_one_command_topic_are_told_while_engaged(
    tmp_path: Path, start_node: NodeStarter, probe: Probe
) -> None:
    start_node(write_policy(tmp_path / "policy.onnx"))
    probe.wait_for(lambda: probe.state == "NOMINAL", "NOMINAL")
    assert problems(probe) == ""
    probe.create_publisher(Twist, "/cmd_vel", 10)
    said = "/cmd_vel: 2 publishers command at once (/policy, /probe)"
    probe.wait_for(lambda: said in problems(probe), "the rival")
    assert probe.diagnostics[-1].status[0].level == b"\x01"  # it drives on, and warns
    probe.feed(2.5)
    assert (tmp_path / "node.log").read_text().count(said) == 1
    assert probe.call(SetBool, "/policy/engage", data=False).success
    probe.wait_for(lambda: said not in problems(probe), "no rival in shadow mode")
    assert problems(probe) == ""


def test_another_type_and_another_qos_are_told(
    tmp_path: Path, start_node: NodeStarter, probe: Probe
) -> None:
    start_node(write_policy(tmp_path / "policy.onnx", text=ROBOT))
    probe.create_publisher(Imu, "/odom", 10)
    latched = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
    probe.create_subscription(Twist, "/cmd_vel", lambda _: None, latched)
    said = (
        "/odom: published by /probe as sensor_msgs/msg/Imu, the robot file says nav_msgs/msg/Odom",
        "/cmd_vel: heard by /probe in another QoS",
    )
    for each in said:
        probe.wait_for(lambda each=each: each in problems(probe), each, feed=False)
    probe.spin(1.0)  # another type's definition is not taken for another version of this one
    assert probe.state == "STOP"  # and says so: scan and odometry never came
    assert "no message yet" in probe.reason


def test_a_reliable_listener_cannot_hear_a_best_effort_sensor(
    tmp_path: Path, start_node: NodeStarter, probe: Probe
) -> None:
    """The node's own end, by qos_overrides."""
    override = {"qos_overrides./odom.subscription.reliability": "reliable"}
    start_node(write_policy(tmp_path / "policy.onnx"), **override)
    from rclpy.qos import qos_profile_sensor_data

    probe.create_publisher(Odometry, "/odom", qos_profile_sensor_data)
    said = "/odom: published by /probe in another QoS"
    probe.wait_for(lambda: said in problems(probe), said, feed=False)
