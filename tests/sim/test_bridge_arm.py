"""The arm behind its topics, driven by a node that knows nothing but them."""

import pytest

pytest.importorskip("rclpy", reason="needs rclpy: pip install 'offrl[ros]'")

from .test_bridge import drive_an_episode, environment

__all__ = ["environment"]

pytestmark = pytest.mark.ros

DRIVER = """
import json, time
import rclpy
from geometry_msgs.msg import PointStamped, TwistStamped
from rclpy.qos import qos_profile_sensor_data
from sensor_msgs.msg import JointState
from std_msgs.msg import String

rclpy.init()
node = rclpy.create_node("driver")
seen = {}
kinds = {"/joint_states": JointState, "/hand": PointStamped, "/goal": PointStamped}
for topic, kind in kinds.items():
    node.create_subscription(
        kind, topic, lambda m, topic=topic: seen.__setitem__(topic, m), qos_profile_sensor_data)
episodes = []
node.create_subscription(String, "/sim/episode", lambda m: episodes.append(json.loads(m.data)), 10)
command = node.create_publisher(TwistStamped, "/servo_node/delta_twist_cmds", 1)
end = time.monotonic() + 60.0
while not episodes and time.monotonic() < end:
    if len(seen) == 3 and command.get_subscription_count():
        goal, twist = seen["/goal"].point, TwistStamped()
        linear = twist.twist.linear  # along the base's axes; the hand points down
        linear.x, linear.y, linear.z = 3.0 * goal.x, -3.0 * goal.y, -3.0 * goal.z
        command.publish(twist)
    rclpy.spin_once(node, timeout_sec=0.02)
while node.count_publishers("/hand") and time.monotonic() < end:  # the bridge leaves first
    rclpy.spin_once(node, timeout_sec=0.02)
print(json.dumps({"episodes": episodes, "joints": list(seen["/joint_states"].name),
                  "frame": seen["/goal"].header.frame_id}))
node.destroy_node()
rclpy.shutdown()
"""


def test_the_arm_reaches_its_goal_over_topics(environment):
    seen = drive_an_episode(DRIVER, environment, "task:=PandaReach", "seed:=4")
    (episode,) = seen["episodes"]
    assert episode["success"]
    assert episode["return"] == 1 - round(25 * episode["seconds"])
    assert len(seen["joints"]) == 9
    assert seen["frame"] == "panda_hand_tcp"
