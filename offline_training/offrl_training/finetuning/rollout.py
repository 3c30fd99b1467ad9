"""Evaluation: the policy without exploration, on scenarios that never change."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from offrl_contract import InputError

from offrl_training.finetuning.envs import EnvCrashedError, EnvProcess, Vector

EVALUATION_SEED = 2_000_000
"""Seed of the first scenario; those of learning are apart (driver.py)."""
_TRIES = 2


@dataclass(frozen=True)
class Evaluation:
    """One evaluation."""

    step: int
    """Steps in the environment before it; 0 is the policy as it was trained offline."""
    returns: list[float]
    """Undiscounted return of each scenario."""
    lengths: list[int]
    """Ticks of each."""
    successes: list[bool]
    """Of each, where the environment tells."""
    bound_rate: float
    """Share of the commands' entries that were at a limit."""

    @property
    def score(self) -> float:
        """Mean return."""
        return float(np.mean(self.returns))

    def against(self, other: "Evaluation") -> tuple[float, float]:
        """Return its score and another's over the scenarios that both drove."""
        both = min(len(self.returns), len(other.returns))
        return float(np.mean(self.returns[:both])), float(np.mean(other.returns[:both]))

    def as_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return asdict(self)


def evaluate(
    env: EnvProcess, act: Callable[[Vector], tuple[Vector, int]], episodes: int, step: int
) -> Evaluation:
    """Drive so many scenarios; `act` gives the action (a,) and how many entries are at a limit.

    Raises InputError where a scenario crashes the environment again and again.
    """
    returns, lengths, successes, bound, entries = [], [], [], 0, 0
    for scenario in range(EVALUATION_SEED, EVALUATION_SEED + episodes):
        rewards, at_limit, success, width = _drive(env, act, scenario)
        returns.append(float(np.sum(rewards)))
        lengths.append(len(rewards))
        bound += at_limit
        entries += len(rewards) * width
        if success is not None:
            successes.append(success)
    return Evaluation(step, returns, lengths, successes, bound / entries)


def _drive(
    env: EnvProcess, act: Callable[[Vector], tuple[Vector, int]], scenario: int
) -> tuple[list[float], int, bool | None, int]:
    """Drive one scenario, once more where it crashes. Raises InputError where it does again."""
    for _ in range(_TRIES):
        try:
            return _episode(env, act, scenario)
        except EnvCrashedError as error:
            crash = error
    raise InputError(f"--env {crash} (scenario {scenario}, {_TRIES} times in a row)") from crash


def _episode(
    env: EnvProcess, act: Callable[[Vector], tuple[Vector, int]], scenario: int
) -> tuple[list[float], int, bool | None, int]:
    rewards: list[float] = []
    bound = 0
    observation = env.reset(scenario)
    while True:
        action, at_limit = act(observation)
        step = env.step(action)
        observation = step.observation
        rewards.append(step.reward)
        bound += at_limit
        if step.terminal or step.timeout:
            return rewards, bound, step.success, len(action)


def falls(evaluations: Sequence[Evaluation]) -> list[float]:
    """Return how far each is below the first evaluation, as a share of its score.

    Each is compared over the scenarios that both drove; negative where it is higher.
    """
    pairs = [each.against(evaluations[0]) for each in evaluations]
    return [(before - now) / max(abs(before), 1e-9) for now, before in pairs]


def dip(evaluations: Sequence[Evaluation]) -> float:
    """Return the deepest fall; 0 where none is lower than the first."""
    return max(falls(evaluations))
