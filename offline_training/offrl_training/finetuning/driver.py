"""Drives one learning episode after another, and goes on in the middle of one after a resume."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from offrl_contract import InputError

from offrl_training.finetuning.envs import EnvCrashedError, EnvProcess, Vector

_SEED_STRIDE = 1_000_000
_FIRST_SEED = 10_000_000  # far from recordings and evaluations
_CRASHES_IN_A_ROW = 3


@dataclass(frozen=True)
class Ended:
    """An episode that is over."""

    observations: Vector
    """(L + 1, o)"""
    commands: Vector
    """(L, a) in force, SI units."""
    rewards: Vector
    """(L,)"""
    terminal: bool
    """Whether the task ended; otherwise time was up, or the environment crashed."""
    success: bool | None


class Driver:
    """Episode k of a run has the scenario of the run's seed and k."""

    def __init__(self, env: EnvProcess, seed: int) -> None:
        self._env = env
        self._first = _FIRST_SEED + _SEED_STRIDE * seed
        self.episode = 0
        """Episodes begun before this one."""
        self.crashes = 0
        """Of the environment, so far."""
        self._in_a_row = 0
        self._observations: list[Vector] = []
        self._actions: list[Vector] = []
        self._commands: list[Vector] = []
        self._rewards: list[float] = []

    def observation(self) -> Vector:
        """Return what is seen now (o,), in a new episode where the last one is over."""
        while not self._observations:
            try:
                self._observations = [self._env.reset(self._first + self.episode)]
            except EnvCrashedError as error:
                self._count(error)
        return self._observations[-1]

    def step(self, action: Vector) -> Ended | None:
        """Take an action (a,) in SI units; return the episode where it is over now.

        Raises InputError where the environment crashes again and again.
        """
        try:
            step = self._env.step(action)
        except EnvCrashedError as error:
            ended = self._end(terminal=False, success=None) if self._rewards else None
            self._count(error)
            return ended
        self._in_a_row = 0
        self._observations.append(step.observation)
        self._actions.append(action)
        self._commands.append(step.command)
        self._rewards.append(step.reward)
        if step.terminal or step.timeout:
            ended = self._end(step.terminal, step.success)
            self._next()
            return ended
        return None

    def state(self) -> dict[str, Any]:
        """Return the episode that runs: its number, and all that was done and seen in it."""
        return {
            "episode": self.episode,
            "crashes": self.crashes,
            **{name: torch.from_numpy(np.array(rows)) for name, rows in self._columns().items()},
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go to a state by driving its episode again; one that comes out otherwise is given up."""
        self.episode, self.crashes = int(state["episode"]), int(state["crashes"])
        self._observations, self._actions, self._commands = (
            list(state[name].numpy()) for name in ("observations", "actions", "commands")
        )
        self._rewards = state["rewards"].tolist()
        if self._observations and not self._drive_again():
            self._next()

    def _drive_again(self) -> bool:
        """Whether the environment sees again what it saw."""
        try:
            seen = [self._env.reset(self._first + self.episode)]
            seen += [self._env.step(action).observation for action in self._actions]
        except EnvCrashedError:
            self.crashes += 1
            return False
        return all(map(np.array_equal, seen, self._observations))

    def _columns(self) -> dict[str, list[Any]]:
        return {
            "observations": self._observations,
            "actions": self._actions,
            "commands": self._commands,
            "rewards": self._rewards,
        }

    def _end(self, terminal: bool, success: bool | None) -> Ended:
        rewards = np.array(self._rewards, np.float32)
        rows = np.array(self._observations), np.array(self._commands)
        return Ended(*rows, rewards, terminal, success)

    def _next(self) -> None:
        self.episode += 1
        self._observations, self._actions, self._commands, self._rewards = [], [], [], []

    def _count(self, error: EnvCrashedError) -> None:
        """Go on with the next episode after a crash, a few times in a row at most."""
        self.crashes += 1
        self._in_a_row += 1
        if self._in_a_row >= _CRASHES_IN_A_ROW:
            raise InputError(f"--env {error} (crashed {self._in_a_row} times in a row)") from error
        self._next()
