"""Behavior Regularized Actor Critic. Wu, Tucker, Nachum 2019, arXiv 1911.11361.

An actor-critic that pays for each state in which its policy differs from a clone of the data: in
the value and the policy (BRAC-v), or in the policy alone (BRAC-p). Estimates of the divergence are
those of the authors' code (google-research/behavior_regularized_offline_rl, brac_primal), settings
those of its run on D4RL (rail-berkeley/d4rl_evaluations). Deviations: the clone is made in a first
share of the run, in which the policy follows it and the critics are not charged yet; and it is not
squashed, so that its density is finite where commands lie at their limits.
"""

import copy
from typing import Literal

import torch
from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt
from torch import Tensor

from offrl_training.adam import Adam
from offrl_training.algorithms.base import Algorithm, Batch, CriticConfig, Dims, Metrics
from offrl_training.behaviour import squared_mmd
from offrl_training.losses import descend, td_loss, td_target
from offrl_training.networks import (
    Critic,
    StateGaussianPolicy,
    TanhGaussianPolicy,
    pairs,
    soft_update,
)


class BRACConfig(CriticConfig):
    """An actor-critic that pays for being unlike the data."""

    hidden: tuple[PositiveInt, ...] = Field((300, 300), min_length=1)
    """Width of each hidden layer of the critics."""
    policy_hidden: tuple[PositiveInt, ...] = Field((200, 200), min_length=1)
    """Width of each hidden layer of the policy and of the clone."""
    policy_rate: PositiveFloat = 3e-5
    """Adam step size of the policy, once the clone is made."""
    critic_rate: PositiveFloat = 1e-3
    """Adam step size of the critics."""
    clone_rate: PositiveFloat = 5e-4
    """Adam step size of the clone, and of the policy that follows it in the warm start."""
    warm_start: float = Field(0.1, ge=0.0, le=1.0)
    """Share of the run that clones the data first; the authors clone in a run of its own."""
    penalty: Literal["value", "policy"] = "value"
    """What pays for the divergence: the value and the policy (BRAC-v), or the policy (BRAC-p)."""
    divergence: Literal["kl", "mmd"] = "kl"
    """KL(policy || clone), or the squared MMD between actions of both."""
    alpha: NonNegativeFloat = 1.0
    """Weight of the divergence [units of Q]. The squared MMD takes larger weights than the KL: at
    sigma 10 it is at most 0.2 per action entry."""
    samples: PositiveInt = 4
    """Actions per state, of each of policy and clone, in the divergence."""
    sigma: PositiveFloat = 10.0
    """Width of the MMD's kernel exp(-|x - y|_1 / (2 sigma)) [half action ranges]; for mmd alone."""


def kl_estimate(log_policy: Tensor, log_clone: Tensor) -> Tensor:
    """Return the mean of log pi - log b (B,) over n actions of pi, of log-densities (B, n)."""
    return (log_policy - log_clone).mean(-1)


def charged(q: Tensor, divergence: Tensor, alpha: float) -> Tensor:
    """Return min_k Q_k(s, a) - alpha D(pi(.|s), b(.|s)) (B,) for q (K, B), divergence (B,)."""
    return q.amin(0) - alpha * divergence


class BRAC(Algorithm[BRACConfig]):
    """Maximises Q minus the divergence from a clone of the data."""

    config_type = BRACConfig
    policy: TanhGaussianPolicy

    def build(self, dims: Dims) -> None:
        """Create networks, targets and optimisers."""
        config, sizes = self.config, (dims.observation, dims.action)
        self.policy = TanhGaussianPolicy(*sizes, config.policy_hidden, self.generator)
        self.clone = StateGaussianPolicy(*sizes, config.policy_hidden, self.generator)
        self.q = Critic(2, *sizes, config.hidden, self.generator)
        self.q_target = copy.deepcopy(self.q).requires_grad_(False)
        self.policy_optimizer = Adam(self.policy.parameters(), config.policy_rate)
        self.clone_optimizer = Adam(self.clone.parameters(), config.clone_rate)
        self.q_optimizer = Adam(self.q.parameters(), config.critic_rate)
        self.warm_updates = int(config.warm_start * dims.steps)

    def update(self, batch: Batch) -> Metrics:
        """Update the clone in the warm start, the critics, the policy, the target."""
        if self.warming:
            likelihood = self.clone.log_prob(batch.observations, batch.actions)  # (B,)
            descend(self.clone_optimizer, -likelihood.mean())
        q = self.q(batch.observations, batch.actions)  # (2, B)
        q_loss = td_loss(q, self.target(batch))
        descend(self.q_optimizer, q_loss)
        metrics = self.update_policy(batch.observations)
        soft_update(self.q_target, self.q, self.config.tau)
        self.updates += 1
        return metrics | {"q_loss": q_loss.detach(), "q": q.detach().mean()}

    def update_policy(self, s: Tensor) -> Metrics:
        """One step of the policy; in the warm start Q has no say."""
        config = self.config
        actions, divergence = self.sample(s)
        if self.warming:
            rate, loss = config.clone_rate, divergence.mean()
        else:
            q = self.q(s, actions[:, 0])  # (2, B)
            rate, loss = config.policy_rate, -charged(q, divergence, config.alpha).mean()
        descend(self.policy_optimizer, loss, rate)
        return {"policy_loss": loss.detach(), "divergence": divergence.detach().mean()}

    @torch.no_grad()
    def target(self, batch: Batch) -> Tensor:
        """Return r + gamma (1 - d) V(s') (B,)."""
        config, next_s = self.config, batch.next_observations
        actions, divergence = self.sample(next_s)
        pays = config.penalty == "value" and not self.warming
        q = self.q_target(next_s, actions[:, 0])  # (2, B)
        next_value = charged(q, divergence, config.alpha if pays else 0.0)
        return td_target(batch.rewards, batch.discounts, next_value)

    def sample(self, s: Tensor) -> tuple[Tensor, Tensor]:
        """Draw n actions (B, n, a) of the policy; return them and its divergence (B,)."""
        config = self.config
        actions, log_prob = self.policy.sample(s, config.samples, self.generator)
        if config.divergence == "kl":
            log_clone = self.clone.log_prob(*pairs(s, actions)).view_as(log_prob)  # (B, n)
            return actions, kl_estimate(log_prob, log_clone)
        with torch.no_grad():
            data = self.clone.sample(s, config.samples, self.generator)  # (B, n, a)
        return actions, squared_mmd(data, actions, "laplacian", config.sigma)

    @property
    def warming(self) -> bool:
        """Whether the warm start is still on."""
        return self.updates < self.warm_updates
