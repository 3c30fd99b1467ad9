"""Conservative Q-Learning, CQL(H). Kumar, Zhou, Tucker, Levine 2020, arXiv 2006.04779.

SAC with a penalty on Q outside the data. Settings are those of the authors' code
(aviralkumar2907/CQL): a fixed penalty weight, and no entropy in the backup.
"""

import math
from typing import ClassVar, TypeVar

import torch
from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt
from torch import Tensor, nn

from offrl_training.adam import Adam
from offrl_training.algorithms.base import Batch, Dims, Metrics
from offrl_training.algorithms.sac import SAC, SACConfig
from offrl_training.losses import descend, td_loss

_LARGEST_MULTIPLIER = 1e6


class CQLConfig(SACConfig):
    """SAC whose critics are pushed down outside the data."""

    hidden: tuple[PositiveInt, ...] = Field((256, 256, 256), min_length=1)
    """Width of each hidden layer, of policies and critics alike."""
    policy_rate: PositiveFloat = 1e-4
    """Adam step size of the policy and of the entropy temperature."""
    weight: NonNegativeFloat = 5.0
    """alpha of CQL(H): weight of the penalty."""
    samples: PositiveInt = 10
    """Actions drawn per state from each of: uniform, pi(s), pi(s')."""
    temperature: PositiveFloat = 1.0
    """Temperature of the log-sum-exp; in the authors' code, not in the paper."""
    backup_samples: PositiveInt = 1
    """Actions drawn at s', the best of which is backed up; 10 is Cal-QL's max-target backup."""
    lagrange_gap: NonNegativeFloat | None = None
    """Gap tau of appendix F [units of Q]: the weight is adapted to keep the penalty near it."""
    warm_start: float = Field(0.04, ge=0.0, le=1.0)
    """Share of the training steps in which the policy clones the data; 40,000 of 1 million."""


Q = TypeVar("Q", bound=CQLConfig)


def conservative_penalty(
    q: Tensor, log_density: Tensor, q_data: Tensor, temperature: float
) -> Tensor:
    """Return log sum_a exp Q(s, a) - Q(s, a_data), CQL(H): mean over (B,), sum over critics.

    q (K, B, n) at sampled actions, log_density (B, n) of these samples (appendix F: each counts
    by 1 / density), q_data (K, B). The constant -log n is left out, as in the authors' code.
    """
    soft_maximum = ((q - log_density) / temperature).logsumexp(-1) * temperature  # (K, B)
    return (soft_maximum - q_data).mean(-1).sum()


def multiplier_loss(log_multiplier: Tensor, excess: Tensor) -> Tensor:
    """Return -alpha' (penalty - gap) (appendix F): it grows while the penalty is above the gap."""
    return -log_multiplier.exp().clamp(max=_LARGEST_MULTIPLIER) * excess.detach()


class CQL(SAC[Q]):
    """Learns critics that do not overrate actions the data lacks, and a policy on them."""

    config_type: ClassVar[type[CQLConfig]] = CQLConfig

    def build(self, dims: Dims) -> None:
        """Create what SAC has, and the multiplier where there is a gap to keep."""
        super().build(dims)
        self.warm_updates = int(self.config.warm_start * dims.steps)
        if self.config.lagrange_gap is not None:
            self.log_multiplier = nn.Parameter(torch.zeros((), device=self.generator.device))
            self.multiplier_optimizer = Adam([self.log_multiplier], self.config.critic_rate)

    def merit(self, batch: Batch, action: Tensor) -> Tensor:
        """Return Q of the policy's actions (B,); in the warm start how likely the data's are."""
        if self.updates < self.warm_updates:
            return self.policy.log_prob(batch.observations, batch.actions)
        return super().merit(batch, action)

    def update_critics(self, batch: Batch) -> Metrics:
        """Bellman error plus the conservative penalty."""
        target = self.target(batch)  # (B,)
        with torch.no_grad():
            actions, log_density = self.sample_actions(batch)  # (B, 3n, a), (B, 3n)
        actions = torch.cat([batch.actions.unsqueeze(1), actions], 1)  # (B, 1 + 3n, a)
        q_all = self.q.values(batch.observations, actions)  # (2, B, 1 + 3n)
        q_data, q = q_all[..., 0], self.penalised(q_all[..., 1:], batch)
        bellman = td_loss(q_data, target)
        penalty = conservative_penalty(q, log_density, q_data, self.config.temperature)
        descend(self.q_optimizer, bellman + self.config.weight * self.constrained(penalty))
        return {
            "q_loss": bellman.detach(),
            "penalty": penalty.detach(),
            "q": q_data.detach().mean(),
        }

    def penalised(self, q: Tensor, batch: Batch) -> Tensor:  # noqa: ARG002
        """Return the values (2, B, 3n) that the penalty pushes down: Q at the samples."""
        return q

    def constrained(self, penalty: Tensor) -> Tensor:
        """Return the penalty, or with a gap alpha' (penalty - gap), and adapt alpha' to it.

        The weight multiplies the gap too, as in Cal-QL's code; in CQL's it does not.
        """
        if self.config.lagrange_gap is None:
            return penalty
        excess = penalty - self.q.members * self.config.lagrange_gap
        multiplier = self.log_multiplier.detach().exp().clamp(max=_LARGEST_MULTIPLIER)
        descend(self.multiplier_optimizer, multiplier_loss(self.log_multiplier, excess))
        return multiplier * excess

    def next_value(self, observations: Tensor) -> Tensor:
        """Return max over samples of min Q'(s, a), a ~ pi, without entropy (B,)."""
        count = self.config.backup_samples
        actions, _ = self.policy.sample(observations, count, self.generator)  # (B, m, a)
        q = self.q_target.values(observations, actions)  # (2, B, m)
        return q.amin(0).amax(1)

    def sample_actions(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Draw n actions (B, 3n, a) from uniform, pi(s), pi(s') each, and their log-densities."""
        size, width = batch.actions.shape
        shape = (size, self.config.samples, width)
        uniform = torch.empty(shape, device=batch.actions.device)
        uniform.uniform_(-1.0, 1.0, generator=self.generator)
        log_uniform = torch.full(shape[:2], width * math.log(0.5), device=uniform.device)
        here, log_here = self.policy.sample(batch.observations, shape[1], self.generator)
        there, log_there = self.policy.sample(batch.next_observations, shape[1], self.generator)
        actions = torch.cat([uniform, here, there], 1)
        return actions, torch.cat([log_uniform, log_here, log_there], 1)
