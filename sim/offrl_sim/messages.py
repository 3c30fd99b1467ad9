"""The messages that the simulated robot publishes, in SI units and REP-103 frames."""

import math
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from offrl_contract.definitions import add_text, distro_definitions
from rosbags.typesys.store import Typestore

Floats = NDArray[np.float64]
Message = Any
"""A rosbags message object."""

SCAN = "/scan"
ODOMETRY = "/odom"
GOAL = "/goal"
BUMPER = "/bumper"
COMMAND = "/cmd_vel"
IMU = "/imu"
JOINTS = "/joint_states"
DRIVE = "/drive"
HAND = "/hand"
SERVO = "/servo_node/delta_twist_cmds"
"""Where MoveIt Servo listens."""
ACKERMANN = "ackermann_msgs/msg/AckermannDriveStamped"
_ACKERMANN_DEFINITIONS = {  # as in ros-drivers/ackermann_msgs; rosbags brings none
    "ackermann_msgs/msg/AckermannDrive": "\n".join(
        f"float32 {name}"
        for name in ("steering_angle", "steering_angle_velocity", "speed", "acceleration", "jerk")
    ),
    ACKERMANN: "std_msgs/Header header\nackermann_msgs/AckermannDrive drive",
}
RANGE_MIN = 0.05
"""Shortest reading [m]; inside the robot's body, so that a touched surface is seen."""
RANGE_MAX = 8.0
"""Longest reading [m]; farther is inf (REP-117)."""
_COVARIANCE = np.diag([1e-4] * 6).ravel()


@cache
def definitions() -> Typestore:
    """Return the message definitions that the simulator publishes with."""
    store = distro_definitions()
    for name, text in _ACKERMANN_DEFINITIONS.items():
        add_text(store, name, text, name)
    return store


@cache
def _type(name: str) -> Callable[..., Message]:
    package, short = name.split("/")
    return definitions().types[f"{package}/msg/{short}"]


def _header(stamp: int, frame: str) -> Message:
    seconds, nanoseconds = divmod(stamp, 10**9)
    return _type("std_msgs/Header")(_type("builtin_interfaces/Time")(seconds, nanoseconds), frame)


def _pose(x: float, y: float, yaw: float) -> Message:
    return _type("geometry_msgs/Pose")(
        position=_type("geometry_msgs/Point")(x, y, 0.0),
        orientation=_turn(yaw),
    )


def _turn(yaw: float) -> Message:
    quaternion = _type("geometry_msgs/Quaternion")
    return quaternion(0.0, 0.0, math.sin(yaw / 2.0), math.cos(yaw / 2.0))


def twist(forward: float, turning: float) -> Message:
    """Return a Twist: forward [m/s], turning [rad/s]."""
    vector = _type("geometry_msgs/Vector3")
    return _type("geometry_msgs/Twist")(vector(forward, 0.0, 0.0), vector(0.0, 0.0, turning))


def odometry(
    stamp: int, pose: tuple[float, float, float], velocity: tuple[float, float, float]
) -> Message:
    """Return an Odometry: pose (x, y, yaw) in odom; forward, sideways, turning in base_link."""
    forward, sideways, turning = velocity
    vector = _type("geometry_msgs/Vector3")
    twist = _type("geometry_msgs/Twist")(vector(forward, sideways, 0.0), vector(0.0, 0.0, turning))
    return _type("nav_msgs/Odometry")(
        header=_header(stamp, "odom"),
        child_frame_id="base_link",
        pose=_type("geometry_msgs/PoseWithCovariance")(_pose(*pose), _COVARIANCE),
        twist=_type("geometry_msgs/TwistWithCovariance")(twist, _COVARIANCE),
    )


def beam_angles(beams: int) -> Floats:
    """Return the angle of each beam (beams,) [rad]: the first straight behind, counterclockwise."""
    return -np.pi + 2.0 * np.pi / beams * np.arange(beams, dtype=np.float64)


def laser_scan(stamp: int, ranges: Floats, rate: int) -> Message:
    """Return a LaserScan of readings (beams,) [m] all round, published at a rate [Hz]."""
    angles = beam_angles(len(ranges))
    return _type("sensor_msgs/LaserScan")(
        header=_header(stamp, "base_scan"),
        angle_min=float(angles[0]),
        angle_max=float(angles[-1]),
        angle_increment=2.0 * np.pi / len(ranges),
        time_increment=0.0,
        scan_time=1.0 / rate,
        range_min=RANGE_MIN,
        range_max=RANGE_MAX,
        ranges=np.where(ranges > RANGE_MAX, np.inf, ranges).astype(np.float32),
        intensities=np.zeros(0, np.float32),
    )


def pose(stamp: int, frame: str, x: float, y: float, yaw: float = 0.0) -> Message:
    """Return a PoseStamped in a frame [m], [rad]."""
    return _type("geometry_msgs/PoseStamped")(_header(stamp, frame), _pose(x, y, yaw))


def boolean(value: bool) -> Message:
    """Return a Bool: whether the bumper is pressed, or a drive runs."""
    return _type("std_msgs/Bool")(value)


def imu(stamp: int, yaw: float, turning: float) -> Message:
    """Return an Imu of heading [rad] and yaw rate [rad/s], without accelerations."""
    vector = _type("geometry_msgs/Vector3")
    known = np.diag([1e-4] * 3).ravel()
    return _type("sensor_msgs/Imu")(
        header=_header(stamp, "imu_link"),
        orientation=_turn(yaw),
        orientation_covariance=known,
        angular_velocity=vector(0.0, 0.0, turning),
        angular_velocity_covariance=known,
        linear_acceleration=vector(0.0, 0.0, 0.0),
        linear_acceleration_covariance=np.array([-1.0] + [0.0] * 8),  # not measured
    )


def joint_states(
    stamp: int, positions: dict[str, float], velocities: Floats | None = None
) -> Message:
    """Return a JointState: positions by joint [rad], [m], and velocities in the same order."""
    none = np.zeros(0)
    values = np.array(list(positions.values()))
    speeds = none if velocities is None else velocities
    return _type("sensor_msgs/JointState")(
        _header(stamp, "base_link"), list(positions), values, speeds, none
    )


def point(stamp: int, frame: str, place: Floats) -> Message:
    """Return a PointStamped: a place (3,) in a frame [m]."""
    return _type("geometry_msgs/PointStamped")(
        _header(stamp, frame), _type("geometry_msgs/Point")(*place.tolist())
    )


def twist_stamped(stamp: int, frame: str, velocity: list[float]) -> Message:
    """Return a TwistStamped: a velocity (3,) in a frame [m/s]."""
    vector = _type("geometry_msgs/Vector3")
    motion = _type("geometry_msgs/Twist")(vector(*velocity), vector(0.0, 0.0, 0.0))
    return _type("geometry_msgs/TwistStamped")(_header(stamp, frame), motion)


def floats(values: Floats) -> Message:
    """Return a Float32MultiArray of values (n,)."""
    layout = _type("std_msgs/MultiArrayLayout")(dim=[], data_offset=0)
    return _type("std_msgs/Float32MultiArray")(layout, values.astype(np.float32))


def ackermann(stamp: int, steering: float, speed: float) -> Message:
    """Return an AckermannDriveStamped: steering angle [rad], speed [m/s]."""
    drive = _type("ackermann_msgs/AckermannDrive")(steering, 0.0, speed, 0.0, 0.0)
    return _type("ackermann_msgs/AckermannDriveStamped")(_header(stamp, "base_link"), drive)
