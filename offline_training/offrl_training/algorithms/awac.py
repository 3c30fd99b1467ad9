"""AWAC. Nair, Gupta, Dalal, Levine 2020, arXiv 2006.09359.

Settings are those of CORL (awac.py). The normalisation Z(s) of the weights is left out, as in the
authors' code.
"""

import copy
from typing import ClassVar, TypeVar

import torch
from pydantic import Field, PositiveFloat, PositiveInt
from torch import Tensor

from offrl_training.adam import Adam
from offrl_training.algorithms.base import Algorithm, Batch, CriticConfig, Dims, Metrics
from offrl_training.losses import descend, td_loss, td_target
from offrl_training.networks import Critic, GaussianPolicy, soft_update


class AWACConfig(CriticConfig):
    """Cloning, weighted by how much better than the policy an action is."""

    hidden: tuple[PositiveInt, ...] = Field((256, 256, 256), min_length=1)
    """Width of each hidden layer, of policies and critics alike."""
    learning_rate: PositiveFloat = 3e-4
    """Adam step size of policy and critics."""
    temperature: PositiveFloat = 0.3333
    """lambda of the policy update [units of Q]: less prefers the better actions; 1.0 off MuJoCo."""
    max_weight: PositiveFloat = 100.0
    """Largest exp(A / lambda); in CORL, not in the paper."""
    samples: PositiveInt = 1
    """Actions of the policy whose mean Q is the value of a state."""


W = TypeVar("W", bound=AWACConfig)


def exponential_weight(advantage: Tensor, temperature: float, max_weight: float) -> Tensor:
    """Return exp(A / lambda) up to its ceiling, (B,)."""
    return (advantage / temperature).exp().clamp(max=max_weight)


def weighted_cloning_loss(log_prob: Tensor, weight: Tensor) -> Tensor:
    """Return -weight log pi(a|s), the policy update, averaged over (B,)."""
    return -(weight * log_prob).mean()


class AWAC(Algorithm[W]):
    """Learns Q of its own policy, and clones the data's actions by their advantage."""

    config_type: ClassVar[type[AWACConfig]] = AWACConfig
    policy: GaussianPolicy

    def build(self, dims: Dims) -> None:
        """Create networks, targets and optimisers."""
        config, sizes = self.config, (dims.observation, dims.action, self.config.hidden)
        self.policy = GaussianPolicy(*sizes, self.generator)
        self.q = Critic(2, *sizes, self.generator)
        self.q_target = copy.deepcopy(self.q).requires_grad_(False)
        self.policy_optimizer = Adam(self.policy.parameters(), config.learning_rate)
        self.q_optimizer = Adam(self.q.parameters(), config.learning_rate)

    def update(self, batch: Batch) -> Metrics:
        """Update the critics, then the policy, then the target."""
        s, a, r, next_s, discount, *_ = batch
        with torch.no_grad():
            next_action = self.policy.sample(next_s, 1, self.generator).squeeze(1)  # (B, a)
            next_value = self.q_target(next_s, next_action).amin(0)  # (B,)
            target = td_target(r, discount, next_value)
        q = self.q(s, a)  # (2, B)
        q_loss = td_loss(q, target)
        descend(self.q_optimizer, q_loss)

        mean = self.policy(s)  # (B, a)
        weight = self.weight(self.advantage(s, a, mean))  # (B,)
        policy_loss = weighted_cloning_loss(self.policy.log_density(mean, a), weight)
        descend(self.policy_optimizer, policy_loss)
        soft_update(self.q_target, self.q, self.config.tau)
        self.updates += 1
        losses = {"q_loss": q_loss, "policy_loss": policy_loss, "q": q.mean()}
        return {name: loss.detach() for name, loss in losses.items()} | {"weight": weight.mean()}

    @torch.no_grad()
    def advantage(self, observations: Tensor, actions: Tensor, mean: Tensor) -> Tensor:
        """Return min Q(s, a) - V(s) (B,), V the mean of min Q over actions around the policy's."""
        sampled = self.policy.around(mean, self.config.samples, self.generator)  # (B, m, a)
        values = self.q.values(observations, sampled).amin(0)  # (B, m)
        q: Tensor = self.q(observations, actions).amin(0)  # (B,)
        return q - values.mean(1)

    def weight(self, advantage: Tensor) -> Tensor:
        """Return the weight (B,) of each transition in the policy's loss."""
        return exponential_weight(advantage, self.config.temperature, self.config.max_weight)
