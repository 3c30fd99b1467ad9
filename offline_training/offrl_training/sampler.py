"""Who is trained on, and batches: transitions on the device, packed so that one is a gather."""

from collections.abc import Mapping
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from offrl_contract import InputError
from offrl_data.columns import pieces
from offrl_data.dataset import AnyDataset
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


def check_actions(dataset: AnyDataset) -> None:
    """Raise InputError where an action lies outside the robot's limits."""
    low, high = np.array(dataset.robot.limits, np.float32).T
    slack = _ROUNDING * (high - low)
    first, count, before = "", 0, 0
    for actions in pieces(dataset.actions):
        bad = np.argwhere((actions < low - slack) | (actions > high + slack))
        if len(bad) and not count:
            row, column = bad[0]
            first = (
                f"actions[{before + row}, {column}] is {actions[row, column]:g}, outside the "
                f"robot file's limits [{low[column]:g}, {high[column]:g}]"
            )
        count += len(bad)
        before += len(actions)
    if count:
        raise InputError(f"dataset: {first} ({count} such values)")


def unpack(packed: Tensor, rows: Tensor, observations: int) -> Batch:
    """Take packed transitions (B, 2 o + a + 3) apart; rows (B,) say where they are from."""
    widths = [observations, packed.shape[1] - 2 * observations - 3, 1, 1, observations, 1]
    s, a, r, discount, next_s, returns = torch.split(packed, widths, 1)
    return Batch(s, a, r.squeeze(1), next_s, discount.squeeze(1), returns.squeeze(1), rows)


class Batches(Protocol):
    """Where a trainer's batches come from."""

    def __len__(self) -> int: ...

    def sample(self, size: int) -> Batch:
        """Draw one batch."""

    def everything(self) -> Batch:
        """Return all transitions, in order."""

    def state(self) -> dict[str, int]:
        """Return what the next batch depends on besides the generator."""

    def restore(self, state: Mapping[str, int]) -> None:
        """Go to a state."""


class Sampler:
    """Draws batches uniformly with replacement from transitions on the device."""

    def __init__(self, packed: Tensor, observations: int, generator: torch.Generator) -> None:
        self.packed = packed
        self.generator = generator
        self._observations = observations

    def __len__(self) -> int:
        return len(self.packed)

    def sample(self, size: int) -> Batch:
        """Draw one batch."""
        device = self.packed.device
        rows = torch.randint(len(self), (size,), generator=self.generator, device=device)
        return unpack(self.packed.index_select(0, rows), rows, self._observations)

    def everything(self) -> Batch:
        """Return all transitions, in order, as views."""
        rows = torch.arange(len(self), device=self.packed.device)
        return unpack(self.packed, rows, self._observations)

    def state(self) -> dict[str, int]:
        """Return what the next batch depends on besides the generator: nothing."""
        return {}

    def restore(self, state: Mapping[str, int]) -> None:
        """Go to a state."""
