"""What normalisation needs to know of the training episodes, read piece by piece."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from offrl_data.columns import rows_per_piece
from offrl_data.dataset import AnyDataset

_ROWS_PER_GROUP = 1 << 18


class Moments:
    """Mean, deviation and range of rows that come in parts.

    Parts are merged as Chan, Golub and LeVeque (1983) do, which loses nothing to large means.
    """

    def __init__(self) -> None:
        self.count = 0
        self.mean: NDArray[np.float64] = np.zeros(())
        self.low: NDArray[np.floating[Any]] = np.array(np.inf)
        self.high: NDArray[np.floating[Any]] = np.array(-np.inf)
        self._squares: NDArray[np.float64] = np.zeros(())

    def add(self, rows: NDArray[np.floating[Any]]) -> None:
        """Take in rows (n, …)."""
        if not len(rows):
            return
        mean = rows.mean(0, dtype=np.float64)
        squares = np.square(rows - mean).sum(0)
        share = len(rows) / (self.count + len(rows))
        apart = mean - self.mean
        self._squares = self._squares + squares + np.square(apart) * share * self.count
        self.mean = self.mean + apart * share
        self.low, self.high = np.minimum(self.low, rows.min(0)), np.maximum(self.high, rows.max(0))
        self.count += len(rows)

    @property
    def std(self) -> NDArray[np.float64]:
        """Deviation of each entry."""
        deviation: NDArray[np.float64] = np.sqrt(self._squares / self.count)
        return deviation


@dataclass(frozen=True)
class Statistics:
    """Moments over the training episodes."""

    observations: Moments
    """of (n, o)"""
    rewards: Moments
    """of (n,)"""
    returns: Moments
    """of (e,) undiscounted returns"""


def statistics(dataset: AnyDataset, chosen: NDArray[np.bool_]) -> Statistics:
    """Go through the chosen episodes (E,) of a dataset once."""
    found = Statistics(Moments(), Moments(), Moments())
    step = rows_per_piece(dataset.observations)
    for first in range(0, len(dataset), step):
        last = min(first + step, len(dataset))
        rows = chosen[episode_of(dataset, np.arange(first, last))]
        found.observations.add(dataset.observations[first:last][rows])
        found.rewards.add(dataset.rewards[first:last][rows])
    for episodes, span in episode_groups(dataset):
        rewards = dataset.rewards[span].astype(np.float64)
        returns = np.add.reduceat(rewards, dataset.starts[episodes] - span.start)
        found.returns.add(returns[chosen[episodes]])
    return found


def episode_of(dataset: AnyDataset, rows: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the episode (n,) that each row (n,) belongs to."""
    episodes: NDArray[np.int64] = np.searchsorted(dataset.starts, rows, "right") - 1
    return episodes


def episode_groups(dataset: AnyDataset) -> Iterator[tuple[slice, slice]]:
    """Yield whole episodes one after the other, and their rows, some hundred thousand at a time."""
    first = 0
    while first < len(dataset.lengths):
        begin = int(dataset.starts[first])
        last = max(int(np.searchsorted(dataset.starts, begin + _ROWS_PER_GROUP)), first + 1)
        end = int(dataset.starts[last - 1] + dataset.lengths[last - 1])
        yield slice(first, last), slice(begin, end)
        first = last
