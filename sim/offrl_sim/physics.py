"""A differential-drive robot among obstacles in PyBullet, without a window.

The bodies are built once. Each reset restores the saved state and moves them, so that an episode
depends on its world and its commands alone, bit for bit.
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from offrl_contract import InputError

from offrl_sim.world import ARENA, RADII, ROBOT_RADIUS, World

Floats = NDArray[np.float64]

STEPS_PER_SECOND = 240
"""Physics steps per second."""
WHEEL_RADIUS = 0.07
"""[m]"""
TRACK = 0.32
"""Distance between the wheels [m]."""
_BODY_MASS = 8.0
_BODY_HEIGHT = 0.2
_GROUND_CLEARANCE = 0.03
_WHEEL_MASS = 0.4
_CASTER_RADIUS = 0.02
_CASTER_REACH = 0.16  # [m] ahead of and behind the axle
_CASTER_GAP = 0.002  # [m] above the ground: the wheels carry the robot
_WHEEL_TORQUE = 2.5  # [N m]
_WALL_THICKNESS = 0.2
_WALL_HEIGHT = 0.8
_PARKING = 100.0  # [m] from the origin: out of reach of robot and lidar


@dataclass(frozen=True)
class Body:
    """Motion of the robot's centre, in the arena's frame."""

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


class Physics:
    """One robot, four walls and a pool of obstacles in a PyBullet client of its own."""

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
        self._build_arena()
        self._obstacles = [self._build_obstacle(radius, slot) for slot, radius in enumerate(RADII)]
        self._robot = self._build_robot()
        self._saved: int = self._call("saveState")

    def close(self) -> None:
        """Disconnect from PyBullet; further calls do nothing."""
        if self._client >= 0:
            self._bullet.disconnect(physicsClientId=self._client)
            self._client = -1

    def reset(self, world: World) -> None:
        """Put robot and obstacles where the world says, everything at rest."""
        self._call("restoreState", stateId=self._saved)
        for (x, y, _), slot in zip(world.obstacles.tolist(), world.slots, strict=True):
            self._move(self._obstacles[slot], (x, y, _WALL_HEIGHT / 2.0), 0.0)
        x, y, yaw = world.start
        self._move(self._robot, (x, y, WHEEL_RADIUS), yaw)
        self.drive(0.0, 0.0)

    def drive(self, forward: float, turning: float) -> None:
        """Set the speeds that the wheel motors hold: forward [m/s], turning [rad/s]."""
        difference = turning * TRACK / 2.0
        self._call(
            "setJointMotorControlArray",
            self._robot,
            [0, 1],
            self._bullet.VELOCITY_CONTROL,
            targetVelocities=[
                (forward + difference) / WHEEL_RADIUS,
                (forward - difference) / WHEEL_RADIUS,
            ],
            forces=[_WHEEL_TORQUE, _WHEEL_TORQUE],
        )

    def push(self, force: tuple[float, float], torque: float) -> None:
        """Push the body during the next step: force in its own frame [N], torque up [N m]."""
        frame = self._bullet.LINK_FRAME
        self._call("applyExternalForce", self._robot, -1, (*force, 0.0), (0.0, 0.0, 0.0), frame)
        self._call("applyExternalTorque", self._robot, -1, (0.0, 0.0, torque), frame)

    def step(self) -> bool:
        """Advance by one step; return whether the body touches a wall or an obstacle."""
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

    def ray_distances(self, position: Floats, angles: Floats, length: float) -> Floats:
        """Return PyBullet's own ray distances (n,) [m], `length` where nothing is hit.

        The rays start at `position` (2,) above the robot, which they do not see.
        """
        height = _WALL_HEIGHT * 0.75
        starts = [(*position.tolist(), height)] * len(angles)
        reach = position + length * np.stack([np.cos(angles), np.sin(angles)], axis=1)
        ends = [(x, y, height) for x, y in reach.tolist()]
        hits = self._call("rayTestBatch", starts, ends)
        return np.array([hit[2] * length for hit in hits])

    def _call(self, function: str, *arguments: Any, **options: Any) -> Any:
        return getattr(self._bullet, function)(*arguments, **options, physicsClientId=self._client)

    def _move(self, body: int, position: tuple[float, float, float], yaw: float) -> None:
        turn = self._bullet.getQuaternionFromEuler((0.0, 0.0, yaw))
        self._call("resetBasePositionAndOrientation", body, position, turn)

    def _shape(self, kind: str, **options: Any) -> int:
        shape: int = self._call("createCollisionShape", getattr(self._bullet, kind), **options)
        return shape

    def _build_arena(self) -> None:
        self._ground: int = self._call("createMultiBody", 0.0, self._shape("GEOM_PLANE"))
        self._call("changeDynamics", self._ground, -1, lateralFriction=1.0)
        half = ARENA / 2.0 + _WALL_THICKNESS
        middle = ARENA / 2.0 + _WALL_THICKNESS / 2.0
        for axis, sign in ((0, -1.0), (0, 1.0), (1, -1.0), (1, 1.0)):
            extents = [half, half, _WALL_HEIGHT / 2.0]
            extents[axis] = _WALL_THICKNESS / 2.0
            position = [0.0, 0.0, _WALL_HEIGHT / 2.0]
            position[axis] = sign * middle
            wall = self._shape("GEOM_BOX", halfExtents=extents)
            self._call("createMultiBody", 0.0, wall, basePosition=position)

    def _build_obstacle(self, radius: float, slot: int) -> int:
        shape = self._shape("GEOM_CYLINDER", radius=radius, height=_WALL_HEIGHT)
        parked = (_PARKING + 2.0 * slot, 0.0, _WALL_HEIGHT / 2.0)
        obstacle: int = self._call("createMultiBody", 0.0, shape, basePosition=parked)
        return obstacle

    def _build_robot(self) -> int:
        """A round body with two sliding casters, on two wheels that touch at a point, as spheres.

        The casters belong to the body: links of their own would double the time of a step.
        """
        cylinder, sphere = self._bullet.GEOM_CYLINDER, self._bullet.GEOM_SPHERE
        caster_height = _CASTER_RADIUS + _CASTER_GAP - WHEEL_RADIUS
        body = self._call(
            "createCollisionShapeArray",
            shapeTypes=[cylinder, sphere, sphere],
            radii=[ROBOT_RADIUS, _CASTER_RADIUS, _CASTER_RADIUS],
            lengths=[_BODY_HEIGHT, 0.0, 0.0],
            collisionFramePositions=[
                (0.0, 0.0, _lift()),
                (_CASTER_REACH, 0.0, caster_height),
                (-_CASTER_REACH, 0.0, caster_height),
            ],
        )
        wheel = self._shape("GEOM_SPHERE", radius=WHEEL_RADIUS)
        wheel_turn = self._bullet.getQuaternionFromEuler((-np.pi / 2.0, 0.0, 0.0))
        robot: int = self._call(
            "createMultiBody",
            _BODY_MASS,
            body,
            basePosition=(0.0, 0.0, WHEEL_RADIUS),
            linkMasses=[_WHEEL_MASS, _WHEEL_MASS],
            linkCollisionShapeIndices=[wheel, wheel],
            linkVisualShapeIndices=[-1, -1],
            linkPositions=[(0.0, -TRACK / 2.0, 0.0), (0.0, TRACK / 2.0, 0.0)],
            linkOrientations=[wheel_turn, wheel_turn],
            linkInertialFramePositions=[(0.0, 0.0, 0.0)] * 2,
            linkInertialFrameOrientations=[(0.0, 0.0, 0.0, 1.0)] * 2,
            linkParentIndices=[0, 0],
            linkJointTypes=[self._bullet.JOINT_REVOLUTE] * 2,
            linkJointAxis=[(0.0, 0.0, 1.0)] * 2,
        )
        for link, friction in ((-1, 0.02), (0, 1.0), (1, 1.0)):
            self._call("changeDynamics", robot, link, lateralFriction=friction)
        return robot


def _lift() -> float:
    """Height of the body's middle above the wheel axle [m]."""
    return _GROUND_CLEARANCE + _BODY_HEIGHT / 2.0 - WHEEL_RADIUS
