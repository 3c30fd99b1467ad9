"""Models of who drove, and how far a policy is from them: VAE, clipped latents, MMD."""

from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from offrl_training.networks import MLP

Kernel = Literal["laplacian", "gaussian"]

_KL_WEIGHT = 0.5
_LATENT_LIMIT = 0.5


class VAE(nn.Module):
    """Conditional VAE of the data's actions, with 2 a latents (BCQ, arXiv 1812.02900).

    What it decodes is not squashed yet: an action is the tanh of it.
    """

    LOG_STD = (-4.0, 15.0)

    def __init__(
        self, observations: int, actions: int, hidden: Sequence[int], generator: torch.Generator
    ) -> None:
        super().__init__()
        self.latents = 2 * actions
        self.encoder = MLP(observations + actions, hidden, 2 * self.latents, generator)
        self.decoder = MLP(observations + self.latents, hidden, actions, generator)

    def encode(self, observation: Tensor, action: Tensor) -> tuple[Tensor, Tensor]:
        """Return mean and log-deviation (B, 2 a) of the latents of actions (B, a)."""
        mean, log_std = self.encoder(torch.cat([observation, action], -1)).chunk(2, -1)
        return mean, log_std.clamp(*self.LOG_STD)

    def decode(self, observation: Tensor, latents: Tensor) -> Tensor:
        """Return unsquashed actions (B, n, a) for n latents (B, n, 2 a) per state."""
        states = observation.unsqueeze(1).expand(-1, latents.shape[1], -1)
        raw: Tensor = self.decoder(torch.cat([states, latents], -1))
        return raw

    def sample(self, observation: Tensor, count: int, generator: torch.Generator) -> Tensor:
        """Draw n unsquashed actions (B, n, a) per state."""
        return self.decode(
            observation, clipped_latents((len(observation), count, self.latents), generator)
        )

    def loss(self, observation: Tensor, action: Tensor, generator: torch.Generator) -> Tensor:
        """Return the negative ELBO of actions (B, a) by one reparametrised sample."""
        mean, log_std = self.encode(observation, action)
        noise = torch.randn(mean.shape, generator=generator, device=generator.device)
        latents = (mean + log_std.exp() * noise).unsqueeze(1)
        return vae_loss(self.decode(observation, latents).squeeze(1).tanh(), action, mean, log_std)


def vae_loss(action: Tensor, data_action: Tensor, mean: Tensor, log_std: Tensor) -> Tensor:
    """Return squared error plus half of KL(N(mean, std^2) || N(0, 1)): the ELBO's negative.

    Both are averaged over the batch and over the entries, as in the codes of BCQ and BEAR.
    """
    divergence = 0.5 * ((2.0 * log_std).exp() + mean.square() - 1.0) - log_std
    return F.mse_loss(action, data_action) + _KL_WEIGHT * divergence.mean()


def clipped_latents(shape: Sequence[int], generator: torch.Generator) -> Tensor:
    """Draw latents from N(0, 1) clipped to +-0.5, the densest part of the prior (BCQ's code)."""
    latents = torch.randn(tuple(shape), generator=generator, device=generator.device)
    return latents.clamp(-_LATENT_LIMIT, _LATENT_LIMIT)


def squared_mmd(x: Tensor, y: Tensor, kernel: Kernel, sigma: float) -> Tensor:
    """Return MMD^2 (B,) between samples x (B, n, a) and y (B, m, a) (BEAR, 1906.00949).

    k(x, y) is exp(-|x - y|_1 / (2 sigma)) or exp(-|x - y|_2^2 / (2 sigma)), as in BEAR's code.
    """

    def mean_kernel(left: Tensor, right: Tensor) -> Tensor:
        apart = left.unsqueeze(2) - right.unsqueeze(1)  # (B, n, m, a)
        distance = (apart.abs() if kernel == "laplacian" else apart.square()).sum(-1)
        return (-distance / (2.0 * sigma)).exp().mean((1, 2))

    return mean_kernel(x, x) + mean_kernel(y, y) - 2.0 * mean_kernel(x, y)
