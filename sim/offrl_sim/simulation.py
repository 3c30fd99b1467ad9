"""The simulated robot as others see it: commands in, messages out, time in nanoseconds.

The environment, the recorder and the ROS 2 bridge all drive a simulation. A task says what its
robot, its world and its sensors are; clock, command, delays and disturbances are here.
"""

import heapq
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Protocol

import numpy as np
from numpy.typing import NDArray
from offrl_contract.robot import Robot

from offrl_sim.messages import Message
from offrl_sim.physics import STEPS_PER_SECOND, Body, Physics
from offrl_sim.profile import Conditions, SimProfile
from offrl_sim.response import Response, Role

Floats = NDArray[np.float64]

EPOCH = 1_750_000_000 * 10**9
"""Time at which a simulation begins unless told otherwise [ns since 1970]."""
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


@dataclass(frozen=True)
class Sensor:
    """What is measured and published at a steady rate."""

    topic: str
    rate: int
    """Messages per second."""
    latency: tuple[float, float]
    """From measurement to reception [ns], drawn for each message."""
    loss: float = 0.0
    """Share of messages that nobody receives."""


class Scenario(Protocol):
    """The world of an episode."""

    def as_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""


class Simulation(ABC):
    """Steps the physics under the command in force and gives the messages that are due."""

    types: ClassVar[Mapping[str, str]]
    """Message type by topic, of all sensors that there may be and of the command."""
    command_topic: ClassVar[str]
    """Where commands are published."""
    command_fields: ClassVar[tuple[str, ...]]
    """Fields of a command's message, in the order of the action."""
    roles: ClassVar[tuple[Role, ...]] = ()
    """What each of them sets; none where the profile's gains and lag mean nothing."""
    sensors: tuple[Sensor, ...]
    """In the order in which they measure."""
    tick_latency: ClassVar[int]
    """A tick comes this long after the beat on which the sensors measure [ns]: when the slowest
    observed message of an episode's first moment arrives, which is where `offrl convert` begins."""
    time_limit: ClassVar[float]
    """Longest episode [s]."""
    shove: ClassVar[tuple[float, float]]
    """Force sideways [N] and torque [N m] of the disturbance `shove`."""
    dirt: ClassVar[float]
    """What the lidar reads through dirt [m]."""

    def __init__(self, robot: Robot, physics: Physics, profile: SimProfile) -> None:
        """Begin an episode in some world."""
        self._physics = physics
        self._profile = profile
        self._low, self._high = np.array(robot.limits).T
        self._response = Response(self.roles, robot.max_rate, robot.safe_action)
        self._safe = list(robot.safe_action)
        self._due = [
            [sensor for sensor in self.sensors if _due(step, sensor.rate)]
            for step in range(STEPS_PER_SECOND)
        ]
        self._hold = min(term.hold for term in robot.action)
        self.disturbance: Disturbance | None = None
        """What disturbs the robot, if anything."""
        self.reset(np.random.default_rng(0))

    @abstractmethod
    def _place(self, rng: np.random.Generator) -> Scenario:
        """Draw a world from `rng` and put the robot into it, at rest."""

    @abstractmethod
    def _message(self, topic: str, now: int) -> Message:
        """Measure what a sensor's topic says at a time [ns]."""

    @abstractmethod
    def command_message(self, stamp: int, action: list[float]) -> Message:
        """Return a command (a,) as the message in which a driver sends it at a time [ns]."""

    @abstractmethod
    def succeeded(self, terminal: bool, timeout: bool) -> bool:
        """Whether an episode with this end reached what the task asks for."""

    def _look(self) -> None:  # noqa: B027  (most tasks need no more than the body)
        """Find out what the sensors need to know of `body` before they measure."""

    def reset(self, rng: np.random.Generator, start: int = EPOCH) -> None:
        """Begin an episode at time `start` [ns] in a world drawn from `rng`, undisturbed.

        The profile has random numbers of its own: it does not change the world.
        """
        self._rng = rng
        self._profile_rng = rng.spawn(1)[0]
        self.conditions: Conditions = self._profile.draw(self._profile_rng)
        self._physics.vary(self.conditions.mass, self.conditions.friction, self.conditions.motor)
        self.world = self._place(rng)
        self.start = self._now = start
        self._step = -1
        self._response.begin(self.conditions)
        self._wanted = self._heard = self._safe
        self._wanted_at = self._heard_at = 0.0
        self._commands: deque[tuple[int, list[float]]] = deque()
        self._waiting: list[tuple[int, int, Delivery]] = []
        self._sent = 0
        self._latest: dict[str, int] = {}
        self.disturbance = None
        self.collided = False
        self.body: Body = self._physics.body()

    def close(self) -> None:
        """Release the physics client."""
        self._physics.close()

    @property
    def published(self) -> dict[str, str]:
        """Message type by topic of the sensors that measure."""
        return {sensor.topic: self.types[sensor.topic] for sensor in self.sensors}

    @property
    def links(self) -> Floats:
        """Where the robot's links are (k, 3), in the world's frame [m]."""
        return self._physics.links()

    @property
    def elapsed(self) -> float:
        """Time since the episode's first moment [s]."""
        return max(self._step, 0) / STEPS_PER_SECOND

    def command(self, action: Floats) -> None:
        """Give a command (a,), in SI units; the base follows it for the robot file's `hold`."""
        self._heard = np.clip(action, self._low, self._high).tolist()
        self._heard_at = self.elapsed
        given = self.conditions
        due = self._now + self._delay(given.action_latency, given.action_jitter)
        self._commands.append((due, self._heard))

    @property
    def in_force(self) -> list[float]:
        """The last command given (a,), as a log has it; the safe one after a long silence."""
        silent = self.elapsed - self._heard_at > self._hold
        return self._safe if silent else self._heard

    def advance(self, until: int) -> list[Delivery]:
        """Simulate up to and including time `until` [ns]; return what arrives, in order."""
        while self._time(self._step + 1) <= until:
            self._step += 1
            if self._step:
                self._physics_step()
            self._measure()
        self._now = until
        arrived: list[Delivery] = []
        while self._waiting and self._waiting[0][0] <= until:
            arrived.append(heapq.heappop(self._waiting)[-1])
        return arrived

    def _time(self, step: int) -> int:
        return self.start + step * 10**9 // STEPS_PER_SECOND

    def _physics_step(self) -> None:
        """Let the motors answer the command, then step."""
        if self._response.step(self._target()):
            self._physics.drive(*self._response.motors)
        if self._disturbed_by("shove"):
            force, torque = self.shove
            self._physics.push((0.0, force), torque)
        self.collided |= self._physics.step()

    def _target(self) -> list[float]:
        """Return the command that the motors follow (a,): what has reached the base by now.

        Commands stay in order: one that is due waits for those given before it.
        """
        while self._commands and self._commands[0][0] <= self._time(self._step):
            self._wanted_at = self.elapsed
            _, self._wanted = self._commands.popleft()
        silent = self.elapsed - self._wanted_at > self._hold
        return self._safe if self.collided or silent else self._wanted

    def _disturbed_by(self, kind: DisturbanceKind) -> bool:
        disturbance = self.disturbance
        return (
            disturbance is not None
            and disturbance.kind == kind
            and disturbance.active(self.elapsed)
        )

    def _measure(self) -> None:
        """Send the messages whose turn it is at this step."""
        due = self._due[self._step % STEPS_PER_SECOND]
        if not due:
            return
        self.body = self._physics.body()
        self._look()
        now = self._time(self._step)
        for sensor in due:
            message = self._message(sensor.topic, now)
            low, high = sensor.latency
            stamp = now + (int(low) if low == high else int(self._rng.uniform(low, high)))
            if self._step:  # at the first moment the robot has stood there for long
                if sensor.loss and self._rng.random() < sensor.loss:
                    continue
                given = self.conditions
                stamp += self._delay(given.observation_latency, given.observation_jitter)
                stamp = max(stamp, self._latest.get(sensor.topic, 0))
            self._latest[sensor.topic] = stamp
            self._sent += 1
            delivery = Delivery(sensor.topic, stamp, message)
            heapq.heappush(self._waiting, (stamp, self._sent, delivery))

    def _delay(self, latency: float, jitter: float) -> int:
        """Draw a delay [ns] of a latency [s] and at most a jitter [s] more."""
        more = self._profile_rng.uniform(0.0, jitter) if jitter else 0.0
        return round(1e9 * (latency + more))

    def _as_read(self, ranges: Floats, angles: Floats) -> Floats:
        """Return what the lidar reads (n,) of true distances (n,) at angles (n,) [m], [rad]."""
        if self._disturbed_by("dirty_lidar"):
            ranges = np.where(np.abs(angles) < _DIRT_SECTOR, self.dirt, ranges)
        noisy = ranges + self._rng.normal(0.0, self.conditions.lidar_noise, len(ranges))
        if self.conditions.lidar_dropout:
            lost = self._profile_rng.random(len(ranges)) < self.conditions.lidar_dropout
            noisy = np.where(lost, np.inf, noisy)
        return noisy


def _due(step: int, rate: int) -> bool:
    """Whether a sensor of this rate [Hz] measures at a physics step; at step 0 all do."""
    return step * rate // STEPS_PER_SECOND != (step - 1) * rate // STEPS_PER_SECOND
