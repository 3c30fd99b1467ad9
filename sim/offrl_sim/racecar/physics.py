"""A car of 1:10 scale with Ackermann steering and four driven wheels, in PyBullet.

Generated, because the two cars in pybullet_data 3.2.7 do not serve: racecar.urdf gives its chassis
of 4 kg an inertia of 2.7e-6 kg m^2, and racecar_differential.urdf has 20 links. Size, mass and
steering are those of the F1TENTH car (f1tenth_gym, f110_env.py: wheelbase 0.330 m, 3.74 kg,
yaw inertia 0.0471 kg m^2, centre of gravity at 0.074 m).
"""

import math
from dataclasses import dataclass

from offrl_sim.physics import DrivingPhysics

WHEELBASE = 0.33
"""Distance between the axles; the centre lies midway [m]."""
WIDTH = 0.31
"""Over the wheels [m]."""
_TRACK = 0.22  # [m] between the middles of left and right wheels
_WHEEL_RADIUS = 0.05
_CENTRE_HEIGHT = 0.074
_CHASSIS = (0.16, 0.05, 0.03)  # [m] half extents; clear of the wheels
_CHASSIS_MASS = 3.14
_HINGE_MASS = 0.1
_LINK_INERTIA = 1e-4  # [kg m^2] of a solid sphere with the mass and radius of a wheel
_WHEEL_MASS = 0.1
_WHEEL_TORQUE = 0.14  # [N m] on each wheel: 3 m/s^2 in all
_ACCELERATION = (
    4.0
    * (_WHEEL_TORQUE / _WHEEL_RADIUS)
    / (_CHASSIS_MASS + 2.0 * _HINGE_MASS + 4.0 * (_WHEEL_MASS + _LINK_INERTIA / _WHEEL_RADIUS**2))
)
_TYRE_FRICTION = 0.7  # on ground of friction 1
_SERVO_TORQUE = 2.0  # [N m] on each hinge
_SERVO_GAIN = 0.5  # of the error, corrected in each step
# PyBullet numbers links depth first: each hinge is followed by its wheel.
_HINGES = (0, 2)  # front left, front right
_WHEELS = (1, 3, 4, 5)  # front left, front right, rear left, rear right


@dataclass(frozen=True)
class _Geometry:
    """How the wheels stand and turn at a steering angle."""

    angles: list[float]
    """Of the hinges, front left and right [rad]."""
    shares: list[float]
    """Speed of each wheel, front left and right, rear left and right, per speed of the car."""


def _geometry(steering: float) -> _Geometry:
    bend = math.tan(steering) / WHEELBASE  # [1/m] curvature of the rear axle's path
    sides = [1.0 - bend * y for y in (_TRACK / 2.0, -_TRACK / 2.0)]  # left, right
    angles = [math.atan(WHEELBASE * bend / side) for side in sides]
    front = [math.hypot(side, WHEELBASE * bend) for side in sides]
    return _Geometry(angles, [*front, *sides])


class RacecarPhysics(DrivingPhysics):
    """The car alone on level ground: the track's walls are checked by the simulation."""

    acceleration = _ACCELERATION
    wheelbase = WHEELBASE

    def reset(self, start: tuple[float, float, float]) -> None:
        """Put the car at x [m], y [m], yaw [rad], at rest with straight wheels."""
        self._restore()
        x, y, yaw = start
        self._move(self._robot, (x, y, _CENTRE_HEIGHT), yaw)
        self.drive(0.0, 0.0)

    def launch(self, speed: float, turn: float) -> None:
        """Put the car on open ground, driving at a speed [m/s] with its wheels turned [rad]."""
        self._restore()
        self._move(self._robot, (0.0, 0.0, _CENTRE_HEIGHT), 0.0)
        geometry = _geometry(turn)
        rates = [speed * share / _WHEEL_RADIUS for share in geometry.shares]
        yaw_rate = speed * math.tan(turn) / WHEELBASE
        self._set_in_motion(speed, yaw_rate, dict(zip(_WHEELS, rates, strict=True)))
        for hinge, angle in zip(_HINGES, geometry.angles, strict=True):
            self._call("resetJointState", self._robot, hinge, angle)
        self.drive(turn, speed)

    def drive(self, *command: float) -> None:
        """Set what servo and motors hold: steering angle [rad], speed [m/s].

        The angle is that of a wheel in the middle of the front axle, the speed that of the middle
        of the rear axle (as in AckermannDrive). Each wheel turns about the same centre, at the
        speed of its place.
        """
        steering, speed = command
        geometry = _geometry(steering)
        self._call(
            "setJointMotorControlArray",
            self._robot,
            _HINGES,
            self._bullet.POSITION_CONTROL,
            targetPositions=geometry.angles,
            forces=[_SERVO_TORQUE] * 2,
            positionGains=[_SERVO_GAIN] * 2,
        )
        self._call(
            "setJointMotorControlArray",
            self._robot,
            _WHEELS,
            self._bullet.VELOCITY_CONTROL,
            targetVelocities=[speed * share / _WHEEL_RADIUS for share in geometry.shares],
            forces=[_WHEEL_TORQUE * self._motor] * 4,
        )

    def steering(self) -> float:
        """Return the angle of a wheel in the middle of the front axle [rad]."""
        left, right = (
            math.tan(state[0]) for state in self._call("getJointStates", self._robot, _HINGES)
        )
        # cot of the middle is the mean of both; each is WHEELBASE / (radius -+ half a track)
        mean = 2.0 * left * right / (left + right) if left * right > 0.0 else (left + right) / 2.0
        return math.atan(mean)

    def _build(self) -> int:
        """A box on four spheres, which touch the ground at a point; the front ones on hinges."""
        wheel = self._shape("GEOM_SPHERE", radius=_WHEEL_RADIUS)
        axle = _WHEEL_RADIUS - _CENTRE_HEIGHT
        front, rear, side = WHEELBASE / 2.0, -WHEELBASE / 2.0, _TRACK / 2.0
        up, spin = (0.0, 0.0, 1.0), (0.0, 1.0, 0.0)
        robot: int = self._call(
            "createMultiBody",
            _CHASSIS_MASS,
            self._shape("GEOM_BOX", halfExtents=_CHASSIS),
            basePosition=(0.0, 0.0, _CENTRE_HEIGHT),
            linkMasses=[_HINGE_MASS, _WHEEL_MASS] * 2 + [_WHEEL_MASS] * 2,
            linkCollisionShapeIndices=[-1, wheel] * 2 + [wheel] * 2,
            linkVisualShapeIndices=[-1] * 6,
            linkPositions=[
                (front, side, axle),
                (0.0, 0.0, 0.0),
                (front, -side, axle),
                (0.0, 0.0, 0.0),
                (rear, side, axle),
                (rear, -side, axle),
            ],
            linkOrientations=[(0.0, 0.0, 0.0, 1.0)] * 6,
            linkInertialFramePositions=[(0.0, 0.0, 0.0)] * 6,
            linkInertialFrameOrientations=[(0.0, 0.0, 0.0, 1.0)] * 6,
            linkParentIndices=[0, 1, 0, 3, 0, 0],
            linkJointTypes=[self._bullet.JOINT_REVOLUTE] * 6,
            linkJointAxis=[up, spin] * 2 + [spin] * 2,
        )
        for link in _HINGES:  # without a shape they have none
            self._call("changeDynamics", robot, link, localInertiaDiagonal=[_LINK_INERTIA] * 3)
        for link in _WHEELS:
            self._call("changeDynamics", robot, link, lateralFriction=_TYRE_FRICTION)
        return robot
