"""Bootstrapping Error Accumulation Reduction. Kumar, Fu, Tucker, Levine 2019, arXiv 1906.00949.

Update order follows the authors' code (aviralkumar2907/BEAR): VAE, critics, policy, dual variable,
targets. Settings are those of d3rlpy's reproductions, whose two critics have no penalty on their
spread either. There the policy draws new actions at each step and takes the best; here it keeps one
set of noise, so that it is deterministic.
"""

import copy
from typing import NamedTuple

import torch
from pydantic import Field, PositiveFloat, PositiveInt
from torch import Tensor, nn

from offrl_training.adam import Adam
from offrl_training.algorithms.base import Algorithm, Batch, CriticConfig, Dims, Metrics
from offrl_training.behaviour import VAE, Kernel, squared_mmd
from offrl_training.candidates import best_candidate, soft_clipped_value
from offrl_training.losses import descend, td_loss, td_target
from offrl_training.networks import Critic, TanhGaussianPolicy, soft_update

_LOG_ALPHA = (-5.0, 10.0)
_SQRT_EPS = 1e-6


class BEARConfig(CriticConfig):
    """A policy whose samples must look like the data's."""

    vae_hidden: tuple[PositiveInt, ...] = Field((750, 750), min_length=1)
    """Width of each hidden layer of the VAE's encoder and decoder."""
    policy_rate: PositiveFloat = 1e-4
    """Adam step size of the policy."""
    critic_rate: PositiveFloat = 3e-4
    """Adam step size of the critics and of the VAE."""
    alpha_rate: PositiveFloat = 1e-3
    """Adam step size of the dual variable."""
    threshold: PositiveFloat = 0.05
    """epsilon: largest MMD between the actions of policy and VAE."""
    kernel: Kernel = "laplacian"
    """Kernel of the MMD: exp(-d / (2 sigma)), d the sum of |x - y| or, gaussian, of (x - y)^2."""
    sigma: PositiveFloat = 20.0
    """Width of the kernel, in the units of actions before their tanh."""
    mmd_samples: PositiveInt = 4
    """Actions per state, of each of policy and VAE, in the MMD."""
    samples: PositiveInt = 10
    """Actions per next state in the target."""
    candidates: PositiveInt = 100
    """Actions that the policy chooses from."""
    lam: float = Field(0.75, ge=0.0, le=1.0)
    """Weight of the smallest critic against the largest in the target."""
    warm_start: float = Field(0.04, ge=0.0, le=1.0)
    """Share of the run in which the policy learns the MMD alone first; d3rlpy takes 40000 steps."""


def constrained_loss(q: Tensor, mmd: Tensor, alpha: Tensor) -> Tensor:
    """Return -min_k mean_a Q_k(s, a) + alpha MMD (the Lagrangian), averaged over (B,).

    q is (K, B, n) at the policy's actions, mmd (B,).
    """
    return (alpha * mmd - q.mean(-1).amin(0)).mean()


def dual_loss(log_alpha: Tensor, mmd: Tensor, threshold: float) -> Tensor:
    """Return -alpha (MMD - epsilon), averaged over (B,): alpha grows while the MMD is too large."""
    return -(log_alpha.exp() * (mmd.detach() - threshold)).mean()


class Sampled(NamedTuple):
    """Actions of a policy."""

    raw: Tensor
    """(B, n, a) before squashing."""
    action: Tensor
    """(B, n, a) in [-1, 1]."""


class BEARActor(TanhGaussianPolicy):
    """The stochastic policy, by noise from outside."""

    def at(self, observation: Tensor, noise: Tensor) -> Sampled:
        """Return the actions for noise (B, n, a) or (n, a)."""
        mean, log_std = self.mlp(observation).unsqueeze(1).chunk(2, -1)  # (B, 1, a)
        raw = mean + log_std.clamp(*self.LOG_STD).exp() * noise
        return Sampled(raw, raw.tanh())


class BEARPolicy(nn.Module):
    """The best, by Q, of the stochastic policy's actions at fixed noise."""

    noise: Tensor
    """(n, a)"""

    def __init__(self, dims: Dims, config: BEARConfig, generator: torch.Generator) -> None:
        super().__init__()
        sizes = (dims.observation, dims.action, config.hidden)
        self.actor = BEARActor(*sizes, generator)
        self.q = Critic(2, *sizes, generator)
        shape = (config.candidates, dims.action)
        noise = torch.randn(shape, generator=generator, device=generator.device)
        self.register_buffer("noise", noise)

    def forward(self, observation: Tensor) -> Tensor:
        """Return the action (B, a)."""
        return self.choose(observation, self.noise)

    def choose(self, observation: Tensor, noise: Tensor) -> Tensor:
        """Return the best action (B, a) of those at noise (n, a)."""
        return best_candidate(self.q, observation, self.actor.at(observation, noise).action)


class BEAR(Algorithm[BEARConfig]):
    """Maximises Q as far as the policy's samples stay in the support of the data's actions."""

    config_type = BEARConfig
    chooses = True
    policy: BEARPolicy

    def build(self, dims: Dims) -> None:
        """Create networks, targets and optimisers."""
        config = self.config
        self.policy = BEARPolicy(dims, config, self.generator)
        self.vae = VAE(dims.observation, dims.action, config.vae_hidden, self.generator)
        self.actor_target = copy.deepcopy(self.policy.actor).requires_grad_(False)
        self.q_target = copy.deepcopy(self.policy.q).requires_grad_(False)
        self.log_alpha = nn.Parameter(torch.zeros((), device=self.generator.device))
        self.vae_optimizer = Adam(self.vae.parameters(), config.critic_rate)
        self.q_optimizer = Adam(self.policy.q.parameters(), config.critic_rate)
        self.policy_optimizer = Adam(self.policy.actor.parameters(), config.policy_rate)
        self.alpha_optimizer = Adam([self.log_alpha], config.alpha_rate)
        self.warm_updates = int(config.warm_start * dims.steps)

    def quick_policy(self, observation: Tensor) -> Tensor:
        """Choose among as few actions as the target does."""
        return self.policy.choose(observation, self.policy.noise[: self.config.samples])

    def update(self, batch: Batch) -> Metrics:
        """Update the VAE, the critics, the policy, the dual variable, the targets."""
        vae_loss = self.vae.loss(batch.observations, batch.actions, self.generator)
        descend(self.vae_optimizer, vae_loss)

        q = self.policy.q(batch.observations, batch.actions)  # (2, B)
        q_loss = td_loss(q, self.targets(batch))
        descend(self.q_optimizer, q_loss)

        metrics = self.update_policy(batch.observations)
        soft_update(self.q_target, self.policy.q, self.config.tau)
        soft_update(self.actor_target, self.policy.actor, self.config.tau)
        self.updates += 1
        losses = {"vae_loss": vae_loss.detach(), "q_loss": q_loss.detach()}
        return losses | metrics | {"q": q.detach().mean()}

    def update_policy(self, s: Tensor) -> Metrics:
        """Policy, then dual variable; in the warm start Q has no say."""
        config = self.config
        with torch.no_grad():
            data = self.vae.sample(s, config.mmd_samples, self.generator)  # (B, n, a)
        sampled = self.policy.actor.at(s, self.draw(len(s), config.mmd_samples))
        # before squashing, as in the authors' code: there the edge of the box is not crowded
        mmd = (squared_mmd(data, sampled.raw, config.kernel, config.sigma) + _SQRT_EPS).sqrt()
        alpha = self.log_alpha.detach().exp()
        if self.updates < self.warm_updates:
            loss = (alpha * mmd).mean()
        else:
            loss = constrained_loss(self.policy.q.values(s, sampled.action), mmd, alpha)
        descend(self.policy_optimizer, loss)
        descend(self.alpha_optimizer, dual_loss(self.log_alpha, mmd, config.threshold))
        with torch.no_grad():
            self.log_alpha.clamp_(*_LOG_ALPHA)
        return {"policy_loss": loss.detach(), "mmd": mmd.detach().mean(), "alpha": alpha}

    @torch.no_grad()
    def targets(self, batch: Batch) -> Tensor:
        """Return r + gamma (1 - d) of the soft clipped value at s' (B,), as BCQ's."""
        config, next_s = self.config, batch.next_observations
        actions = self.actor_target.at(next_s, self.draw(len(next_s), config.samples)).action
        next_value = soft_clipped_value(self.q_target.values(next_s, actions), config.lam)
        return td_target(batch.rewards, batch.discounts, next_value)

    def draw(self, size: int, count: int) -> Tensor:
        """Draw noise (B, n, a)."""
        shape = (size, count, self.policy.noise.shape[-1])
        return torch.randn(shape, generator=self.generator, device=self.generator.device)
