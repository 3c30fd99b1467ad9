"""The simulated robot as others see it: commands in, messages out, time in nanoseconds.

The environment, the recorder and the ROS 2 bridge all drive this one simulation.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from offrl_contract.robot import Robot

from offrl_sim import messages
from offrl_sim.lidar import ray_distances
from offrl_sim.messages import BEAM_ANGLES, BUMPER, GOAL, ODOMETRY, SCAN, SCAN_RATE, Message
from offrl_sim.physics import STEPS_PER_SECOND, Body, Physics
from offrl_sim.world import ROBOT_RADIUS, World, generate_world

Floats = NDArray[np.float64]

EPOCH = 1_750_000_000 * 10**9
"""Time at which a simulation begins unless told otherwise [ns since 1970]."""
ODOMETRY_RATE = 50
"""Odometry messages per second."""
_LATENCY = (0.5e6, 2.0e6)  # [ns] from measurement to reception
_GOAL_LATENCY = 2_200_000  # [ns] localisation needs longer than a driver, and a steady time
_RANGE_NOISE = 0.01  # [m]
_VELOCITY_NOISE = 0.01  # [m/s], [rad/s]
_GOAL_NOISE = 0.01  # [m]
_SHOVE_FORCE = 120.0  # [N]
_SHOVE_TORQUE = 6.0  # [N m]
_DIRT_SECTOR = np.pi / 3.0  # [rad] to each side of straight ahead

DisturbanceKind = Literal["shove", "dirty_lidar"]
"""`shove`: something pushes the robot sideways and spins it. `dirty_lidar`: dirt on the front of
the lidar's window reads as a surface just off the robot's body."""

DURATIONS: dict[DisturbanceKind, float] = {"shove": 1.0, "dirty_lidar": 5.0}
"""How long each disturbance lasts, where nothing else is said [s]."""


@dataclass(frozen=True)
class Disturbance:
    """A situation that is never recorded, to see what a policy does in one."""

    kind: DisturbanceKind
    """What happens."""
    start: float
    """When it begins, after the episode's first moment [s]."""
    duration: float
    """How long it lasts [s]."""

    def active(self, elapsed: float) -> bool:
        """Whether it acts at a time since the episode's first moment [s]."""
        return self.start <= elapsed < self.start + self.duration


@dataclass(frozen=True)
class Delivery:
    """A message as a subscriber receives it."""

    topic: str
    stamp: int
    """Time of reception [ns]."""
    message: Message


class Simulation:
    """Steps the physics under the command in force and gives the messages that are due."""

    def __init__(self, robot: Robot) -> None:
        """Build the bodies. Raises InputError where PyBullet is not installed."""
        self._physics = Physics()
        self._low, self._high = np.array(robot.limits).T
        self._reach = [rate / STEPS_PER_SECOND for rate in robot.max_rate]
        self._safe = list(robot.safe_action)
        self._hold = min(term.hold for term in robot.action)
        self._rng = np.random.default_rng(0)
        self.disturbance: Disturbance | None = None
        """What disturbs the robot, if anything."""
        self.reset(self._rng)

    def reset(self, rng: np.random.Generator, start: int = EPOCH) -> None:
        """Begin an episode at time `start` [ns] in a world drawn from `rng`, undisturbed."""
        self._rng = rng
        self.world: World = generate_world(rng)
        self._physics.reset(self.world)
        self.start = start
        self._step = -1
        self._wanted = self._driven = self._safe
        self._commanded_at = 0.0
        self.disturbance = None
        self.collided = False
        self.body: Body = self._physics.body()

    def close(self) -> None:
        """Release the physics client."""
        self._physics.close()

    @property
    def elapsed(self) -> float:
        """Time since the episode's first moment [s]."""
        return max(self._step, 0) / STEPS_PER_SECOND

    @property
    def goal_distance(self) -> float:
        """Distance to the goal [m]."""
        goal_x, goal_y = self.world.goal
        return float(np.hypot(goal_x - self.body.x, goal_y - self.body.y))

    def command(self, action: Floats) -> None:
        """Give a command (2,) [m/s], [rad/s]; the base follows it for the robot file's `hold`."""
        self._wanted = np.clip(action, self._low, self._high).tolist()
        self._commanded_at = self.elapsed

    @property
    def in_force(self) -> list[float]:
        """The command that the base follows (2,); the safe one after a bump or a long silence."""
        silent = self.elapsed - self._commanded_at > self._hold
        return self._safe if self.collided or silent else self._wanted

    def advance(self, until: int) -> list[Delivery]:
        """Simulate up to and including time `until` [ns]; return the messages in order."""
        deliveries: list[Delivery] = []
        while self._time(self._step + 1) <= until:
            self._step += 1
            if self._step:
                self._physics_step()
            deliveries += self._measure()
        return deliveries

    def _time(self, step: int) -> int:
        return self.start + step * 10**9 // STEPS_PER_SECOND

    def _physics_step(self) -> None:
        """Ramp the wheels to the command within the base's limits, then step."""
        target = self.in_force
        if target != self._driven:
            self._driven = [
                min(max(to, now - reach), now + reach)
                for to, now, reach in zip(target, self._driven, self._reach, strict=True)
            ]
            self._physics.drive(*self._driven)
        if self._disturbed_by("shove"):
            self._physics.push((0.0, _SHOVE_FORCE), _SHOVE_TORQUE)
        self.collided |= self._physics.step()

    def _disturbed_by(self, kind: DisturbanceKind) -> bool:
        disturbance = self.disturbance
        return (
            disturbance is not None
            and disturbance.kind == kind
            and disturbance.active(self.elapsed)
        )

    def _measure(self) -> list[Delivery]:
        """Return the messages whose turn it is at this step, in order of reception."""
        due_odometry = _due(self._step, ODOMETRY_RATE)
        due_scan = _due(self._step, SCAN_RATE)
        if not (due_odometry or due_scan):
            return []
        self.body = self._physics.body()
        now = self._time(self._step)
        found: list[Delivery] = []
        if due_odometry:
            found.append(self._deliver(ODOMETRY, now, self._odometry(now)))
        if due_scan:
            found.append(self._deliver(SCAN, now, self._scan(now)))
            found.append(self._deliver(BUMPER, now, messages.bumper(self.collided)))
            found.append(self._deliver(GOAL, now, self._goal(now)))
        return sorted(found, key=lambda delivery: delivery.stamp)

    def _deliver(self, topic: str, now: int, message: Message) -> Delivery:
        latency = _GOAL_LATENCY if topic == GOAL else int(self._rng.uniform(*_LATENCY))
        return Delivery(topic, now + latency, message)

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
        if self._disturbed_by("dirty_lidar"):
            dirty = np.abs(BEAM_ANGLES) < _DIRT_SECTOR
            ranges = np.where(dirty, ROBOT_RADIUS + 0.05, ranges)
        noisy = ranges + self._rng.normal(0.0, _RANGE_NOISE, len(ranges))
        return messages.laser_scan(now, noisy)

    def _goal(self, now: int) -> Message:
        body = self.body
        east, north = self.world.goal[0] - body.x, self.world.goal[1] - body.y
        cos, sin = np.cos(body.yaw), np.sin(body.yaw)
        noise = self._rng.normal(0.0, _GOAL_NOISE, 2)
        x, y = cos * east + sin * north, cos * north - sin * east
        return messages.goal(now, float(x + noise[0]), float(y + noise[1]))


def _due(step: int, rate: int) -> bool:
    """Whether a sensor of this rate [Hz] measures at a physics step; at step 0 all do."""
    return step * rate // STEPS_PER_SECOND != (step - 1) * rate // STEPS_PER_SECOND
