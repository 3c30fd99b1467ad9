"""Drive to a goal among obstacles, as a Gymnasium environment.

The observation is what the robot's own sampler makes of the messages that the simulated robot
publishes, and the reward is the robot file's: nothing is defined twice.
"""

from collections.abc import Callable
from typing import Any

import gymnasium
import numpy as np
from gymnasium.spaces import Box
from numpy.typing import NDArray
from offrl_contract import InputError, Robot, load_robot
from offrl_contract.errors import nearest

from offrl_sim import messages
from offrl_sim.scoring import Scorer, Seen
from offrl_sim.simulation import EPOCH, Delivery, Simulation

Vector = NDArray[np.float32]

TIME_LIMIT = 20.0
"""Longest episode [s]."""
SETTLE_TICKS = 2
"""Ticks under the safe command before an episode's first observation."""
_COMMAND_LATENCY = (4e6, 8e6)  # [ns] from the beat to the command's arrival


class DiffDriveNav(gymnasium.Env[Vector, Vector]):
    """A differential-drive robot with lidar drives to a goal among obstacles.

    Observation (o,) and action (a,) are those of the robot file, in SI units. `info` holds
    `pose` (x, y, yaw), `command` (a,) in force after limits, `success`, `collided`, and at a reset
    the `world`. `reset` takes the options `start` (time at which the episode begins [ns]) and
    `disturbance` (`Disturbance`).
    """

    metadata: dict[str, Any] = {"render_modes": []}  # noqa: RUF012  (gymnasium's own signature)

    def __init__(
        self, robot: str = "diffdrive", listener: Callable[[Delivery], None] | None = None
    ) -> None:
        """Build the simulation; `listener` hears every message. Raises InputError."""
        self.robot = load_robot(robot)
        require_topics(self.robot)
        self.simulation = Simulation(self.robot)
        self._scorer = Scorer(self.robot)
        self._listener = listener
        low, high = np.array(self.robot.limits, np.float32).T
        self.action_space = Box(low, high)
        self.observation_space = _observation_space(self.robot)
        self._low, self._high = np.array(self.robot.limits).T
        self._reach = np.array(self.robot.max_rate) / self.robot.rate

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Vector, dict[str, Any]]:
        """Draw a world and let the robot settle in it. Returns the observation (o,) and info."""
        super().reset(seed=seed)
        options = options or {}
        self._scorer.reset()
        self.simulation.reset(self.np_random, options.get("start", EPOCH))
        self.simulation.disturbance = options.get("disturbance")
        self._beat = self.simulation.start
        self._last = np.array(self.robot.safe_action)
        self._hear(self.simulation.advance(self._beat))
        # a robot that observes its last command has to have one; else the first is the driver's
        observed = any(term.source == "action" for term in self.robot.observation)
        for tick in range(SETTLE_TICKS):
            self._run_one_period(announce=observed and tick == SETTLE_TICKS - 1)
        self._first_beat = self._beat
        seen = self._scorer.begin(self._beat)
        return _vector(seen), {**self._info(success=False), "world": self.simulation.world}

    def step(self, action: Vector) -> tuple[Vector, float, bool, bool, dict[str, Any]]:
        """Drive for one tick under a command (a,) [m/s, rad/s].

        The command is limited in range and rate as the robot's base does it. Raises InputError
        for one that is not finite.
        """
        if not np.isfinite(action).all():
            raise InputError(f"action {np.asarray(action).tolist()}: not finite")
        wanted = np.clip(np.asarray(action, np.float64), self._low, self._high)
        self._last = np.clip(wanted, self._last - self._reach, self._last + self._reach)
        self._run_one_period(announce=True)
        seen, reward, terminal = self._scorer.advance(self._beat, self._last)
        ticks = (self._beat - self._first_beat) // self.robot.period
        timeout = ticks >= TIME_LIMIT * self.robot.rate
        info = self._info(success=terminal and not self.simulation.collided)
        return _vector(seen), reward, terminal, timeout and not terminal, info

    @property
    def now(self) -> int:
        """Time of the last beat of the control loop [ns]."""
        return self._beat

    def rest(self, seconds: float) -> None:
        """Let the sensors run on with no new command, as after an episode's end."""
        beats = round(seconds * self.robot.rate)
        self._beat += beats * self.robot.period
        self._hear(self.simulation.advance(self._beat))

    def close(self) -> None:
        """Release the physics client."""
        self.simulation.close()

    def _run_one_period(self, announce: bool) -> None:
        """Simulate from one beat to the next; the command arrives a few ms after the first."""
        arrival = self._beat + int(self.np_random.uniform(*_COMMAND_LATENCY))
        self._hear(self.simulation.advance(arrival))
        if announce:
            self.simulation.command(self._last)
            twist = messages.command(*self._last.tolist())
            self._hear([Delivery(messages.COMMAND, arrival, twist)])
        self._beat += self.robot.period
        self._hear(self.simulation.advance(self._beat))

    def _hear(self, deliveries: list[Delivery]) -> None:
        for each in deliveries:
            self._scorer.hear(each)
            if self._listener is not None:
                self._listener(each)

    def _info(self, success: bool) -> dict[str, Any]:
        body = self.simulation.body
        return {
            "pose": np.array([body.x, body.y, body.yaw]),
            "command": self._last.astype(np.float32),
            "success": success,
            "collided": self.simulation.collided,
        }


def _vector(seen: Seen) -> Vector:
    if seen.fault:
        raise RuntimeError(f"the simulated robot is silent: {seen.fault}")
    return seen.vector


def require_topics(robot: Robot) -> None:
    """Refuse a robot file that asks for what this robot does not have. Raises InputError."""
    for topic, type_name in robot.topics().items():
        if topic not in messages.TYPES:
            raise InputError(
                f"robot '{robot.robot}': the simulated robot has no topic {topic}."
                f"{nearest(topic, messages.TYPES)}"
            )
        if type_name != messages.TYPES[topic]:
            raise InputError(
                f"robot '{robot.robot}': {topic} is {messages.TYPES[topic]} here, not {type_name}"
            )
    fields = [field for term in robot.action for field in term.field]
    if fields != ["linear.x", "angular.z"]:
        raise InputError(
            f"robot '{robot.robot}': the simulated base takes the action fields linear.x and "
            f"angular.z in this order, not {', '.join(fields)}"
        )


def _observation_space(robot: Robot) -> Box:
    """Bounds of the observation: clips and command limits, infinite where there is neither."""
    low: list[float] = []
    high: list[float] = []
    for term in robot.observation:
        interval = term.clip or (-np.inf, np.inf)
        each = robot.limits if term.source == "action" else (interval,) * term.parts
        low += [bound[0] for bound in each] * term.history
        high += [bound[1] for bound in each] * term.history
    return Box(np.array(low, np.float32), np.array(high, np.float32))
