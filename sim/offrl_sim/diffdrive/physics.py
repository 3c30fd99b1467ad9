"""A differential-drive robot among obstacles, in PyBullet."""

import numpy as np

from offrl_sim.diffdrive.world import ARENA, RADII, ROBOT_RADIUS, World
from offrl_sim.physics import DrivingPhysics

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
RAY_HEIGHT = 0.75 * _WALL_HEIGHT
"""A height above the robot and below the top of walls and obstacles [m]."""
_PARKING = 100.0  # [m] from the origin: out of reach of robot and lidar


class DiffDrivePhysics(DrivingPhysics):
    """One robot, four walls and a pool of obstacles in a PyBullet client of its own."""

    def reset(self, world: World) -> None:
        """Put robot and obstacles where the world says, everything at rest."""
        self._restore()
        self.place(world)
        x, y, yaw = world.start
        self._move(self._robot, (x, y, WHEEL_RADIUS), yaw)
        self.drive(0.0, 0.0)

    def place(self, world: World) -> None:
        """Put the obstacles where the world says."""
        for (x, y, _), slot in zip(world.obstacles.tolist(), world.slots, strict=True):
            self._move(self._obstacles[slot], (x, y, _WALL_HEIGHT / 2.0), 0.0)

    def launch(self, speed: float, turn: float) -> None:
        """Put the base in the middle of the empty arena, driving at a speed [m/s], turn [rad/s]."""
        self._restore()
        self._move(self._robot, (0.0, 0.0, WHEEL_RADIUS), 0.0)
        self._set_in_motion(speed, turn, dict(enumerate(_wheel_rates(speed, turn))))
        self.drive(speed, turn)

    def drive(self, *command: float) -> None:
        """Set the speeds that the wheel motors hold: forward [m/s], turning [rad/s]."""
        forward, turning = command
        self._call(
            "setJointMotorControlArray",
            self._robot,
            [0, 1],
            self._bullet.VELOCITY_CONTROL,
            targetVelocities=_wheel_rates(forward, turning),
            forces=[_WHEEL_TORQUE * self._motor] * 2,
        )

    def _build(self) -> int:
        self._build_arena()
        self._obstacles = [self._build_obstacle(radius, slot) for slot, radius in enumerate(RADII)]
        return self._build_robot()

    def _build_arena(self) -> None:
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


def _wheel_rates(forward: float, turning: float) -> list[float]:
    """Return the rates of the right and the left wheel [rad/s]."""
    difference = turning * TRACK / 2.0
    return [(forward + difference) / WHEEL_RADIUS, (forward - difference) / WHEEL_RADIUS]


def _lift() -> float:
    """Height of the body's middle above the wheel axle [m]."""
    return _GROUND_CLEARANCE + _BODY_HEIGHT / 2.0 - WHEEL_RADIUS
