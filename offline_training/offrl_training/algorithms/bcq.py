"""Batch-Constrained Q-learning. Fujimoto, Meger, Precup 2019, arXiv 1812.02900.

Update order and settings are those of the authors' code (sfujim/BCQ), which trains on batches of
100. There the policy draws new latents at each step; here it keeps one set, so that it is
deterministic.
"""

import copy
from collections.abc import Sequence

import torch
from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt
from torch import Tensor, nn

from offrl_training.adam import Adam
from offrl_training.algorithms.base import Algorithm, Batch, CriticConfig, Dims, Metrics
from offrl_training.behaviour import VAE, clipped_latents
from offrl_training.candidates import best_candidate, soft_clipped_value
from offrl_training.losses import descend, td_loss, td_target
from offrl_training.networks import MLP, Critic, soft_update


class BCQConfig(CriticConfig):
    """Chooses among actions that a model of the data proposes."""

    hidden: tuple[PositiveInt, ...] = Field((400, 300), min_length=1)
    """Width of each hidden layer, of perturbation and critics."""
    vae_hidden: tuple[PositiveInt, ...] = Field((750, 750), min_length=1)
    """Width of each hidden layer of the VAE's encoder and decoder."""
    learning_rate: PositiveFloat = 1e-3
    """Adam step size of all networks."""
    lam: float = Field(0.75, ge=0.0, le=1.0)
    """lambda of clipped double Q-learning: weight of the smallest critic against the largest."""
    phi: NonNegativeFloat = 0.05
    """Largest perturbation of a proposed action, in half action ranges."""
    samples: PositiveInt = 10
    """Proposed actions per next state in the target."""
    candidates: PositiveInt = 100
    """Proposed actions that the policy chooses from."""


class Perturbation(nn.Module):
    """xi_phi(s, a): the action, moved by at most phi."""

    def __init__(
        self, dims: Dims, hidden: Sequence[int], phi: float, generator: torch.Generator
    ) -> None:
        super().__init__()
        self.phi = phi
        self.mlp = MLP(dims.observation + dims.action, hidden, dims.action, generator)

    def forward(self, observation: Tensor, actions: Tensor) -> Tensor:
        """Return the perturbed actions (B, n, a) of n (B, n, a) per state (B, o)."""
        states = observation.unsqueeze(1).expand(-1, actions.shape[1], -1)
        shift: Tensor = self.phi * self.mlp(torch.cat([states, actions], -1)).tanh()
        return (actions + shift).clamp(-1.0, 1.0)


class BCQPolicy(nn.Module):
    """The best, by Q, of the perturbed actions of fixed latents."""

    latents: Tensor
    """(n, 2 a)"""

    def __init__(self, dims: Dims, config: BCQConfig, generator: torch.Generator) -> None:
        super().__init__()
        sizes = (dims.observation, dims.action)
        self.vae = VAE(*sizes, config.vae_hidden, generator)
        self.perturbation = Perturbation(dims, config.hidden, config.phi, generator)
        self.q = Critic(2, *sizes, config.hidden, generator)
        shape = (config.candidates, self.vae.latents)
        self.register_buffer("latents", clipped_latents(shape, generator))

    def forward(self, observation: Tensor) -> Tensor:
        """Return the action (B, a)."""
        return self.choose(observation, self.latents)

    def choose(self, observation: Tensor, latents: Tensor) -> Tensor:
        """Return the best action (B, a) of those of n latents (n, 2 a)."""
        proposed = self.vae.decode(observation, latents.expand(len(observation), -1, -1)).tanh()
        return best_candidate(self.q, observation, self.perturbation(observation, proposed))


class BCQ(Algorithm[BCQConfig]):
    """Maximises Q over actions that a VAE of the data proposes, each moved a little."""

    config_type = BCQConfig
    chooses = True
    policy: BCQPolicy

    def build(self, dims: Dims) -> None:
        """Create networks, targets and optimisers."""
        self.policy = BCQPolicy(dims, self.config, self.generator)
        policy, rate = self.policy, self.config.learning_rate
        self.perturbation_target = copy.deepcopy(policy.perturbation).requires_grad_(False)
        self.q_target = copy.deepcopy(policy.q).requires_grad_(False)
        self.vae_optimizer = Adam(policy.vae.parameters(), rate)
        self.perturbation_optimizer = Adam(policy.perturbation.parameters(), rate)
        self.q_optimizer = Adam(policy.q.parameters(), rate)

    def quick_policy(self, observation: Tensor) -> Tensor:
        """Choose among as few actions as the target does."""
        return self.policy.choose(observation, self.policy.latents[: self.config.samples])

    def update(self, batch: Batch) -> Metrics:
        """Update the VAE, the critics, the perturbation, the targets."""
        policy, s = self.policy, batch.observations
        vae_loss = policy.vae.loss(s, batch.actions, self.generator)
        descend(self.vae_optimizer, vae_loss)

        q = policy.q(s, batch.actions)  # (2, B)
        q_loss = td_loss(q, self.targets(batch))
        descend(self.q_optimizer, q_loss)

        with torch.no_grad():
            proposed = policy.vae.sample(s, 1, self.generator).tanh()  # (B, 1, a)
        action = policy.perturbation(s, proposed).squeeze(1)
        loss = -policy.q.first(s, action).mean()
        descend(self.perturbation_optimizer, loss)
        soft_update(self.q_target, policy.q, self.config.tau)
        soft_update(self.perturbation_target, policy.perturbation, self.config.tau)
        self.updates += 1
        losses = {"vae_loss": vae_loss, "q_loss": q_loss, "policy_loss": loss}
        return {name: value.detach() for name, value in losses.items()} | {"q": q.detach().mean()}

    @torch.no_grad()
    def targets(self, batch: Batch) -> Tensor:
        """Return r + gamma (1 - d) of the soft clipped value at s' (B,)."""
        config, next_s = self.config, batch.next_observations
        proposed = self.policy.vae.sample(next_s, config.samples, self.generator).tanh()
        actions = self.perturbation_target(next_s, proposed)  # (B, n, a)
        next_value = soft_clipped_value(self.q_target.values(next_s, actions), config.lam)
        return td_target(batch.rewards, batch.discounts, next_value)
