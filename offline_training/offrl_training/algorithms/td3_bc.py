"""TD3+BC. Fujimoto, Gu 2021, arXiv 2106.06860.

Settings are those of the authors' code (sfujim/TD3_BC, main.py).
"""

import copy

import torch
from pydantic import NonNegativeFloat, PositiveFloat, PositiveInt
from torch import Tensor

from offrl_training.algorithms.base import Algorithm, Batch, CriticConfig, Dims, Metrics
from offrl_training.algorithms.bc import cloning_loss
from offrl_training.losses import adam, descend, td_loss, td_target
from offrl_training.networks import Critic, DeterministicPolicy, soft_update


class TD3BCConfig(CriticConfig):
    """TD3 with a pull towards the data's actions."""

    learning_rate: PositiveFloat = 3e-4
    """Adam step size of policy and critics."""
    alpha: NonNegativeFloat = 2.5
    """Weight of Q against cloning, eq. 5; 0 is behavioural cloning."""
    target_noise: NonNegativeFloat = 0.2
    """Deviation of the noise on the target action, in half action ranges."""
    noise_clip: NonNegativeFloat = 0.5
    """Largest such noise."""
    policy_delay: PositiveInt = 2
    """Critic updates per policy update."""


def policy_loss(q: Tensor, action: Tensor, data_action: Tensor, alpha: float) -> Tensor:
    """Return -lambda Q(s, pi(s)) + (pi(s) - a)^2, lambda = alpha / mean |Q| (eqs. 3 and 5)."""
    scale = alpha / q.abs().mean().detach()
    return -scale * q.mean() + cloning_loss(action, data_action)


class TD3BC(Algorithm[TD3BCConfig]):
    """Maximises Q, held near the data by a cloning term of fixed relative weight."""

    config_type = TD3BCConfig

    def build(self, dims: Dims) -> None:
        """Create networks, targets and optimisers."""
        config, sizes = self.config, (dims.observation, dims.action, self.config.hidden)
        self.policy = DeterministicPolicy(*sizes, self.generator)
        self.q = Critic(2, *sizes, self.generator)
        self.policy_target = copy.deepcopy(self.policy).requires_grad_(False)
        self.q_target = copy.deepcopy(self.q).requires_grad_(False)
        self.policy_optimizer = adam(self.policy.parameters(), config.learning_rate)
        self.q_optimizer = adam(self.q.parameters(), config.learning_rate)

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
        """Clipped double Q with target policy smoothing."""
        config = self.config
        with torch.no_grad():
            noise = torch.empty_like(batch.actions).normal_(generator=self.generator)
            noise = (noise * config.target_noise).clamp(-config.noise_clip, config.noise_clip)
            next_action = (self.policy_target(batch.next_observations) + noise).clamp(-1.0, 1.0)
            next_value = self.q_target(batch.next_observations, next_action).amin(0)  # (B,)
            target = td_target(batch.rewards, batch.terminals, next_value, config.gamma)
        q = self.q(batch.observations, batch.actions)  # (2, B)
        loss = td_loss(q, target)
        descend(self.q_optimizer, loss)
        return {"q_loss": loss.detach(), "q": q.detach().mean()}

    def update_policy(self, batch: Batch) -> Metrics:
        """One step of the policy, by the first critic as in the authors' code."""
        action = self.policy(batch.observations)
        q = self.q(batch.observations, action)[0]  # (B,)
        loss = policy_loss(q, action, batch.actions, self.config.alpha)
        descend(self.policy_optimizer, loss)
        return {"policy_loss": loss.detach()}
