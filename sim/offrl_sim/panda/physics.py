"""The Panda arm of pybullet_data on a table, and the servo that moves its hand.

The servo takes a velocity of the hand, as MoveIt Servo does, and keeps the hand pointing down:
resolved-rate control by damped least squares (S. R. Buss, "Introduction to Inverse Kinematics with
Jacobian Transpose, Pseudoinverse and Damped Least Squares Methods", 2009, section 6), with the
spare degree of freedom drawn to the home posture. PyBullet's own inverse kinematics is not used: it
starts from its last answer, so that an episode would depend on the one before.
"""

import math
from pathlib import Path

import numpy as np

from offrl_sim.physics import STEPS_PER_SECOND, Body, Floats, Physics

HOME = (0.0, -math.pi / 4.0, 0.0, -0.75 * math.pi, 0.0, math.pi / 2.0, math.pi / 4.0)
"""Angles of the joints in the posture "ready" [rad]."""
JOINTS = tuple(f"panda_joint{number}" for number in range(1, 8))
"""From the base to the flange."""
FINGERS = ("panda_finger_joint1", "panda_finger_joint2")
OPEN = 0.04
"""Where the fingers stay [m]."""
CHAIN = (*range(8), 11)
"""Links from the base to the point between the fingertips."""
_HAND = CHAIN[-1]
_SERVO_RATE = 120.0  # [Hz]
_STRIDE = round(STEPS_PER_SECOND / _SERVO_RATE)
_TORQUES = np.array([87.0] * 4 + [12.0] * 3)  # [N m] as in the URDF
_SPEEDS = np.array([2.175] * 4 + [2.61] * 3)  # [rad/s]
_FINGER_FORCE = 20.0  # [N]
_RIDGE = 0.02**2 * np.eye(6)  # the damping
_HOME = np.array(HOME)
_STILL = [0.0] * (len(JOINTS) + len(FINGERS))
_PULL = 4.0  # [1/s] of the errors in the hand's place and orientation
_LEASH = 0.01  # [m] between the hand and where it should be by now, at most
_HOMEWARD = 0.5  # [1/s] of the distance to the home posture


class PandaPhysics(Physics):
    """An arm that is bolted to the table."""

    def reset(self, joints: Floats) -> None:
        """Put the arm into a posture (7,) [rad], at rest."""
        self._restore()
        for index, angle in zip(self._joints, joints.tolist(), strict=True):
            self._call("resetJointState", self._robot, index, angle)
        self.drive(0.0, 0.0, 0.0)
        body = self.body()
        self._place = np.array([body.x, body.y, body.z])
        self._steps = 0

    def drive(self, *command: float) -> None:
        """Set the velocity x, y, z at which the servo moves the hand [m/s]."""
        self._wanted = command

    def step(self) -> bool:
        """Advance by one step; return whether the arm touches the table."""
        if self._steps % _STRIDE == 0:
            self._servo()
        self._steps += 1
        self._call("stepSimulation")
        touching = self._call("getContactPoints", bodyA=self._robot, bodyB=self._ground)
        return any(each[8] <= 0.0 for each in touching)

    def body(self) -> Body:
        """Return where the hand is and how it moves; its heading stays 0."""
        state = self._call("getLinkState", self._robot, _HAND, 1, 1)
        (x, y, z), (forward, sideways, _) = state[4], state[6]
        return Body(x, y, 0.0, forward, sideways, 0.0, z)

    def joint_states(self) -> tuple[Floats, Floats]:
        """Return angle and speed of each joint, the fingers last (9,), (9,) [rad, m], [/s]."""
        states = self._call("getJointStates", self._robot, (*self._joints, *self._fingers))
        return np.array([state[0] for state in states]), np.array([state[1] for state in states])

    def in_hand(self, place: Floats) -> Floats:
        """Return a place (3,) of the world as the hand sees it, in its own frame [m]."""
        state = self._call("getLinkState", self._robot, _HAND, 0, 1)
        turn = np.array(self._bullet.getMatrixFromQuaternion(state[5])).reshape(3, 3)
        seen: Floats = (place - np.array(state[4])) @ turn
        return seen

    def push(self, force: tuple[float, float], torque: float) -> None:  # noqa: ARG002
        """Push the hand during the next step, in the world's frame [N]."""
        place = self._call("getLinkState", self._robot, _HAND)[4]
        frame = self._bullet.WORLD_FRAME
        self._call("applyExternalForce", self._robot, _HAND, (*force, 0.0), place, frame)

    def _build(self) -> int:
        import pybullet_data  # comes with PyBullet

        urdf = Path(pybullet_data.__file__).parent / "franka_panda" / "panda.urdf"
        robot: int = self._call("loadURDF", str(urdf), useFixedBase=True)
        infos = [
            self._call("getJointInfo", robot, index)
            for index in range(self._call("getNumJoints", robot))
        ]
        found = {info[1].decode(): info[0] for info in infos}
        self._joints = [found[name] for name in JOINTS]
        self._fingers = [found[name] for name in FINGERS]
        for index in self._fingers:
            self._call("resetJointState", robot, index, OPEN)
            self._call(
                "setJointMotorControl2",
                robot,
                index,
                self._bullet.POSITION_CONTROL,
                targetPosition=OPEN,
                force=_FINGER_FORCE,
            )
        return robot

    def _servo(self) -> None:
        """Set the joints' speeds for the hand's velocity; all slow down where one is too fast."""
        angles, _ = self.joint_states()
        linear, angular = self._call(
            "calculateJacobian",
            self._robot,
            _HAND,
            (0.0, 0.0, 0.0),
            angles.tolist(),
            _STILL,
            _STILL,
        )
        jacobian = np.array(linear + angular)[:, : len(JOINTS)]  # (6, 7)
        homeward = _HOMEWARD * (_HOME - angles[: len(JOINTS)])
        velocity = np.array(self._wanted)
        self._place += velocity / _SERVO_RATE
        twist = np.concatenate([velocity, np.zeros(3)]) + _PULL * self._error()
        squared = jacobian @ jacobian.T + _RIDGE
        speeds = homeward + jacobian.T @ np.linalg.solve(squared, twist - jacobian @ homeward)
        speeds /= max(float((np.abs(speeds) / _SPEEDS).max()), 1.0)
        self._call(
            "setJointMotorControlArray",
            self._robot,
            self._joints,
            self._bullet.VELOCITY_CONTROL,
            targetVelocities=speeds.tolist(),
            forces=(self._motor * _TORQUES).tolist(),
        )

    def _error(self) -> Floats:
        """Return by how far the hand is off (6,): its place [m] and its turn [rad].

        The place lags by the leash at most, so that an arm that cannot follow does not rush later.
        The turn is half the sum of the cross products of the hand's axes with those of
        diag(1, -1, -1), in which it points down.
        """
        state = self._call("getLinkState", self._robot, _HAND, 0, 1)
        place, m = np.array(state[4]), self._bullet.getMatrixFromQuaternion(state[5])
        lag = self._place - place
        lag *= min(1.0, _LEASH / max(float(np.linalg.norm(lag)), 1e-9))
        self._place = place + lag
        turn = [(m[7] - m[5]) / 2.0, (m[6] + m[2]) / 2.0, -(m[3] + m[1]) / 2.0]
        return np.concatenate([lag, turn])
