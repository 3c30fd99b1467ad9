"""A drive over real DDS, recorded as a recorder records it, decided again from the bag."""

from pathlib import Path
from typing import Any

import pytest
from offrl_policy.replay import replay
from rclpy.qos import QoSProfile, qos_profile_sensor_data
from rosbags.rosbag2 import StoragePlugin, Writer
from std_srvs.srv import Trigger
from support import STORE, write_policy

from .conftest import NodeStarter, Probe

pytestmark = pytest.mark.ros

TYPES = {
    "/scan": "sensor_msgs/msg/LaserScan",
    "/odom": "nav_msgs/msg/Odometry",
    "/cmd_vel": "geometry_msgs/msg/Twist",
    "/policy/decision": "std_msgs/msg/String",
}


class Recorder:
    """Writes what it hears, as bytes, at the times when it hears it."""

    def __init__(self, probe: Probe, path: Path) -> None:
        from geometry_msgs.msg import Twist
        from nav_msgs.msg import Odometry
        from sensor_msgs.msg import LaserScan
        from std_msgs.msg import String

        self._probe = probe
        self._writer = Writer(path, version=9, storage_plugin=StoragePlugin.MCAP)
        self._writer.open()
        self.heard = dict.fromkeys(TYPES, 0)
        kinds: dict[str, Any] = dict(zip(TYPES, (LaserScan, Odometry, Twist, String), strict=True))
        for topic, kind in kinds.items():
            sensor = topic in ("/scan", "/odom")
            qos = qos_profile_sensor_data if sensor else QoSProfile(depth=1000)
            made = self._writer.add_connection(topic, TYPES[topic], typestore=STORE)
            probe.create_subscription(kind, topic, self._callback(topic, made), qos, raw=True)

    def _callback(self, topic: str, connection: Any) -> Any:
        def write(raw: bytes) -> None:
            self.heard[topic] += 1
            now = self._probe.get_clock().now().nanoseconds
            self._writer.write(connection, now, raw)

        return write

    def close(self) -> None:
        self._writer.close()


def test_a_drive_over_dds_is_decided_again_to_the_bit(
    tmp_path: Path, start_node: NodeStarter, probe: Probe
) -> None:
    policy = write_policy(tmp_path / "policy.onnx")
    recorder = Recorder(probe, tmp_path / "bag")
    start_node(policy, dwell=0.2)
    probe.wait_for(lambda: probe.state == "NOMINAL", "NOMINAL")
    probe.feed(2.0)
    probe.feed(0.3, x=2.4)
    assert probe.state == "FALLBACK"
    probe.wait_for(lambda: probe.reason.startswith("familiar again"), "calm scores")
    assert probe.call(Trigger, "/policy/reset").success
    probe.wait_for(lambda: probe.state == "NOMINAL", "NOMINAL after reset")
    probe.spin(0.6)
    assert probe.state == "STOP"
    probe.feed(1.0)
    recorder.close()
    outcome = replay(tmp_path / "bag", policy)
    assert outcome.differences == []
    assert outcome.largest == 0.0
    assert outcome.checked > 60
    assert outcome.checked + outcome.skipped == recorder.heard["/policy/decision"]
    assert outcome.lost == 0
