"""Normalisation of rewards: one affine map, made from the training episodes."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from offrl_contract import InputError

from offrl_training.config import RewardScale
from offrl_training.statistics import Moments


@dataclass(frozen=True)
class RewardMap:
    """r to factor r + shift."""

    factor: float = 1.0
    shift: float = 0.0

    def __call__(self, rewards: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the normalised rewards, of any shape."""
        if self == RewardMap():
            return rewards
        return (self.factor * rewards.astype(np.float64) + self.shift).astype(np.float32)


def reward_map(scale: RewardScale, rewards: Moments, returns: Moments) -> RewardMap:
    """Make the map from those of rewards and returns. Raises InputError where they do not differ.

    return_range is that of IQL's authors: times 1000 / (largest - smallest return), not shifted.
    """
    if scale == "none":
        return RewardMap()
    values, what = (returns, "return") if scale == "return_range" else (rewards, "reward")
    low, high = float(values.low), float(values.high)
    if low == high:
        raise InputError(
            f"--reward-scale {scale}: the training episodes have one {what}, {low:g}; use none"
        )
    if scale == "return_range":
        return RewardMap(1000.0 / (high - low))
    if scale == "unit":
        return RewardMap(1.0 / (high - low), -low / (high - low))
    return RewardMap(float(1.0 / values.std), float(-values.mean / values.std))
