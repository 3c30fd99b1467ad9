"""The sensors, the command and the end of `RacecarTrack`."""

from typing import ClassVar

import numpy as np
from offrl_contract.robot import Robot

from offrl_sim import messages
from offrl_sim.messages import DRIVE, IMU, JOINTS, ODOMETRY, SCAN, Message
from offrl_sim.profile import SimProfile
from offrl_sim.racecar.lidar import wall_distances
from offrl_sim.racecar.physics import WIDTH, RacecarPhysics
from offrl_sim.racecar.track import HALF_WIDTH, Track, generate_track
from offrl_sim.simulation import Sensor, Simulation

POSE = "/track/pose"
CURVATURE = "/track/curvature"
STRETCH = 0.5
"""Length of each stretch of track whose curvature is told [m]."""
STRETCHES = 6
"""Stretches told, from the car on."""
BEAMS = 36
"""Readings per scan."""
_BEAM_ANGLES = messages.beam_angles(BEAMS)
_AHEAD = STRETCH * (np.arange(STRETCHES) + 0.5)
_LATENCY = (2e6, 5e6)  # [ns]
_POSE_LATENCY = 5_500_000  # [ns] localisation needs longer than a driver, and a steady time
_LOSS = 0.01
_VELOCITY_NOISE = 0.02  # [m/s]
_RATE_NOISE = 0.01  # [rad/s]
_STEERING_NOISE = 0.003  # [rad]
_PLACE_NOISE = 0.01  # [m]
_HEADING_NOISE = 0.01  # [rad]


class Racecar(Simulation):
    """Drives as far round the track as time allows; the drive ends at a wall."""

    types: ClassVar = {
        ODOMETRY: "nav_msgs/msg/Odometry",
        IMU: "sensor_msgs/msg/Imu",
        JOINTS: "sensor_msgs/msg/JointState",
        CURVATURE: "std_msgs/msg/Float32MultiArray",
        SCAN: "sensor_msgs/msg/LaserScan",
        POSE: "geometry_msgs/msg/PoseStamped",
        DRIVE: messages.ACKERMANN,
    }
    command_topic = DRIVE
    command_fields = ("drive.steering_angle", "drive.speed")
    roles = ("steering", "speed")
    sensors: tuple[Sensor, ...] = (
        Sensor(ODOMETRY, 50, _LATENCY, _LOSS),
        Sensor(IMU, 100, _LATENCY, _LOSS),
        Sensor(JOINTS, 50, _LATENCY, _LOSS),
        Sensor(CURVATURE, 20, _LATENCY, _LOSS),
        Sensor(SCAN, 20, _LATENCY, _LOSS),
        Sensor(POSE, 20, (_POSE_LATENCY, _POSE_LATENCY), _LOSS),
    )
    tick_latency = _POSE_LATENCY
    time_limit = 20.0
    shove = (40.0, 1.5)
    dirt = 0.25

    world: Track
    _physics: RacecarPhysics

    def __init__(self, robot: Robot, profile: SimProfile) -> None:
        """Build the bodies. Raises InputError where PyBullet is not installed."""
        if SCAN not in robot.topics():  # rays cost time, and few need them
            self.sensors = tuple(s for s in type(self).sensors if s.topic != SCAN)
        super().__init__(robot, RacecarPhysics(), profile)

    def succeeded(self, terminal: bool, timeout: bool) -> bool:
        """Whether the car drove until time was up."""
        return timeout and not terminal

    def command_message(self, stamp: int, action: list[float]) -> Message:
        """Return steering angle [rad] and speed [m/s] as an AckermannDriveStamped."""
        return messages.ackermann(stamp, *action)

    def _place(self, rng: np.random.Generator) -> Track:
        track = generate_track(rng)
        self._physics.reset(track.start)
        self._along, self._left, self._heading = track.locate(*track.start)
        return track

    def _look(self) -> None:
        """Find the car on the track; the distance along it goes on from lap to lap."""
        body, length = self.body, self.world.length
        along, self._left, self._heading = self.world.locate(body.x, body.y, body.yaw)
        moved = (along - self._along + length / 2.0) % length - length / 2.0
        self._along += moved
        self.collided |= abs(self._left) > HALF_WIDTH - WIDTH / 2.0

    def _message(self, topic: str, now: int) -> Message:
        return {
            ODOMETRY: self._odometry,
            IMU: self._imu,
            JOINTS: self._joints,
            CURVATURE: self._curvature,
            SCAN: self._scan,
            POSE: self._pose,
        }[topic](now)

    def _odometry(self, now: int) -> Message:
        body = self.body
        noise = self._rng.normal(0.0, _VELOCITY_NOISE, 2).tolist()
        turning = body.turning + float(self._rng.normal(0.0, _RATE_NOISE))
        velocity = (body.forward + noise[0], body.sideways + noise[1], turning)
        return messages.odometry(now, (body.x, body.y, body.yaw), velocity)

    def _imu(self, now: int) -> Message:
        rate = self.body.turning + float(self._rng.normal(0.0, _RATE_NOISE))
        return messages.imu(now, self.body.yaw, rate)

    def _joints(self, now: int) -> Message:
        angle = self._physics.steering() + float(self._rng.normal(0.0, _STEERING_NOISE))
        return messages.joint_states(now, {"steering": angle})

    def _curvature(self, now: int) -> Message:  # noqa: ARG002
        return messages.floats(self.world.curvature_at(self._along + _AHEAD))

    def _scan(self, now: int) -> Message:
        body = self.body
        place, angles = np.array([body.x, body.y]), _BEAM_ANGLES + body.yaw
        ranges = wall_distances(place, angles, self.world.walls)
        return messages.laser_scan(now, self._as_read(ranges, _BEAM_ANGLES), 20)

    def _pose(self, now: int) -> Message:
        along, left = self._rng.normal((self._along, self._left), _PLACE_NOISE).tolist()
        heading = self._heading + float(self._rng.normal(0.0, _HEADING_NOISE))
        return messages.pose(now, "track", along, left, heading)
