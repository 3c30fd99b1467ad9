"""Choosing among several actions per state by their Q (BCQ, arXiv 1812.02900)."""

import torch
from torch import Tensor

from offrl_training.networks import Critic, pairs


def soft_clipped_value(q: Tensor, lam: float) -> Tensor:
    """Return max_a [lambda min_k Q_k + (1 - lambda) max_k Q_k] (B,) of Q (K, B, n)."""
    return (lam * q.amin(0) + (1.0 - lam) * q.amax(0)).amax(-1)


def best_candidate(q: Critic, observation: Tensor, actions: Tensor) -> Tensor:
    """Return the action (B, a), of n (B, n, a), that the first critic prefers."""
    values = q.first(*pairs(observation, actions))  # (B n,)
    chosen = values.view(-1, actions.shape[1]).argmax(-1)  # (B,)
    index = chosen[:, None, None].expand(-1, 1, actions.shape[-1])
    return torch.gather(actions, 1, index).squeeze(1)
