"""Transitions as networks see them: normalised, with the returns and the discount of n ticks."""

import tempfile
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from offrl_data.dataset import AnyDataset, DatasetFile, load_dataset, open_dataset
from torch import Tensor

from offrl_training.config import TrainingConfig
from offrl_training.networks import Normaliser
from offrl_training.returns import n_step_returns, returns_to_go
from offrl_training.rewards import RewardMap, reward_map
from offrl_training.statistics import episode_groups, episode_of, statistics


@dataclass(frozen=True)
class Transitions:
    """A dataset, and all that its rows become on the way to the networks."""

    dataset: AnyDataset
    normaliser: Normaliser
    rewards: RewardMap
    gamma: float
    """Discount per tick."""
    n_step: int
    """Ticks summed into one transition, as far as its episode goes."""
    returns: NDArray[np.float32]
    """(N,) return-to-go of each row, of normalised rewards."""

    @torch.no_grad()
    def pack(self, first: int, last: int) -> Tensor:
        """Return rows [first, last) in network coordinates (n, 2 o + a + 3).

        Columns: s, a, the rewards of m ticks, their discount gamma^m (1 - d), the state s' after
        them, return-to-go. m is n_step, or less where the episode ends before.
        """
        dataset, normaliser = self.dataset, self.normaliser
        rows = np.arange(first, last)
        episodes = episode_of(dataset, rows)  # (n,)
        ends = dataset.starts[episodes] + dataset.lengths[episodes]  # (n,)
        landings = np.minimum(rows + self.n_step, ends)  # (n,)
        stop = int(landings[-1])  # landings never fall
        ending = np.flatnonzero(landings == ends)

        observations = dataset.observations[first : min(stop + 1, int(ends[-1]))]
        next_observations = observations[np.minimum(landings - first, len(observations) - 1)]
        discounts = self.gamma ** (landings - rows)
        if len(ending):  # read what the file has of ends only where there are any
            at = episodes[ending]
            next_observations[ending] = dataset.final_observations[at[0] : at[-1] + 1][at - at[0]]
            terminals = dataset.terminals[first:stop]
            discounts[ending[terminals[ends[ending] - 1 - first]]] = 0.0
        rewards = self.rewards(dataset.rewards[first:stop])
        device = normaliser.observation_mean.device

        def put(values: NDArray[np.generic]) -> Tensor:
            return torch.from_numpy(values).to(device, torch.float32).view(len(rows), -1)

        columns = (
            normaliser.observation(put(observations[: len(rows)])),
            normaliser.action(put(dataset.actions[first:last])),
            put(n_step_returns(rewards, landings - rows, self.gamma)),
            put(discounts),
            normaliser.observation(put(next_observations)),
            put(self.returns[first:last]),
        )
        return torch.cat(columns, 1)

    def of(self, dataset: AnyDataset) -> "Transitions":
        """Return other episodes of the robot, packed by the same maps."""
        returns = _all_returns(dataset, self.rewards, self.gamma)
        return replace(self, dataset=dataset, returns=returns)

    def take(self, rows: NDArray[np.int64]) -> Tensor:
        """Return some rows (n,), in ascending order, as `pack` does."""
        breaks = np.flatnonzero(np.diff(rows) != 1) + 1
        runs = np.split(rows, breaks) if len(rows) else []
        packed = [self.pack(int(run[0]), int(run[-1]) + 1) for run in runs]
        return torch.cat(packed) if packed else self.pack(0, 1)[:0]


def read_dataset(path: Path, memory_limit: int | None) -> AnyDataset:
    """Load a dataset, or open it where its transitions take more than a limit [MB].

    Raises InputError where it cannot be used.
    """
    if memory_limit is None:
        return load_dataset(path)
    dataset = open_dataset(path)
    return load_dataset(path) if len(dataset) <= capacity(dataset, memory_limit) else dataset


def capacity(dataset: AnyDataset, memory_limit: int) -> int:
    """Return how many transitions, with their places in a shuffle, a limit [MB] leaves room for."""
    robot = dataset.robot
    columns = 2 * robot.observation_size + robot.action_size + 3
    return max(1, int(memory_limit * 1e6) // (4 * columns + 8))


def prepare(
    dataset: AnyDataset, episodes: NDArray[np.int64], training: TrainingConfig, gamma: float
) -> Transitions:
    """Fit both normalisations to the training episodes. Raises InputError where they cannot be."""
    robot = dataset.robot
    chosen = np.zeros(len(dataset.lengths), np.bool_)
    chosen[episodes] = True
    found = statistics(dataset, chosen)
    normaliser = Normaliser(robot.observation_size, robot.limits)
    places = robot.observation_slices
    arrays = [places[term.name] for term in robot.observation if len(term.field) == 1]
    normaliser.fit(found.observations.mean, found.observations.std, arrays)
    rewards = reward_map(training.reward_scale, found.rewards, found.returns)
    return Transitions(
        dataset,
        normaliser.to(training.device),
        rewards,
        gamma,
        training.n_step,
        _all_returns(dataset, rewards, gamma),
    )


def _all_returns(dataset: AnyDataset, rewards: RewardMap, gamma: float) -> NDArray[np.float32]:
    """Return the return-to-go of every row (N,); of a dataset in a file, in a temporary file."""
    if isinstance(dataset, DatasetFile):
        file = tempfile.TemporaryFile()  # noqa: SIM115  (gone with the array)
        returns: NDArray[np.float32] = np.memmap(file, np.float32, "w+", shape=(len(dataset),))
    else:
        returns = np.empty(len(dataset), np.float32)
    for episodes, span in episode_groups(dataset):
        lengths = dataset.lengths[episodes]
        ended = dataset.terminals[span][np.cumsum(lengths) - 1]
        returns[span] = returns_to_go(rewards(dataset.rewards[span]), lengths, ended, gamma)
    return returns


def spread_rows(dataset: AnyDataset, episodes: NDArray[np.int64], size: int) -> NDArray[np.int64]:
    """Return at most `size` rows of some episodes, evenly spaced over all of theirs."""
    ends = np.cumsum(dataset.lengths[episodes])
    total = int(ends[-1]) if len(ends) else 0
    count = min(size, total)
    places = np.arange(count) * total // max(count, 1)
    within = np.searchsorted(ends, places, "right")
    chosen = episodes[within]
    rows: NDArray[np.int64] = (
        dataset.starts[chosen] + places - (ends - dataset.lengths[episodes])[within]
    )
    return rows
