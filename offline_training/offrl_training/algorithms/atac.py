"""Adversarially Trained Actor Critic. Cheng, Xie, Jiang, Agarwal 2022, arXiv 2202.02446.

A game between a policy and a critic that is as hard on it as the data allows. Networks, losses and
the warm start by cloning are those of lightATAC (microsoft/lightATAC). Deviations: the warm start
is a share of the run, and the game goes on with its optimiser states and temperature.
"""

import torch
from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt
from torch import Tensor

from offrl_training.adam import Adam
from offrl_training.algorithms.base import Batch, Dims, Metrics
from offrl_training.algorithms.sac import SAC, SACConfig
from offrl_training.losses import descend, td_loss, td_target
from offrl_training.networks import Critic, soft_update


class ATACConfig(SACConfig):
    """An actor that leads, and a critic that rates it no higher than the data must."""

    hidden: tuple[PositiveInt, ...] = Field((256, 256, 256), min_length=1)
    """Width of each hidden layer, of policies and critics alike."""
    policy_rate: PositiveFloat = 5e-7
    """Adam step size of the policy in the game."""
    critic_rate: PositiveFloat = 5e-4
    """Adam step size of the critics, the entropy temperature, and the policy's warm start."""
    beta: NonNegativeFloat = 16.0
    """Weight of the Bellman error against pessimism; 0 is imitation. The authors choose it by task;
    16 is the default of their scripts/main.py (microsoft/ATAC)."""
    residual: float = Field(0.5, ge=0.0, le=1.0)
    """Share of the residual in the Bellman error (DQRA); the rest is to the target."""
    max_norm: PositiveFloat = 100.0
    """Largest norm of each weight matrix of the critics."""
    warm_start: float = Field(0.1, ge=0.0, le=1.0)
    """Share of the run that clones the data first; the authors take 100000 steps."""


def relative_pessimism(q_policy: Tensor, q_data: Tensor) -> Tensor:
    """Return Q(s, pi(s)) - Q(s, a), both (K, B): mean over (B,), sum over critics."""
    return (q_policy - q_data).mean(-1).sum()


def bellman_loss(q: Tensor, target: Tensor, own_target: Tensor, residual: float) -> Tensor:
    """Return the mix of residual and target errors (DQRA).

    q (K, B), target (B,) of the target critics, own_target (K, B) of the critics in training, whose
    gradient counts.
    """
    return residual * td_loss(q, own_target) + (1.0 - residual) * td_loss(q, target)


def normalised_sum(loss: Tensor, other: Tensor, weight: Tensor | float) -> Tensor:
    """Return loss + weight other, divided by the weight where it is above 1; in lightATAC."""
    return (loss + weight * other) / torch.as_tensor(weight).clamp(min=1.0)


@torch.no_grad()
def project(critic: Critic, max_norm: float) -> None:
    """Shrink each member's weight matrices to at most this norm."""
    for weight in critic.weights:  # (K, in, out)
        norm = weight.flatten(1).norm(dim=1).view(-1, 1, 1)
        weight.mul_((max_norm / norm).clamp(max=1.0))


class ATAC(SAC[ATACConfig]):
    """Improves on the driver for any weight of the Bellman error, as far as the critic can tell."""

    config_type = ATACConfig

    def build(self, dims: Dims) -> None:
        """Create what SAC has; the temperature learns at the critics' rate."""
        super().build(dims)
        self.alpha_optimizer = Adam([self.log_alpha], self.config.critic_rate)
        self.warm_updates = int(self.config.warm_start * dims.steps)

    def update(self, batch: Batch) -> Metrics:
        """Update the critics, the target, the temperature, the policy."""
        metrics = self.update_critics(batch)
        soft_update(self.q_target, self.q, self.config.tau)
        metrics |= self.update_policy(batch)
        self.updates += 1
        return metrics

    def update_critics(self, batch: Batch) -> Metrics:
        """Bellman error and, after the warm start, pessimism about the policy against the data."""
        s, a, r, next_s, discount, *_ = batch
        config = self.config
        with torch.no_grad():
            action, _ = self.policy.sample(s, 1, self.generator)
            next_action, _ = self.policy.sample(next_s, 1, self.generator)
            next_value = self.q_target(next_s, next_action.squeeze(1)).amin(0)  # (B,)
        states = torch.cat([s, next_s, s])  # (3B, o)
        actions = torch.cat([a, next_action.squeeze(1), action.squeeze(1)])  # (3B, a)
        q, next_q, q_policy = self.q(states, actions).chunk(3, 1)  # (2, B) each
        target, own_target = (td_target(r, discount, v) for v in (next_value, next_q))
        bellman = bellman_loss(q, target, own_target, config.residual)
        pessimism = relative_pessimism(q_policy, q)
        loss = bellman if self.warming else normalised_sum(pessimism, bellman, config.beta)
        descend(self.q_optimizer, loss)
        project(self.q, config.max_norm)
        losses = {"q_loss": bellman, "pessimism": pessimism, "q": q.mean()}
        return {name: value.detach() for name, value in losses.items()}

    def update_policy(self, batch: Batch) -> Metrics:
        """Entropy temperature, then policy: by the first critic, or in the warm start cloning."""
        action, log_prob = self.policy.sample(batch.observations, 1, self.generator)
        action, log_prob = action.squeeze(1), log_prob.squeeze(1)  # (B, a), (B,)
        alpha = self.update_temperature(log_prob)
        if self.warming:
            objective = self.policy.log_prob(batch.observations, batch.actions)  # (B,)
        else:
            objective = self.q.first(batch.observations, action)  # (B,)
        loss = normalised_sum(-objective.mean(), log_prob.mean(), alpha)
        config = self.config
        rate = config.critic_rate if self.warming else config.policy_rate
        descend(self.policy_optimizer, loss, rate)
        return {"policy_loss": loss.detach(), "alpha": alpha}

    @property
    def warming(self) -> bool:
        """Whether the warm start is still on."""
        return self.updates < self.warm_updates
