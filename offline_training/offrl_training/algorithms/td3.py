"""TD3. Fujimoto, van Hoof, Meger 2018, arXiv 1802.09477.

Made for learning online. On a log alone, nothing corrects Q where the log has no actions: this is
the baseline that shows what `td3_bc` is for. Settings are those of the authors' code (sfujim/TD3).
"""

import copy
from typing import ClassVar, TypeVar

import torch
from pydantic import NonNegativeFloat, PositiveFloat, PositiveInt
from torch import Tensor

from offrl_training.adam import Adam
from offrl_training.algorithms.base import Algorithm, Batch, CriticConfig, Dims, Metrics
from offrl_training.losses import descend, td_loss, td_target
from offrl_training.networks import Critic, DeterministicPolicy, soft_update


class TD3Config(CriticConfig):
    """Deterministic actor with twin critics."""

    learning_rate: PositiveFloat = 3e-4
    """Adam step size of policy and critics."""
    target_noise: NonNegativeFloat = 0.2
    """Deviation of the noise on the target action, in half action ranges."""
    noise_clip: NonNegativeFloat = 0.5
    """Largest such noise."""
    policy_delay: PositiveInt = 2
    """Critic updates per policy update."""


T = TypeVar("T", bound=TD3Config)


class TD3(Algorithm[T]):
    """Maximises Q, wherever that leads: on a log alone, mostly outside the data."""

    config_type: ClassVar[type[TD3Config]] = TD3Config

    def build(self, dims: Dims) -> None:
        """Create networks, targets and optimisers."""
        config, sizes = self.config, (dims.observation, dims.action, self.config.hidden)
        self.policy = DeterministicPolicy(*sizes, self.generator)
        self.q = Critic(2, *sizes, self.generator)
        self.policy_target = copy.deepcopy(self.policy).requires_grad_(False)
        self.q_target = copy.deepcopy(self.q).requires_grad_(False)
        self.policy_optimizer = Adam(self.policy.parameters(), config.learning_rate)
        self.q_optimizer = Adam(self.q.parameters(), config.learning_rate)

    def update(self, batch: Batch) -> Metrics:
        """Update the critics; every `policy_delay` steps also the policy and the targets."""
        metrics = self.update_critics(batch)
        self.updates += 1
        if self.updates % self.config.policy_delay == 0:
            metrics |= self.update_policy(batch)
            soft_update(self.q_target, self.q, self.config.tau)
            soft_update(self.policy_target, self.policy, self.config.tau)
        return metrics

    def update_critics(self, batch: Batch) -> Metrics:
        """Clipped double Q with target policy smoothing (algorithm 1)."""
        config = self.config
        with torch.no_grad():
            noise = torch.empty_like(batch.actions).normal_(generator=self.generator)
            noise = (noise * config.target_noise).clamp(-config.noise_clip, config.noise_clip)
            next_action = (self.policy_target(batch.next_observations) + noise).clamp(-1.0, 1.0)
            next_value = self.q_target(batch.next_observations, next_action).amin(0)  # (B,)
            target = td_target(batch.rewards, batch.discounts, next_value)
        q = self.q(batch.observations, batch.actions)  # (2, B)
        loss = td_loss(q, target)
        descend(self.q_optimizer, loss)
        return {"q_loss": loss.detach(), "q": q.detach().mean()}

    def update_policy(self, batch: Batch) -> Metrics:
        """One step of the policy, by the first critic as in the authors' code."""
        action = self.policy(batch.observations)
        q = self.q.first(batch.observations, action)  # (B,)
        loss = self.policy_loss(q, action, batch)
        descend(self.policy_optimizer, loss)
        return {"policy_loss": loss.detach()}

    def policy_loss(self, q: Tensor, action: Tensor, batch: Batch) -> Tensor:  # noqa: ARG002
        """Return -Q(s, pi(s)), averaged over (B,)."""
        return -q.mean()
