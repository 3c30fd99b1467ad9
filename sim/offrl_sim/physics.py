"""A PyBullet client of a robot's own, without a window.

The bodies are built once. Each reset restores the saved state and moves them, so that an episode
depends on its world and its commands alone, bit for bit.
"""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from offrl_contract import InputError

Floats = NDArray[np.float64]

STEPS_PER_SECOND = 240
"""Physics steps per second."""
_LIFT = 10.0  # [m]


@dataclass(frozen=True)
class Body:
    """Motion of the robot's centre, in the world's frame."""

    x: float
    y: float
    yaw: float
    """[rad]"""
    forward: float
    """Speed along the robot's own x [m/s]."""
    sideways: float
    """Speed along the robot's own y [m/s]."""
    turning: float
    """Yaw rate [rad/s]."""
    z: float = 0.0
    """Of a hand; a wheeled robot stays on the ground."""


def _import_pybullet() -> Any:
    """Import PyBullet, or say how to get it. Raises InputError."""
    try:
        import pybullet
    except ModuleNotFoundError as error:
        raise InputError(
            "the simulator needs PyBullet: pip install 'offrl[sim]' (a wheel on Python 3.11; "
            "built from source on 3.12, which needs g++ and about 10 minutes)"
        ) from error
    return pybullet


class Physics(ABC):
    """One robot on level ground. A task says what is built, and how its robot is driven."""

    def __init__(self) -> None:
        """Build the bodies. Raises InputError where PyBullet is not installed."""
        self._bullet = _import_pybullet()
        self._client: int = self._bullet.connect(self._bullet.DIRECT)
        self._call(
            "setPhysicsEngineParameter",
            fixedTimeStep=1.0 / STEPS_PER_SECOND,
            numSolverIterations=10,
            deterministicOverlappingPairs=1,
        )
        self._call("setGravity", 0.0, 0.0, -9.81)
        self._ground: int = self._call("createMultiBody", 0.0, self._shape("GEOM_PLANE"))
        self._call("changeDynamics", self._ground, -1, lateralFriction=1.0)
        self._robot = self._build()
        links = range(-1, self._call("getNumJoints", self._robot))
        self._links = {link: self._call("getDynamicsInfo", self._robot, link) for link in links}
        self._varied = (1.0, 1.0)
        self._motor = 1.0
        self._saved: int = self._call("saveState")

    @abstractmethod
    def _build(self) -> int:
        """Build the world's bodies and the robot; return the robot's id."""

    @abstractmethod
    def drive(self, *command: float) -> None:
        """Set what the motors hold, a command in the order of the robot file's action."""

    def close(self) -> None:
        """Disconnect from PyBullet; further calls do nothing."""
        if self._client >= 0:
            self._bullet.disconnect(physicsClientId=self._client)
            self._client = -1

    def vary(self, mass: float, friction: float, motor: float) -> None:
        """Set factors of the robot's mass and motor torque, and the ground's friction."""
        self._motor = motor
        if (mass, friction) == self._varied:
            return
        self._varied = (mass, friction)
        for link, (own, _, inertia, *_) in self._links.items():
            scaled = [mass * each for each in inertia]
            self._call(
                "changeDynamics", self._robot, link, mass=mass * own, localInertiaDiagonal=scaled
            )
        self._call("changeDynamics", self._ground, -1, lateralFriction=friction)

    def push(self, force: tuple[float, float], torque: float) -> None:
        """Push the body during the next step: force in its own frame [N], torque up [N m]."""
        frame = self._bullet.LINK_FRAME
        self._call("applyExternalForce", self._robot, -1, (*force, 0.0), (0.0, 0.0, 0.0), frame)
        self._call("applyExternalTorque", self._robot, -1, (0.0, 0.0, torque), frame)

    def step(self) -> bool:
        """Advance by one step; return whether the body touches anything but the ground."""
        self._bullet.stepSimulation(physicsClientId=self._client)
        touching = self._bullet.getContactPoints(
            bodyA=self._robot, linkIndexA=-1, physicsClientId=self._client
        )
        return any(each[2] != self._ground and each[8] <= 0.0 for each in touching)

    def body(self) -> Body:
        """Return where the robot is and how it moves."""
        (x, y, _), (qx, qy, qz, qw) = self._call("getBasePositionAndOrientation", self._robot)
        (vx, vy, _), (_, _, turning) = self._call("getBaseVelocity", self._robot)
        yaw = math.atan2(2.0 * (qw * qz + qx * qy), 1.0 - 2.0 * (qy * qy + qz * qz))
        cos, sin = math.cos(yaw), math.sin(yaw)
        return Body(x, y, yaw, cos * vx + sin * vy, cos * vy - sin * vx, turning)

    def links(self) -> Floats:
        """Return where the robot's links are (k, 3) [m]."""
        states = self._call("getLinkStates", self._robot, list(self._links)[1:])
        return np.array([state[4] for state in states])

    def ray_distances(
        self, position: Floats, angles: Floats, length: float, height: float
    ) -> Floats:
        """Return PyBullet's own ray distances (n,) [m], `length` where nothing is hit.

        The rays start at `position` (2,), at a height above the robot, which they do not see.
        """
        starts = [(*position.tolist(), height)] * len(angles)
        reach = position + length * np.stack([np.cos(angles), np.sin(angles)], axis=1)
        ends = [(x, y, height) for x, y in reach.tolist()]
        hits = self._call("rayTestBatch", starts, ends)
        return np.array([hit[2] * length for hit in hits])

    def _restore(self) -> None:
        """Go back to where everything was built.

        The saved state has no contacts, and restoring it does not clear those of now: they would
        start the solver of a robot that is put back to nearly the same place. So it is lifted off
        the ground first.
        """
        self._move(self._robot, (0.0, 0.0, _LIFT), 0.0)
        self._call("performCollisionDetection")
        self._call("restoreState", stateId=self._saved)

    def _call(self, function: str, *arguments: Any, **options: Any) -> Any:
        return getattr(self._bullet, function)(*arguments, **options, physicsClientId=self._client)

    def _move(self, body: int, position: tuple[float, float, float], yaw: float) -> None:
        turn = self._bullet.getQuaternionFromEuler((0.0, 0.0, yaw))
        self._call("resetBasePositionAndOrientation", body, position, turn)

    def _shape(self, kind: str, **options: Any) -> int:
        shape: int = self._call("createCollisionShape", getattr(self._bullet, kind), **options)
        return shape


class DrivingPhysics(Physics):
    """A base on wheels, which takes a forward speed and something that makes it turn."""

    acceleration: ClassVar[float] = math.inf
    """What the driving motors allow [m/s^2]."""
    wheelbase: ClassVar[float] = 0.0
    """Distance between the axles of a car [m]; 0 where wheels turn the base by their speeds."""

    @abstractmethod
    def launch(self, speed: float, turn: float) -> None:
        """Put the base on open ground at the origin, driving at a speed [m/s].

        `turn` is what the motors hold: a turning rate [rad/s] or a steering angle [rad].
        """

    def _set_in_motion(self, speed: float, turning: float, wheels: dict[int, float]) -> None:
        """Set speed [m/s] and yaw rate [rad/s] of the body, and the rate of each wheel [rad/s]."""
        self._call("resetBaseVelocity", self._robot, (speed, 0.0, 0.0), (0.0, 0.0, turning))
        for joint, rate in wheels.items():
            self._call("resetJointState", self._robot, joint, 0.0, rate)
