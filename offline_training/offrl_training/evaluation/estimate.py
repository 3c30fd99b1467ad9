"""What policies are worth by a log: values, intervals, and how far the method can be trusted."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from offrl_contract import InputError
from offrl_data.dataset import Dataset
from torch import Tensor

from offrl_training.config import TrainingConfig
from offrl_training.evaluation.config import EvaluationConfig
from offrl_training.evaluation.fqe import FittedQEvaluation, Log
from offrl_training.sampler import check_actions, split_episodes, unpack
from offrl_training.statistics import episode_of
from offrl_training.transitions import Transitions, prepare

Act = Callable[[Tensor], Tensor]
"""Observations (B, o) to actions (B, a), both in SI units."""
_CHUNK = 4096
_Z = 1.96  # two-sided 95 % of a normal distribution


@dataclass(frozen=True)
class Interval:
    """An estimate, and where it lies at 95 % if only chance is between it and the truth."""

    mean: float
    low: float
    high: float

    @classmethod
    def of(cls, values: NDArray[np.float64], shares: NDArray[np.float64]) -> "Interval":
        """Return the mean of values (K, E) and its normal interval.

        The interval is from K bootstrap samples, which have each of E episodes by a share (K, E).
        """
        mean, samples = float(values.mean()), (values * shares).sum(-1)  # (K,)
        reach = _Z * float(samples.std(ddof=1))
        return cls(mean, mean - reach, mean + reach)

    def __str__(self) -> str:
        return f"{self.mean:.3g} ({self.low:.3g} to {self.high:.3g})"


@dataclass(frozen=True)
class Estimates:
    """Discounted returns per episode, from its beginning on."""

    values: Mapping[str, Interval]
    """What each policy would earn."""
    gains: Mapping[str, Interval]
    """The same, minus what the driver would earn by the same method."""
    driver: Interval
    """What the driver would earn by the method."""
    earned: Interval
    """What the driver did earn in the same held-out episodes."""
    episodes: int
    """Held-out episodes."""


def estimate(
    dataset: Dataset,
    policies: Mapping[str, Act],
    config: EvaluationConfig,
    watch: Callable[[Iterable[int]], Iterable[int]] = iter,
) -> Estimates:
    """Evaluate policies, and the driver beside them, by Fitted Q Evaluation.

    `watch` sees the updates go by, to show progress. Raises InputError where the dataset has one
    episode or no two transitions in a row, or an action outside the robot's limits.
    """
    check_actions(dataset)
    train, held_out = split_episodes(len(dataset.lengths), config.held_out, config.seed)
    if not len(held_out):
        raise InputError("dataset: has one episode; an evaluation takes two or more")
    random = np.random.default_rng(config.seed)
    generator = torch.Generator().manual_seed(config.seed)
    transitions = prepare(dataset, train, TrainingConfig(held_out=config.held_out), config.gamma)

    method = FittedQEvaluation(
        _log(transitions, train, policies, _bootstrap(random, config.critics, len(train))),
        config,
        generator,
    )
    method.run(watch(range(config.steps)))

    first = dataset.starts[held_out]
    observations = dataset.observations[first]
    actions = [dataset.actions[first], *(_acted(act, observations) for act in policies.values())]
    normaliser = transitions.normaliser
    q = method.values(
        normaliser.observation(torch.from_numpy(observations)),
        torch.stack([normaliser.action(torch.from_numpy(each)) for each in actions]),
    )  # (P, K, H)
    shares = _bootstrap(random, config.critics, len(held_out)) / len(held_out)  # (K, H)
    driver, *values = q.double().numpy()  # (K, H) each
    others = dict(zip(policies, values, strict=True))
    earned = np.broadcast_to(transitions.returns[first], driver.shape).astype(np.float64)
    return Estimates(
        values={name: Interval.of(value, shares) for name, value in others.items()},
        gains={name: Interval.of(value - driver, shares) for name, value in others.items()},
        driver=Interval.of(driver, shares),
        earned=Interval.of(earned, shares),
        episodes=len(held_out),
    )


def _log(
    transitions: Transitions,
    train: NDArray[np.int64],
    policies: Mapping[str, Act],
    counts: NDArray[np.int64],
) -> Log:
    """Gather the transitions of the training episodes, and what everyone does after them.

    Where the log of an episode ends before the task does, what the driver did next is unknown: that
    transition is left out, for all.
    """
    dataset, normaliser = transitions.dataset, transitions.normaliser
    assert isinstance(dataset, Dataset)
    rows = dataset.rows_of(train)
    rows = rows[~dataset.timeouts[rows]]
    if not len(rows):
        raise InputError(
            "dataset: no episode to learn from is longer than one transition or ends by a terminal"
        )
    # After a terminal nothing counts, so that any action will do.
    driven = dataset.actions[np.minimum(rows + 1, len(dataset) - 1)]
    following = dataset.next_observations[rows]
    actions = [driven, *(_acted(act, following) for act in policies.values())]
    rewards = dataset.rewards[rows]
    ends = float(rewards.min()), float(rewards.max())
    least, most = (end / (1.0 - transitions.gamma) for end in ends)
    return Log(
        data=unpack(transitions.take(rows), torch.from_numpy(rows), dataset.observations.shape[1]),
        next_actions=torch.stack([normaliser.action(torch.from_numpy(each)) for each in actions]),
        counts=torch.from_numpy(
            counts[:, np.searchsorted(train, episode_of(dataset, rows))].astype(np.float32)
        ),
        bounds=(min(least, 0.0), max(most, 0.0)),
    )


@torch.no_grad()
def _acted(act: Act, observations: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return what a policy does (n, a) at some observations (n, o)."""
    parts = torch.split(torch.from_numpy(observations), _CHUNK)
    actions: NDArray[np.float32] = torch.cat([act(part) for part in parts]).numpy()
    return actions


def _bootstrap(random: np.random.Generator, samples: int, episodes: int) -> NDArray[np.int64]:
    """Return how often each of K samples of E episodes, with replacement, has each: (K, E)."""
    return random.multinomial(episodes, np.full(episodes, 1.0 / episodes), samples)
