"""The sensors, the command and the end of `DiffDriveNav`."""

from typing import ClassVar

import numpy as np
from offrl_contract.robot import Robot

from offrl_sim import messages
from offrl_sim.diffdrive.lidar import ray_distances
from offrl_sim.diffdrive.physics import DiffDrivePhysics
from offrl_sim.diffdrive.world import ROBOT_RADIUS, World, generate_world
from offrl_sim.messages import BUMPER, COMMAND, GOAL, ODOMETRY, SCAN, Message
from offrl_sim.profile import SimProfile
from offrl_sim.simulation import Sensor, Simulation

BEAMS = 180
"""Readings per scan."""
BEAM_ANGLES = messages.beam_angles(BEAMS)
"""Angle of each beam in the robot's frame (BEAMS,) [rad]."""
_LATENCY = (0.5e6, 2.0e6)  # [ns]
_GOAL_LATENCY = 2_200_000  # [ns] localisation needs longer than a driver, and a steady time
_VELOCITY_NOISE = 0.01  # [m/s], [rad/s]
_GOAL_NOISE = 0.01  # [m]


class DiffDrive(Simulation):
    """Drives to a goal among round obstacles; a bump ends the drive and stops the base."""

    types: ClassVar = {
        SCAN: "sensor_msgs/msg/LaserScan",
        ODOMETRY: "nav_msgs/msg/Odometry",
        GOAL: "geometry_msgs/msg/PoseStamped",
        BUMPER: "std_msgs/msg/Bool",
        COMMAND: "geometry_msgs/msg/Twist",
    }
    command_topic = COMMAND
    command_fields = ("linear.x", "angular.z")
    roles = ("speed", "turning")
    sensors = (
        Sensor(ODOMETRY, 50, _LATENCY),
        Sensor(SCAN, 20, _LATENCY),
        Sensor(BUMPER, 20, _LATENCY),
        Sensor(GOAL, 20, (_GOAL_LATENCY, _GOAL_LATENCY)),
    )
    tick_latency = _GOAL_LATENCY
    time_limit = 20.0
    shove = (120.0, 6.0)
    dirt = ROBOT_RADIUS + 0.05

    world: World
    _physics: DiffDrivePhysics

    def __init__(self, robot: Robot, profile: SimProfile) -> None:
        """Build the bodies. Raises InputError where PyBullet is not installed."""
        super().__init__(robot, DiffDrivePhysics(), profile)

    def succeeded(self, terminal: bool, timeout: bool) -> bool:  # noqa: ARG002
        """Whether the goal was reached."""
        return terminal and not self.collided

    def command_message(self, stamp: int, action: list[float]) -> Message:  # noqa: ARG002
        """Return a Twist of forward speed [m/s] and turning rate [rad/s]."""
        return messages.twist(*action)

    def _place(self, rng: np.random.Generator) -> World:
        world = generate_world(rng)
        self._physics.reset(world)
        return world

    def _message(self, topic: str, now: int) -> Message:
        if topic == ODOMETRY:
            return self._odometry(now)
        if topic == SCAN:
            return self._scan(now)
        return messages.boolean(self.collided) if topic == BUMPER else self._goal(now)

    def _odometry(self, now: int) -> Message:
        body = self.body
        noise = self._rng.normal(0.0, _VELOCITY_NOISE, 3).tolist()
        velocity = (body.forward + noise[0], body.sideways + noise[1], body.turning + noise[2])
        return messages.odometry(now, (body.x, body.y, body.yaw), velocity)

    def _scan(self, now: int) -> Message:
        body = self.body
        ranges = ray_distances(
            np.array([body.x, body.y]), BEAM_ANGLES + body.yaw, self.world.obstacles
        )
        return messages.laser_scan(now, self._as_read(ranges, BEAM_ANGLES), 20)

    def _goal(self, now: int) -> Message:
        body = self.body
        east, north = self.world.goal[0] - body.x, self.world.goal[1] - body.y
        cos, sin = np.cos(body.yaw), np.sin(body.yaw)
        noise = self._rng.normal(0.0, _GOAL_NOISE, 2)
        x, y = cos * east + sin * north, cos * north - sin * east
        return messages.pose(now, "base_link", float(x + noise[0]), float(y + noise[1]))
