"""SAC with automatic temperature. Haarnoja et al. 2018, arXiv 1812.05905.

Made for learning online, as TD3 is, and the parent of `cql`. Step sizes are those of table 1. In an
update the policy comes before the critics.
"""

import copy
from typing import ClassVar, TypeVar

import torch
from pydantic import PositiveFloat
from torch import Tensor, nn

from offrl_training.adam import Adam
from offrl_training.algorithms.base import Algorithm, Batch, CriticConfig, Dims, Metrics
from offrl_training.losses import descend, td_loss, td_target
from offrl_training.networks import Critic, TanhGaussianPolicy, soft_update


class SACConfig(CriticConfig):
    """Stochastic actor that is paid for its entropy, with twin critics."""

    policy_rate: PositiveFloat = 3e-4
    """Adam step size of the policy and of the entropy temperature."""
    critic_rate: PositiveFloat = 3e-4
    """Adam step size of the critics."""
    target_entropy: float = -1.0
    """Entropy at which the policy is held, per action entry, in half action ranges [nat]. A lower
    one lets it come nearer to the limits."""


S = TypeVar("S", bound=SACConfig)


def policy_loss(q: Tensor, log_prob: Tensor, alpha: Tensor) -> Tensor:
    """Return alpha log pi(a|s) - min Q(s, a), a ~ pi (eq. 9), averaged over (B,)."""
    return (alpha * log_prob - q).mean()


def temperature_loss(log_alpha: Tensor, log_prob: Tensor, target_entropy: float) -> Tensor:
    """Return -log alpha (log pi + target entropy) (eq. 18, log alpha as in the authors' code).

    Alpha grows while the entropy is below its target.
    """
    return -(log_alpha * (log_prob.detach() + target_entropy)).mean()


class SAC(Algorithm[S]):
    """Maximises Q and entropy, wherever that leads: on a log alone, mostly outside the data."""

    config_type: ClassVar[type[SACConfig]] = SACConfig
    policy: TanhGaussianPolicy

    def build(self, dims: Dims) -> None:
        """Create networks, targets and optimisers."""
        config, sizes = self.config, (dims.observation, dims.action, self.config.hidden)
        self.policy = TanhGaussianPolicy(*sizes, self.generator)
        self.q = Critic(2, *sizes, self.generator)
        self.q_target = copy.deepcopy(self.q).requires_grad_(False)
        self.target_entropy = config.target_entropy * dims.action
        self.log_alpha = nn.Parameter(torch.zeros((), device=self.generator.device))
        self.policy_optimizer = Adam(self.policy.parameters(), config.policy_rate)
        self.q_optimizer = Adam(self.q.parameters(), config.critic_rate)
        self.alpha_optimizer = Adam([self.log_alpha], config.policy_rate)

    def update(self, batch: Batch) -> Metrics:
        """Update the temperature, the policy, the critics, the target."""
        metrics = self.update_policy(batch) | self.update_critics(batch)
        soft_update(self.q_target, self.q, self.config.tau)
        self.updates += 1
        return metrics

    def update_policy(self, batch: Batch) -> Metrics:
        """Entropy temperature, then policy."""
        action, log_prob = self.policy.sample(batch.observations, 1, self.generator)
        action, log_prob = action.squeeze(1), log_prob.squeeze(1)  # (B, a), (B,)
        alpha = self.update_temperature(log_prob)
        loss = policy_loss(self.merit(batch, action), log_prob, alpha)
        descend(self.policy_optimizer, loss)
        return {"policy_loss": loss.detach(), "alpha": alpha}

    def update_temperature(self, log_prob: Tensor) -> Tensor:
        """Take a step towards the target entropy, given log pi(a|s) (B,); return alpha ()."""
        loss = temperature_loss(self.log_alpha, log_prob, self.target_entropy)
        descend(self.alpha_optimizer, loss)
        return self.log_alpha.detach().exp()

    def merit(self, batch: Batch, action: Tensor) -> Tensor:
        """Return what the policy climbs (B,) besides its entropy: Q(s, a) of its actions (B, a)."""
        return self.pooled(self.q(batch.observations, action))

    def pooled(self, q: Tensor) -> Tensor:
        """Return the value (B,) that the policy climbs, of those of all critics (K, B)."""
        return q.amin(0)

    def update_critics(self, batch: Batch) -> Metrics:
        """Bellman error."""
        q = self.q(batch.observations, batch.actions)  # (2, B)
        loss = td_loss(q, self.target(batch))
        descend(self.q_optimizer, loss)
        return {"q_loss": loss.detach(), "q": q.detach().mean()}

    @torch.no_grad()
    def target(self, batch: Batch) -> Tensor:
        """Return r + gamma (1 - d) V(s') (B,)."""
        next_value = self.next_value(batch.next_observations)
        return td_target(batch.rewards, batch.discounts, next_value)

    def next_value(self, observations: Tensor) -> Tensor:
        """Return the soft value min Q'(s, a) - alpha log pi(a|s), a ~ pi (eq. 3), (B,)."""
        action, log_prob = self.policy.sample(observations, 1, self.generator)
        q = self.q_target(observations, action.squeeze(1)).amin(0)  # (B,)
        value: Tensor = q - self.log_alpha.exp() * log_prob.squeeze(1)
        return value
