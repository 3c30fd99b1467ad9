"""A task as a Gymnasium environment.

The observation is what the robot's own sampler makes of the messages that the simulated robot
publishes, and the reward is the robot file's: nothing is defined twice.
"""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
from gymnasium.spaces import Box
from numpy.typing import NDArray
from offrl_contract import InputError, Robot, load_robot

from offrl_sim.profile import SimProfile, load_profile
from offrl_sim.scoring import Scorer, Seen
from offrl_sim.simulation import EPOCH, Delivery, Sensor
from offrl_sim.tasks import find_task

Vector = NDArray[np.float32]

SETTLE_TICKS = 2
"""Ticks under the safe command before an episode's first observation, at least."""
_COMMAND_LATENCY = (1.8e6, 5.8e6)  # [ns] from the tick to the command's arrival


class TaskEnv(gymnasium.Env[Vector, Vector]):
    """Drives the simulated robot of a task.

    Observation (o,) and action (a,) are those of the robot file, in SI units. `info` holds
    `pose` (x, y, yaw), `command` (a,) in force after limits, `success`, `collided`, and at a reset
    the `world`. `reset` takes the options `start` (time at which the episode begins [ns]) and
    `disturbance` (`Disturbance`).
    """

    metadata: dict[str, Any] = {"render_modes": []}  # noqa: RUF012  (gymnasium's own signature)

    def __init__(
        self, task: str, robot: str = "", profile: SimProfile | Path | str | None = None
    ) -> None:
        """Build the simulation of a task, with its own robot file unless another is given.

        The profile may be a file's path. Raises InputError, also for one whose delays let an
        observation become older than the robot file's `max_age`.
        """
        self.task = find_task(task)
        self.robot = load_robot(robot or self.task.robot)
        if isinstance(profile, Path | str):
            profile = load_profile(Path(profile))
        profile = profile or SimProfile()
        self.delay = profile.longest_delay
        """Longest time from a command to when its effect is seen, by the profile [s]."""
        _require_fresh(self.robot, profile, self.task.simulation.sensors)
        self.simulation = self.task.simulate(self.robot, profile)
        self._scorer = Scorer(self.robot)
        self.listener: Callable[[Delivery], None] | None = None
        """Hears every message, if there is one."""
        low, high = np.array(self.robot.limits, np.float32).T
        self.action_space = Box(low, high)
        self.observation_space = _observation_space(self.robot)
        self._low, self._high = np.array(self.robot.limits).T
        self._reach = np.array(self.robot.max_rate) / self.robot.rate
        actions = [term.history for term in self.robot.observation if term.source == "action"]
        self._remembered = max(actions, default=0)

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
        self._hear(self.simulation.advance(self.tick))
        # a robot that observes its last commands has to have some; else the first is the driver's
        ticks = max(SETTLE_TICKS, self._remembered)
        for tick in range(ticks):
            self._run_one_period(announce=tick >= ticks - self._remembered)
        self._first_beat = self._beat
        seen = self._scorer.begin(self.tick)
        return _vector(seen), {**self._info(success=False), "world": self.simulation.world}

    def step(self, action: Vector) -> tuple[Vector, float, bool, bool, dict[str, Any]]:
        """Drive for one tick under a command (a,), in SI units.

        The command is limited in range and rate as the robot's base does it. Raises InputError
        for one that is not finite.
        """
        if not np.isfinite(action).all():
            raise InputError(f"action {np.asarray(action).tolist()}: not finite")
        wanted = np.clip(np.asarray(action, np.float64), self._low, self._high)
        self._last = np.clip(wanted, self._last - self._reach, self._last + self._reach)
        self._run_one_period(announce=True)
        seen, reward, terminal = self._scorer.advance(self.tick, self._last)
        ticks = (self._beat - self._first_beat) // self.robot.period
        timeout = not terminal and ticks >= self.simulation.time_limit * self.robot.rate
        info = self._info(success=self.simulation.succeeded(terminal, timeout))
        return _vector(seen), reward, terminal, timeout, info

    @property
    def now(self) -> int:
        """Time of the last beat of the control loop [ns]."""
        return self._beat

    @property
    def tick(self) -> int:
        """Time of the tick that belongs to the last beat [ns]."""
        return self._beat + self.simulation.tick_latency

    def rest(self, seconds: float) -> None:
        """Let the sensors run on with no new command, as after an episode's end."""
        beats = round(seconds * self.robot.rate)
        self._beat += beats * self.robot.period
        self._hear(self.simulation.advance(self.tick))

    def close(self) -> None:
        """Release the physics client."""
        self.simulation.close()

    def _run_one_period(self, announce: bool) -> None:
        """Simulate from one tick to the next; the command arrives a few ms after the first."""
        simulation = self.simulation
        early, late = (simulation.tick_latency + latency for latency in _COMMAND_LATENCY)
        arrival = self._beat + int(self.np_random.uniform(early, late))
        self._hear(simulation.advance(arrival))
        if announce:
            simulation.command(self._last)
            message = simulation.command_message(arrival, self._last.tolist())
            self._hear([Delivery(simulation.command_topic, arrival, message)])
        self._beat += self.robot.period
        self._hear(simulation.advance(self.tick))

    def _hear(self, deliveries: list[Delivery]) -> None:
        for each in deliveries:
            self._scorer.hear(each)
            if self.listener is not None:
                self.listener(each)

    def _info(self, success: bool) -> dict[str, Any]:
        body = self.simulation.body
        return {
            "pose": np.array([body.x, body.y, body.yaw]),
            "command": self._last.astype(np.float32),
            "success": success,
            "collided": self.simulation.collided,
        }


def _require_fresh(robot: Robot, profile: SimProfile, sensors: Iterable[Sensor]) -> None:
    """Refuse delays after which the next message of a sensor would come too late.

    What is measured at an episode's first moment is not delayed. Raises InputError.
    """
    late = profile.observation_latency[1] + profile.observation_jitter[1]
    silence = {each.topic: late + (2 if each.loss else 1) / each.rate for each in sensors}
    for term in robot.observation:
        age = silence.get(term.topic, 0.0)
        if late and age > term.max_age:
            raise InputError(
                f"profile: observation_latency and observation_jitter: with up to {late:g} s, "
                f"{term.name} of robot '{robot.robot}' is up to {age:.2g} s old; its max_age is "
                f"{term.max_age:g} s"
            )


def _vector(seen: Seen) -> Vector:
    if seen.fault:
        raise RuntimeError(f"the simulated robot is silent: {seen.fault}")
    return seen.vector


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
