"""Transitions as networks see them: normalised, with the returns and the discount of n ticks."""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from offrl_data.dataset import Dataset
from torch import Tensor

from offrl_training.config import TrainingConfig
from offrl_training.networks import Normaliser
from offrl_training.returns import n_step_returns, returns_to_go
from offrl_training.rewards import RewardMap, reward_map


@dataclass(frozen=True)
class Transitions:
    """A dataset, and all that its rows become on the way to the networks."""

    dataset: Dataset
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
        episodes = np.searchsorted(dataset.starts, rows, "right") - 1  # (n,)
        ends = dataset.starts[episodes] + dataset.lengths[episodes]  # (n,)
        landings = np.minimum(rows + self.n_step, ends)  # (n,)
        stop = int(landings[-1])  # landings never fall

        observations = dataset.observations[first : min(stop + 1, int(ends[-1]))]
        final = dataset.final_observations[episodes[0] : episodes[-1] + 1]
        inside = np.minimum(landings - first, len(observations) - 1)
        next_observations = np.where(
            (landings < ends)[:, None], observations[inside], final[episodes - episodes[0]]
        )
        ended = (landings == ends) & dataset.terminals[first:stop][landings - first - 1]
        discounts = self.gamma ** (landings - rows) * ~ended
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

    def take(self, rows: NDArray[np.int64]) -> Tensor:
        """Return some rows (n,), in ascending order, as `pack` does."""
        breaks = np.flatnonzero(np.diff(rows) != 1) + 1
        runs = np.split(rows, breaks) if len(rows) else []
        packed = [self.pack(int(run[0]), int(run[-1]) + 1) for run in runs]
        return torch.cat(packed) if packed else self.pack(0, 1)[:0]


def prepare(
    dataset: Dataset, episodes: NDArray[np.int64], training: TrainingConfig, gamma: float
) -> Transitions:
    """Fit both normalisations to the training episodes. Raises InputError where they cannot be."""
    rows, robot = dataset.rows_of(episodes), dataset.robot
    normaliser = Normaliser(robot.observation_size, robot.limits)
    places = robot.observation_slices
    arrays = [places[term.name] for term in robot.observation if len(term.field) == 1]
    normaliser.fit(dataset.observations[rows], arrays)
    rewards = reward_map(training.reward_scale, dataset.rewards[rows], dataset.returns()[episodes])
    ended = dataset.terminals[dataset.starts + dataset.lengths - 1]
    returns = returns_to_go(rewards(dataset.rewards), dataset.lengths, ended, gamma)
    return Transitions(
        dataset,
        normaliser.to(training.device),
        rewards,
        gamma,
        training.n_step,
        returns.astype(np.float32),
    )
