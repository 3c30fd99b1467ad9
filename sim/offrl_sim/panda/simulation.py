"""The sensors, the command and the end of `PandaReach`."""

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from offrl_contract.robot import Robot

from offrl_sim import messages
from offrl_sim.messages import GOAL, HAND, JOINTS, SERVO, Message
from offrl_sim.panda.physics import FINGERS, HOME, PandaPhysics
from offrl_sim.panda.physics import JOINTS as JOINT_NAMES
from offrl_sim.profile import SimProfile
from offrl_sim.simulation import Floats, Sensor, Simulation

LOWEST, HIGHEST = np.array([0.3, -0.3, 0.1]), np.array([0.65, 0.3, 0.55])
"""Corners of the box in which goals lie, in the frame of the arm's base [m]."""
NEAREST = 0.2
"""Least distance from the hand to the goal at the start [m]."""
BASE, TIP = "panda_link0", "panda_hand_tcp"
"""Frames of the arm's base, and of the point between its fingertips."""
_START_SPREAD = 0.15  # [rad] round the home posture
_LATENCY = (0.5e6, 2.0e6)  # [ns]
_GOAL_LATENCY = 5_500_000  # [ns] a camera needs longer than encoders, and a steady time
_LOSS = 0.01
_ANGLE_NOISE = 0.0005  # [rad]
_SPEED_NOISE = 0.005  # [rad/s]
_HAND_NOISE = 0.0005  # [m]
_GOAL_NOISE = 0.002  # [m]


@dataclass(frozen=True)
class Reach:
    """Where the arm starts, and where its hand is to go."""

    joints: Floats
    """(7,) [rad]"""
    goal: Floats
    """(3,) x, y, z [m]"""

    def as_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return {
            "joints": np.round(self.joints, 3).tolist(),
            "goal": np.round(self.goal, 3).tolist(),
        }


class Panda(Simulation):
    """Brings the hand to the goal. An arm that touches the table stops, as its own reflex does."""

    types: ClassVar = {
        JOINTS: "sensor_msgs/msg/JointState",
        HAND: "geometry_msgs/msg/PointStamped",
        GOAL: "geometry_msgs/msg/PointStamped",
        SERVO: "geometry_msgs/msg/TwistStamped",
    }
    command_topic = SERVO
    command_fields = ("twist.linear.x", "twist.linear.y", "twist.linear.z")
    sensors = (
        Sensor(JOINTS, 120, _LATENCY, _LOSS),
        Sensor(HAND, 120, _LATENCY, _LOSS),
        Sensor(GOAL, 60, (_GOAL_LATENCY, _GOAL_LATENCY), _LOSS),
    )
    tick_latency = _GOAL_LATENCY
    time_limit = 4.0
    shove = (80.0, 0.0)
    dirt = 0.0

    world: Reach
    _physics: PandaPhysics

    def __init__(self, robot: Robot, profile: SimProfile) -> None:
        """Build the bodies. Raises InputError where PyBullet is not installed."""
        super().__init__(robot, PandaPhysics(), profile)

    def succeeded(self, terminal: bool, timeout: bool) -> bool:  # noqa: ARG002
        """Whether the goal was reached."""
        return terminal

    def command_message(self, stamp: int, action: list[float]) -> Message:
        """Return a velocity of the hand [m/s] as a TwistStamped."""
        return messages.twist_stamped(stamp, BASE, action)

    def _place(self, rng: np.random.Generator) -> Reach:
        joints = np.array(HOME) + rng.uniform(-_START_SPREAD, _START_SPREAD, len(HOME))
        self._physics.reset(joints)
        body = self._physics.body()
        while True:
            goal = rng.uniform(LOWEST, HIGHEST)
            if np.linalg.norm(goal - [body.x, body.y, body.z]) >= NEAREST:
                return Reach(joints, goal)

    def _message(self, topic: str, now: int) -> Message:
        if topic == JOINTS:
            return self._joint_states(now)
        if topic == HAND:
            place = np.array([self.body.x, self.body.y, self.body.z])
            return messages.point(now, BASE, place + self._rng.normal(0.0, _HAND_NOISE, 3))
        seen = self._physics.in_hand(self.world.goal)
        return messages.point(now, TIP, seen + self._rng.normal(0.0, _GOAL_NOISE, 3))

    def _joint_states(self, now: int) -> Message:
        angles, speeds = self._physics.joint_states()
        angles += self._rng.normal(0.0, _ANGLE_NOISE, len(angles))
        speeds += self._rng.normal(0.0, _SPEED_NOISE, len(speeds))
        names = (*JOINT_NAMES, *FINGERS)
        return messages.joint_states(now, dict(zip(names, angles.tolist(), strict=True)), speeds)
