"""Conservative Q-Learning, CQL(H). Kumar, Zhou, Tucker, Levine 2020, arXiv 2006.04779.

SAC with a penalty on Q outside the data. Settings are those of the authors' code
(aviralkumar2907/CQL) with a fixed penalty weight: no Lagrange multiplier, no entropy in the backup.
"""

import copy
import math

import torch
from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt
from torch import Tensor, nn

from offrl_training.algorithms.base import Algorithm, Batch, CriticConfig, Dims, Metrics
from offrl_training.losses import adam, descend, td_loss, td_target
from offrl_training.networks import Critic, TanhGaussianPolicy, soft_update


class CQLConfig(CriticConfig):
    """SAC whose critics are pushed down outside the data."""

    hidden: tuple[PositiveInt, ...] = Field((256, 256, 256), min_length=1)
    """Width of each hidden layer, of policies and critics alike."""
    policy_rate: PositiveFloat = 1e-4
    """Adam step size of the policy and of the entropy temperature."""
    critic_rate: PositiveFloat = 3e-4
    """Adam step size of the critics."""
    weight: NonNegativeFloat = 5.0
    """alpha of eq. 4: weight of the penalty."""
    samples: PositiveInt = 10
    """Actions drawn per state from each of: uniform, pi(s), pi(s')."""
    temperature: PositiveFloat = 1.0
    """Temperature of the log-sum-exp; in the authors' code, not in the paper."""


def conservative_penalty(
    q: Tensor, log_density: Tensor, q_data: Tensor, temperature: float
) -> Tensor:
    """Return log sum_a exp Q(s, a) - Q(s, a_data) (eq. 4): mean over (B,), sum over critics.

    q (K, B, n) at sampled actions, log_density (B, n) of these samples (appendix F: each counts
    by 1 / density), q_data (K, B). The constant -log n is left out, as in the authors' code.
    """
    soft_maximum = ((q - log_density) / temperature).logsumexp(-1) * temperature  # (K, B)
    return (soft_maximum - q_data).mean(-1).sum()


def policy_loss(q: Tensor, log_prob: Tensor, alpha: Tensor) -> Tensor:
    """Return alpha log pi(a|s) - min Q(s, a), a ~ pi, averaged over (B,) (SAC)."""
    return (alpha * log_prob - q).mean()


def temperature_loss(log_alpha: Tensor, log_prob: Tensor, target_entropy: float) -> Tensor:
    """Return -log alpha (log pi + target entropy).

    Alpha grows while the entropy is below its target.
    """
    return -(log_alpha * (log_prob.detach() + target_entropy)).mean()


class CQL(Algorithm[CQLConfig]):
    """Learns critics that do not overrate actions the data lacks, and a policy on them."""

    config_type = CQLConfig
    policy: TanhGaussianPolicy

    def build(self, dims: Dims) -> None:
        """Create networks, targets and optimisers."""
        config, sizes = self.config, (dims.observation, dims.action, self.config.hidden)
        self.policy = TanhGaussianPolicy(*sizes, self.generator)
        self.q = Critic(2, *sizes, self.generator)
        self.q_target = copy.deepcopy(self.q).requires_grad_(False)
        self.log_alpha = nn.Parameter(torch.zeros((), device=self.generator.device))
        self.policy_optimizer = adam(self.policy.parameters(), config.policy_rate)
        self.q_optimizer = adam(self.q.parameters(), config.critic_rate)
        self.alpha_optimizer = adam([self.log_alpha], config.policy_rate)

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
        alpha_loss = temperature_loss(self.log_alpha, log_prob, -float(action.shape[-1]))
        descend(self.alpha_optimizer, alpha_loss)
        q = self.q(batch.observations, action).amin(0)  # (B,)
        loss = policy_loss(q, log_prob, self.log_alpha.detach().exp())
        descend(self.policy_optimizer, loss)
        return {"policy_loss": loss.detach(), "alpha": self.log_alpha.detach().exp()}

    def update_critics(self, batch: Batch) -> Metrics:
        """Bellman error plus the conservative penalty."""
        config = self.config
        with torch.no_grad():
            next_action, _ = self.policy.sample(batch.next_observations, 1, self.generator)
            next_value = self.q_target(batch.next_observations, next_action.squeeze(1)).amin(0)
            target = td_target(batch.rewards, batch.terminals, next_value, config.gamma)  # (B,)
            actions, log_density = self.sample_actions(batch)  # (B, 3n, a), (B, 3n)
        actions = torch.cat([batch.actions.unsqueeze(1), actions], 1)  # (B, 1 + 3n, a)
        count = actions.shape[1]
        states = batch.observations.repeat_interleave(count, 0)  # (B (1 + 3n), o)
        q_all = self.q(states, actions.flatten(0, 1)).unflatten(1, (-1, count))  # (2, B, 1 + 3n)
        q_data, q = q_all[..., 0], q_all[..., 1:]
        bellman = td_loss(q_data, target)
        penalty = conservative_penalty(q, log_density, q_data, config.temperature)
        descend(self.q_optimizer, bellman + config.weight * penalty)
        return {
            "q_loss": bellman.detach(),
            "penalty": penalty.detach(),
            "q": q_data.detach().mean(),
        }

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
