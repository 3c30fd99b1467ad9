"""What several algorithms share: temporal-difference targets and losses, and one step down."""

import torch
from torch import Tensor

from offrl_training.adam import Adam


def td_target(rewards: Tensor, discounts: Tensor, next_value: Tensor) -> Tensor:
    """Return y = r + gamma (1 - d) V(s'), (B,) or (K, B) as next_value is.

    The discount is gamma (1 - d), with n-step returns gamma^n (1 - d). d is 1 at terminals only:
    where the log ended (a timeout) the task went on, and so does the return.
    """
    return rewards + discounts * next_value


def td_loss(q: Tensor, target: Tensor) -> Tensor:
    """Mean squared error over the batch, summed over critics: (K, B), (B,) or (K, B) to ()."""
    return (q - target).square().mean(-1).sum()


def descend(optimizer: Adam, loss: Tensor, rate: float | None = None) -> None:
    """Take one step down the loss in the optimiser's own parameters, touching no other's gradient.

    Of the optimiser's step size, or of `rate`.

    A policy loss runs through the critic; asking for the policy's gradients alone saves the
    critic's weight gradients and leaves nothing behind in them.
    """
    optimizer.descend(torch.autograd.grad(loss, optimizer.parameters), rate)
