"""Who is trained on, and batches: transitions on the device, packed so that one is a gather."""

import numpy as np
import torch
from numpy.typing import NDArray
from offrl_contract import InputError
from offrl_data.dataset import Dataset
from torch import Tensor

from offrl_training.algorithms.base import Batch

# Single precision rounds a limit such as 0.3 by this share of the range at most.
_ROUNDING = 1e-4


def split_episodes(
    count: int, share: float, seed: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Split episodes into training and held out, both sorted; a single one is trained on.

    At least one episode is held out where there are two or more and the share is not 0.
    """
    held = 0 if count < 2 or share == 0.0 else min(max(round(share * count), 1), count - 1)
    order = np.random.default_rng(seed).permutation(count).astype(np.int64)
    return np.sort(order[held:]), np.sort(order[:held])


def check_actions(dataset: Dataset) -> None:
    """Raise InputError where an action lies outside the robot's limits."""
    low, high = np.array(dataset.robot.limits, np.float32).T
    slack = _ROUNDING * (high - low)
    bad = np.argwhere((dataset.actions < low - slack) | (dataset.actions > high + slack))
    if len(bad):
        row, column = bad[0]
        raise InputError(
            f"dataset: actions[{row}, {column}] is {dataset.actions[row, column]:g}, outside the "
            f"robot file's limits [{low[column]:g}, {high[column]:g}] ({len(bad)} such values)"
        )


class Sampler:
    """Draws batches uniformly with replacement."""

    def __init__(self, packed: Tensor, observations: int, generator: torch.Generator) -> None:
        self.packed = packed
        self.generator = generator
        self._widths = [observations, packed.shape[1] - 2 * observations - 3, 1, 1, observations, 1]

    def __len__(self) -> int:
        return len(self.packed)

    def sample(self, size: int) -> Batch:
        """Draw one batch."""
        device = self.packed.device
        rows = torch.randint(len(self), (size,), generator=self.generator, device=device)
        return self.batch(rows)

    def batch(self, rows: Tensor) -> Batch:
        """Return chosen transitions."""
        return self._split(self.packed.index_select(0, rows), rows)

    def everything(self) -> Batch:
        """Return all transitions, in order, as views."""
        return self._split(self.packed, torch.arange(len(self), device=self.packed.device))

    def spread(self, size: int) -> Batch:
        """Return at most `size` transitions, evenly spaced over all."""
        count = min(size, len(self))
        rows = torch.arange(count, device=self.packed.device) * len(self) // count
        return self.batch(rows)

    def _split(self, packed: Tensor, rows: Tensor) -> Batch:
        s, a, r, d, next_s, returns = torch.split(packed, self._widths, 1)
        return Batch(s, a, r.squeeze(1), next_s, d.squeeze(1), returns.squeeze(1), rows)
