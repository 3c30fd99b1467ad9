"""One episode after another in simulated time, for drivers that come and go, as the bridge serves.

An episode's score runs from the first command on. When it is over the sensors run on for a moment,
then nothing is heard until the next one, as when an operator carries the robot to its start.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from offrl_contract import InputError, Robot
from offrl_contract.sampling import nanoseconds

from offrl_sim.profile import SimProfile
from offrl_sim.scoring import Scorer
from offrl_sim.simulation import (
    DURATIONS,
    EPOCH,
    Delivery,
    Disturbance,
    DisturbanceKind,
    Scenario,
)
from offrl_sim.tasks import Task

AFTERMATH = 0.4
"""Sensors run on this long after an episode's end, so that the end is seen [s]."""
PAUSE = 1.5
"""Silence between two episodes [s]."""
SLICE = 10_000_000
"""Longest time simulated at once [ns]."""


@dataclass(frozen=True)
class Report:
    """A finished episode."""

    seed: int
    episode_return: float
    success: bool
    collided: bool
    start: int
    """Time of the first scored tick [ns]."""
    period: int
    """Time between the points of the path [ns]."""
    path: list[tuple[float, float]]
    """Positions in the arena's frame, one per tick [m]."""
    disturbances: list[tuple[DisturbanceKind, int]]
    """What disturbed the robot, and when it began [ns]."""
    world: Scenario

    def as_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return {
            "seed": self.seed,
            "return": round(self.episode_return, 4),
            "success": self.success,
            "collided": self.collided,
            "start": self.start,
            "period": self.period,
            "seconds": (len(self.path) - 1) * self.period / 1e9,
            "path": [[round(x, 3), round(y, 3)] for x, y in self.path],
            "disturbances": [{"kind": kind, "start": start} for kind, start in self.disturbances],
            "world": self.world.as_dict(),
        }


class Session:
    """Runs seeded episodes on a clock that never jumps back."""

    def __init__(
        self, task: Task, robot: Robot, seed: int, profile: SimProfile | None = None
    ) -> None:
        """Begin with scenario `seed`. Raises InputError as `Task.simulate` and `begin` do."""
        self._robot = robot
        self.simulation = task.simulate(robot, profile)
        self._scorer = Scorer(robot)
        self.now = EPOCH
        """Simulated time [ns]."""
        self.begin(seed)

    def close(self) -> None:
        """Release the physics client."""
        self.simulation.close()

    def begin(self, seed: int) -> None:
        """Begin the episode of scenario `seed` now, in place of the one that runs.

        Raises InputError for a seed below 0, and goes on with the one that runs.
        """
        if seed < 0:
            raise InputError(f"seed: {seed}: must be 0 or more")
        self._seed = seed
        self.simulation.reset(np.random.default_rng(seed), self.now)
        self._scorer.reset()
        self._next_tick = self.now + self.simulation.tick_latency
        self._commanded = False
        self._path: list[tuple[float, float]] = []
        self._return = 0.0
        self._disturbances: list[tuple[DisturbanceKind, int]] = []
        self._ended_at: int | None = None

    def command(self, action: NDArray[np.float64]) -> bool:
        """Give the base a command (a,), in SI units; one that is not finite is refused."""
        if not np.isfinite(action).all():
            return False
        simulation = self.simulation
        simulation.command(action)
        message = simulation.command_message(self.now, action.tolist())
        self._scorer.hear(Delivery(simulation.command_topic, self.now, message))
        self._commanded = True
        return True

    def disturb(self, kind: DisturbanceKind) -> None:
        """Disturb the robot from now on, for the usual time."""
        start = self.simulation.elapsed
        self.simulation.disturbance = Disturbance(kind, start, DURATIONS[kind])
        self._disturbances.append((kind, self.now))

    def advance(self) -> tuple[list[Delivery], Report | None]:
        """Simulate a slice; return the messages that are due, and the episode if it ended."""
        if self._ended_at is not None and self.now >= self._ended_at + nanoseconds(AFTERMATH):
            self.now += SLICE
            if self.now >= self._ended_at + nanoseconds(AFTERMATH + PAUSE):
                self.begin(self._seed + 1)
            return [], None
        self.now = min(self.now + SLICE, self._next_tick)
        deliveries = self.simulation.advance(self.now)
        for delivery in deliveries:
            self._scorer.hear(delivery)
        if self.now < self._next_tick:
            return deliveries, None
        self._next_tick += self._robot.period
        return deliveries, self._score() if self._ended_at is None else None

    def _score(self) -> Report | None:
        """Score the tick that ends now, once somebody drives."""
        simulation = self.simulation
        terminal = False
        if self._path:
            action = np.array(simulation.in_force)
            _, reward, terminal = self._scorer.advance(self.now, action)
            self._return += reward
        elif not self._commanded or self._scorer.begin(self.now).fault:
            return None
        self._path.append((simulation.body.x, simulation.body.y))
        length = len(self._path) - 1
        timeout = length >= simulation.time_limit * self._robot.rate
        if not (terminal or timeout):
            return None
        self._ended_at = self.now
        return Report(
            seed=self._seed,
            episode_return=self._return,
            success=simulation.succeeded(terminal, timeout),
            collided=simulation.collided,
            start=self.now - length * self._robot.period,
            period=self._robot.period,
            path=self._path,
            disturbances=self._disturbances,
            world=simulation.world,
        )
