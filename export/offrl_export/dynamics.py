"""What the next observation should be; what came instead tells of a robot that has changed.

An ensemble of Gaussian models of one step, trained by likelihood (PETS: Chua et al. 2018, arXiv
1805.12114, eq. 1). Late or altered actuators and most sensor faults show here while every single
observation still looks familiar.
"""

import math
from collections.abc import Collection
from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray
from offrl_contract import InputError, Robot
from offrl_contract.errors import nearest
from offrl_training.adam import Adam
from offrl_training.losses import descend
from offrl_training.networks import uniform
from offrl_training.run import TrainedRun
from torch import Tensor, nn

SCORES = ("dynamics_std", "dynamics_error")
"""How much the members disagree about what comes next, and how far off they were about what came;
in deviations that they expect."""
MEMBERS = 3
HIDDEN = (128, 128)
UPDATES = 9000
EPOCHS = 100
"""Passes over a small dataset, in place of so many updates."""
BATCH = 256
LEARNING_RATE = 3e-3
MOST_TRANSITIONS = 200_000
_LOG_STD = (-4.0, 2.0)
_WILD = 1e6  # deviations of an observation that count, for finite sums
_FARTHEST = 1000.0  # deviations of one number that count; at the least of them, 18 of the data's


def judged_terms(robot: Robot, jumps: Collection[str]) -> list[str]:
    """Return the observation terms but for those that may jump. Raises InputError."""
    names = [term.name for term in robot.observation]
    for jump in jumps:
        if jump not in names:
            raise InputError(f"--jumps {jump}: no such observation term.{nearest(jump, names)}")
    judged = [name for name in names if name not in jumps]
    if not judged:
        raise InputError(f"--jumps {' '.join(jumps)}: no term is left whose steps can be judged")
    return judged


class Dynamics(nn.Module):
    """Models of s' - s given s and a, in network coordinates."""

    averages: Tensor
    """(o, terms): a column times numbers (B, o) is their mean over a term."""

    def __init__(self, run: TrainedRun, terms: Collection[str]) -> None:
        """Draw the members' weights; the steps of these terms of the observation are judged."""
        super().__init__()
        random = torch.Generator().manual_seed(0)
        robot = run.robot
        self.normaliser = run.algorithm.normaliser
        averages = torch.zeros(robot.observation_size, len(terms))
        for column, name in enumerate(terms):
            term = robot.observation_slices[name]
            averages[term, column] = 1.0 / (term.stop - term.start)
        self.register_buffer("averages", averages)
        sizes = tuple(
            pairwise(
                (
                    robot.observation_size + robot.action_size,
                    *HIDDEN,
                    2 * robot.observation_size,
                )
            )
        )
        self.weights = nn.ParameterList(
            uniform((MEMBERS, fan_in, out), fan_in, random) for fan_in, out in sizes
        )
        self.biases = nn.ParameterList(
            uniform((MEMBERS, 1, out), fan_in, random) for fan_in, out in sizes
        )

    def predicted(self, observation: Tensor, action: Tensor) -> tuple[Tensor, Tensor]:
        """Return mean and log-deviation of s' - s (K, B, o), given (B, o) and (B, a)."""
        x = torch.cat([observation, action], -1).expand(MEMBERS, -1, -1)
        *hidden, last = zip(self.weights, self.biases, strict=True)
        for weight, bias in hidden:
            x = torch.baddbmm(bias, x, weight).relu()
        mean, log_std = torch.baddbmm(last[1], x, last[0]).chunk(2, -1)
        return mean, log_std.clamp(*_LOG_STD)

    def loss(self, observation: Tensor, action: Tensor, following: Tensor) -> Tensor:
        """Return the negative log-likelihood, summed over members and numbers, mean over (B,)."""
        mean, log_std = self.predicted(observation, action)
        off = (following - observation - mean) / log_std.exp()
        return (0.5 * off.square() + log_std).sum((0, 2)).mean()

    def disagreement(self, observation: Tensor, action: Tensor) -> Tensor:
        """Return how far the members are apart (B,) at observations (B, o) and actions (B, a).

        Both in SI units.
        """
        _, _, noise, spread = self._step(observation, action)
        return self._worst(spread / noise)

    def error(self, observation: Tensor, action: Tensor, following: Tensor) -> Tensor:
        """Return how far off they were (B,), given what followed (B, o); all in SI units.

        It is judged by the members' mixture, whose variance is theirs and that of their means.
        """
        here, average, noise, spread = self._step(observation, action)
        off = self._normalised(following) - here - average
        return self._worst(off.square() / (noise + spread))

    def _step(self, observation: Tensor, action: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return s, and of the step from it mean, variance and that of means (B, o), normalised."""
        here = self._normalised(observation)
        mean, log_std = self.predicted(here, self.normaliser.action(action))
        average = mean.mean(0)
        return here, average, log_std.exp().square().mean(0), (mean - average).square().mean(0)

    def _normalised(self, observation: Tensor) -> Tensor:
        return self.normaliser.observation(observation).clamp(-_WILD, _WILD)

    def _worst(self, squares: Tensor) -> Tensor:
        """Return the root mean square (B,) of the term where it is greatest, given (B, o)."""
        return (squares.clamp(max=_FARTHEST**2) @ self.averages).amax(-1).sqrt()


def fit(
    dynamics: Dynamics, episodes: list[tuple[NDArray[np.float32], NDArray[np.float32]]]
) -> None:
    """Train on episodes of observations (L + 1, o) and actions (L, a), SI units."""
    normaliser = dynamics.normaliser
    before, after, actions = (
        torch.from_numpy(np.concatenate(parts))
        for parts in (
            [seen[:-1] for seen, _ in episodes],
            [seen[1:] for seen, _ in episodes],
            [commanded for _, commanded in episodes],
        )
    )
    here, then = normaliser.observation(before), normaliser.observation(after)
    unit = normaliser.action(actions)
    updates = min(UPDATES, math.ceil(EPOCHS * len(here) / BATCH))
    random = torch.Generator().manual_seed(0)
    optimizer = Adam(dynamics.parameters(), LEARNING_RATE)
    for update in range(updates):
        cosine = math.cos(math.pi * update / updates)
        optimizer.param_groups[0]["lr"] = 0.5 * LEARNING_RATE * (1.0 + cosine)
        rows = torch.randint(len(here), (BATCH,), generator=random)
        descend(optimizer, dynamics.loss(here[rows], unit[rows], then[rows]))
