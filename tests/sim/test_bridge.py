import importlib.util
import json
import os
import signal
import subprocess
import sys
import time

import pytest
from ros_interfaces import ACKERMANN_MSGS, provide

pytestmark = pytest.mark.ros
rclpy = pytest.importorskip("rclpy", reason="needs rclpy: pip install 'offrl[ros]'")

DRIVER = """
import json, sys, time
import numpy as np
import rclpy
from geometry_msgs.msg import PoseStamped, Twist
from nav_msgs.msg import Odometry
from rclpy.qos import qos_profile_sensor_data
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import LaserScan
from std_msgs.msg import Bool, Int64, String

rclpy.init()
node = rclpy.create_node("driver")
seen = {}
kinds = {"/odom": Odometry, "/scan": LaserScan, "/goal": PoseStamped, "/bumper": Bool}

def listen(topic, kind):
    def hear(message):
        seen.setdefault(topic, []).append(message)
    node.create_subscription(kind, topic, hear, qos_profile_sensor_data)

for topic, kind in (*kinds.items(), ("/clock", Clock)):
    listen(topic, kind)
episodes = []
node.create_subscription(String, "/sim/episode", lambda m: episodes.append(json.loads(m.data)), 10)
command = node.create_publisher(Twist, "/cmd_vel", 1)
reset = node.create_publisher(Int64, "/sim/reset", 1)
disturb = node.create_publisher(String, "/sim/disturb", 1)

def spin(until, seconds=30.0):
    end = time.monotonic() + seconds
    while not until() and time.monotonic() < end:
        rclpy.spin_once(node, timeout_sec=0.05)
    return until()

def drive(forward, turning, until, seconds=30.0):
    twist = Twist()
    twist.linear.x, twist.angular.z = forward, turning
    beat = time.monotonic()
    def due():
        nonlocal beat
        if time.monotonic() >= beat:
            command.publish(twist)
            beat = time.monotonic() + 0.02
        return until()
    return spin(due, seconds)

ready = spin(lambda: len(seen) == 5 and command.get_subscription_count() == 1
             and reset.get_subscription_count() == 1 and disturb.get_subscription_count() == 1)
still = seen["/odom"][-1]
reset.publish(Int64(data=11))
spin(lambda: False, 0.3)
begin = seen["/odom"][-1]
moved = drive(0.3, 0.0, lambda: seen["/odom"][-1].twist.twist.linear.x > 0.25)
begun = seen["/clock"][-1].clock
drive(0.3, 0.0, lambda: seen["/clock"][-1].clock.sec >= begun.sec + 2)  # a second at least
end = seen["/odom"][-1]
disturb.publish(String(data="shove"))
spun = drive(0.0, 0.0, lambda: abs(seen["/odom"][-1].twist.twist.angular.z) > 3.0)
drive(0.8, 0.0, lambda: bool(episodes))
clock = [m.clock.sec * 10**9 + m.clock.nanosec for m in seen["/clock"]]
print(json.dumps({
    "ready": ready, "still": still.twist.twist.linear.x, "moved": moved, "spun": spun,
    "travelled": float(np.hypot(end.pose.pose.position.x - begin.pose.pose.position.x,
                                end.pose.pose.position.y - begin.pose.pose.position.y)),
    "beams": len(seen["/scan"][-1].ranges), "goal_frame": seen["/goal"][-1].header.frame_id,
    "clock_rises": all(b >= a for a, b in zip(clock, clock[1:])), "episodes": episodes,
}))
node.destroy_node()
rclpy.shutdown()
"""


@pytest.fixture
def environment():
    domain = str(1 + os.getpid() % 100)
    return os.environ | {"ROS_AUTOMATIC_DISCOVERY_RANGE": "LOCALHOST", "ROS_DOMAIN_ID": domain}


CAR_DRIVER = """
import json, sys, time
import rclpy
from ackermann_msgs.msg import AckermannDriveStamped
from geometry_msgs.msg import PoseStamped
from nav_msgs.msg import Odometry
from rclpy.qos import qos_profile_sensor_data
from sensor_msgs.msg import Imu, JointState
from std_msgs.msg import Float32MultiArray, String

rclpy.init()
node = rclpy.create_node("driver")
seen = {}
kinds = {"/odom": Odometry, "/imu": Imu, "/joint_states": JointState, "/track/pose": PoseStamped,
         "/track/curvature": Float32MultiArray}
for topic, kind in kinds.items():
    node.create_subscription(
        kind, topic, lambda m, topic=topic: seen.__setitem__(topic, m), qos_profile_sensor_data)
episodes = []
node.create_subscription(String, "/sim/episode", lambda m: episodes.append(json.loads(m.data)), 10)
command = node.create_publisher(AckermannDriveStamped, "/drive", 1)
end = time.monotonic() + 90.0
while not episodes and time.monotonic() < end:
    if len(seen) == len(kinds) and command.get_subscription_count():
        pose = seen["/track/pose"].pose
        drive = AckermannDriveStamped()
        drive.drive.speed = 1.0
        curvature = seen["/track/curvature"].data[0]
        drive.drive.steering_angle = (
            0.33 * curvature - 0.6 * pose.position.y - 1.2 * pose.orientation.z)
        command.publish(drive)
    rclpy.spin_once(node, timeout_sec=0.02)
while node.count_publishers("/odom") and time.monotonic() < end:  # the bridge leaves first
    rclpy.spin_once(node, timeout_sec=0.02)
print(json.dumps({
    "episodes": episodes, "speed": seen["/odom"].twist.twist.linear.x,
    "joints": list(seen["/joint_states"].name), "frame": seen["/track/pose"].header.frame_id,
    "stretches": len(seen["/track/curvature"].data),
}))
node.destroy_node()
rclpy.shutdown()
"""


def start_bridge(environment, *parameters):
    words = [word for parameter in parameters for word in ("-p", parameter)]
    return subprocess.Popen(
        [sys.executable, "-m", "offrl_sim.bridge", "--ros-args", *words],
        env=environment,
        stderr=subprocess.PIPE,
        text=True,
    )


def run_driver(program, environment):
    return subprocess.run(
        [sys.executable, "-c", program],
        env=environment,
        capture_output=True,
        text=True,
        timeout=150,
        check=False,
    )


def drive_an_episode(program, environment, *parameters):
    """What a driver saw of a bridge's only episode."""
    bridge = start_bridge(environment, *parameters, "episodes:=1")
    try:
        driver = run_driver(program, environment)
        _, errors = bridge.communicate(timeout=30)
    finally:
        bridge.kill()
    assert driver.returncode == 0, driver.stderr
    assert bridge.returncode == 0, errors
    return json.loads(driver.stdout)


def test_a_command_moves_the_robot_and_odometry_says_so(environment):
    bridge = start_bridge(environment, "real_time_factor:=4.0", "seed:=2")
    try:
        driver = run_driver(DRIVER, environment)
        assert driver.returncode == 0, driver.stderr
        seen = json.loads(driver.stdout)
        assert seen["ready"]
        assert abs(seen["still"]) < 0.1
        assert seen["moved"]
        assert seen["travelled"] > 0.2
        assert seen["spun"]
        assert seen["clock_rises"]
        assert (seen["beams"], seen["goal_frame"]) == (180, "base_link")
        (episode,) = seen["episodes"]
        assert episode["seed"] == 11
        assert [each["kind"] for each in episode["disturbances"]] == ["shove"]
        assert len(episode["path"]) == round(episode["seconds"] * 10) + 1
        assert not (episode["success"] and episode["collided"])
    finally:
        bridge.send_signal(signal.SIGTERM)
        _, errors = bridge.communicate(timeout=20)
    assert bridge.returncode == 0, errors


def test_interrupt_ends_it_cleanly(environment):
    bridge = start_bridge(environment)
    time.sleep(3.0)
    assert bridge.poll() is None
    bridge.send_signal(signal.SIGINT)
    _, errors = bridge.communicate(timeout=20)
    assert bridge.returncode == 0, errors
    assert "Traceback" not in errors


def test_middleware_that_hangs_at_the_end_is_left(environment):
    hangs = (
        "import time\n"
        "from offrl_sim import bridge\n"
        "bridge.SimBridge.destroy_node = lambda node: time.sleep(60.0)\n"
        "bridge.main()\n"
    )
    process = subprocess.Popen([sys.executable, "-c", hangs], env=environment)
    time.sleep(5.0)
    assert process.poll() is None
    process.send_signal(signal.SIGINT)
    assert process.wait(20.0) == -signal.SIGALRM


@pytest.mark.parametrize(
    ("parameter", "sentence"),
    [
        ("real_time_factor:=0.0", "error: real_time_factor: 0.0 must be above 0"),
        ("real_time_factor:=2", "'real_time_factor' to '2' of type 'INTEGER', expecting"),
        ("seed:=-1", "error: seed: -1: must be 0 or more"),
    ],
)
def test_bad_parameters_are_refused(environment, parameter, sentence):
    bridge = start_bridge(environment, parameter)
    _, errors = bridge.communicate(timeout=30)
    assert bridge.returncode == 2, errors
    assert sentence in errors
    assert "Traceback" not in errors


@pytest.mark.usefixtures("ros")
def test_a_seed_below_0_is_warned_of_and_the_episode_goes_on(capfd):
    from offrl_sim.bridge import SimBridge
    from std_msgs.msg import Int64

    bridge = SimBridge()
    bridge.advance()
    before = bridge._session.now
    bridge._on_reset(Int64(data=-5))
    bridge.advance()
    assert bridge._session.now > before
    assert "/sim/reset: seed: -5: must be 0 or more" in capfd.readouterr().err
    bridge.close()


def test_a_message_package_that_is_missing_is_named(environment):
    if importlib.util.find_spec("ackermann_msgs"):
        pytest.skip("ackermann_msgs is installed")
    bridge = start_bridge(environment, "task:=RacecarTrack")
    _, errors = bridge.communicate(timeout=30)
    assert bridge.returncode == 2
    assert "ackermann_msgs' is not installed" in errors


def test_an_unknown_task_is_refused(environment):
    bridge = start_bridge(environment, "task:=RacecarTrak")
    _, errors = bridge.communicate(timeout=30)
    assert bridge.returncode == 2
    assert "Did you mean 'RacecarTrack'?" in errors


def test_the_car_is_driven_by_its_own_topics(environment, tmp_path, monkeypatch):
    provide("ackermann_msgs", ACKERMANN_MSGS, tmp_path, monkeypatch)
    environment = os.environ | environment | {"PYTHONPATH": os.environ.get("PYTHONPATH", "")}
    parameters = "task:=RacecarTrack", "real_time_factor:=2.0", "seed:=5"
    seen = drive_an_episode(CAR_DRIVER, environment, *parameters)
    (episode,) = seen["episodes"]
    assert episode["success"]
    assert episode["return"] > 12.0
    assert len(episode["path"]) == 401
    assert len(episode["world"]["centre_line"]) == 200
    assert seen["speed"] > 0.5
    assert (seen["joints"], seen["frame"], seen["stretches"]) == (["steering"], "track", 6)
