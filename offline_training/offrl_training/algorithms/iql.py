"""Implicit Q-Learning. Kostrikov, Nair, Levine 2021, arXiv 2110.06169.

Update order follows the authors' code: V, then the policy, then Q, then the target. Settings are
those of its MuJoCo configuration (ikostrikov/implicit_q_learning).
"""

import copy
import math

import torch
from pydantic import Field, NonNegativeFloat, PositiveFloat
from torch import Tensor

from offrl_training.adam import Adam
from offrl_training.algorithms.base import Algorithm, Batch, CriticConfig, Dims, Metrics
from offrl_training.losses import descend, td_loss, td_target
from offrl_training.networks import Critic, EnsembleMLP, GaussianPolicy, soft_update


class IQLConfig(CriticConfig):
    """Q and V from the data's actions only."""

    learning_rate: PositiveFloat = 3e-4
    """Adam step size of policy, Q and V; the policy's falls to 0 along a cosine over the run."""
    expectile: float = Field(0.7, gt=0.0, lt=1.0)
    """tau of eq. 5: 0.5 is the mean of Q over the data's actions, 1 its maximum."""
    beta: NonNegativeFloat = 3.0
    """Inverse temperature of eq. 7: 0 clones the data, more prefers its better actions."""
    max_weight: PositiveFloat = 100.0
    """Largest exp(beta A); in the authors' code, not in the paper."""


def expectile_loss(error: Tensor, tau: float) -> Tensor:
    """Return L_2^tau(u) = |tau - 1(u < 0)| u^2 (eq. 5), averaged over (B,)."""
    weight = torch.where(error < 0, 1.0 - tau, tau)
    return (weight * error.square()).mean()


def policy_loss(log_prob: Tensor, advantage: Tensor, beta: float, max_weight: float) -> Tensor:
    """Return -exp(beta (Q - V)) log pi(a|s) (eq. 7), averaged over (B,)."""
    weight = (beta * advantage).exp().clamp(max=max_weight)
    return -(weight * log_prob).mean()


class IQL(Algorithm[IQLConfig]):
    """Learns Q and V from the data's actions only, then extracts a policy by weighted cloning."""

    config_type = IQLConfig
    policy: GaussianPolicy

    def build(self, dims: Dims) -> None:
        """Create networks, targets and optimisers."""
        config, sizes = self.config, (dims.observation, dims.action, self.config.hidden)
        self.policy = GaussianPolicy(*sizes, self.generator)
        self.q = Critic(2, *sizes, self.generator)
        self.v = EnsembleMLP(1, dims.observation, config.hidden, self.generator)
        self.q_target = copy.deepcopy(self.q).requires_grad_(False)
        self.policy_optimizer = Adam(self.policy.parameters(), config.learning_rate)
        self.q_optimizer = Adam(self.q.parameters(), config.learning_rate)
        self.v_optimizer = Adam(self.v.parameters(), config.learning_rate)
        self.steps: float = dims.steps

    def begin_online(self) -> None:
        """Keep the policy's step size, as the authors' code does in finetuning."""
        self.steps = math.inf

    def update(self, batch: Batch) -> Metrics:
        """Update V, then the policy, then Q, then the target."""
        s, a, r, next_s, discount, *_ = batch
        config = self.config
        with torch.no_grad():
            q = self.q_target(s, a).amin(0)  # (B,)
        v = self.v(s)[0]  # (B,)
        v_loss = expectile_loss(q - v, config.expectile)  # eq. 5
        descend(self.v_optimizer, v_loss)

        with torch.no_grad():
            v, next_v = self.v(torch.cat([s, next_s]))[0].chunk(2)  # (B,) each
        log_prob = self.policy.log_prob(s, a)  # (B,)
        pi_loss = policy_loss(log_prob, q - v, config.beta, config.max_weight)  # eq. 7
        descend(self.policy_optimizer, pi_loss, self.policy_rate())

        q_loss = td_loss(self.q(s, a), td_target(r, discount, next_v))  # eq. 6
        descend(self.q_optimizer, q_loss)
        soft_update(self.q_target, self.q, config.tau)
        self.updates += 1
        losses = {"v_loss": v_loss, "policy_loss": pi_loss, "q_loss": q_loss}
        return {name: loss.detach() for name, loss in losses.items()} | {"v": v.mean()}

    def policy_rate(self) -> float:
        """Return the policy's step size: a half cosine over the run; in the authors' code."""
        done = min(self.updates / self.steps, 1.0)
        return self.config.learning_rate * 0.5 * (1.0 + math.cos(math.pi * done))
