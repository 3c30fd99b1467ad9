"""Each constraint holds the policy to the data, and without it the policy leaves them.

In all of these the task ends after one action, whose reward is the action itself: the more, the
better. The driver never commanded more than half of what is allowed.
"""

from typing import Any

import torch
from offrl_training.algorithms import ALGORITHMS
from offrl_training.algorithms.base import Algorithm, Batch, Dims
from offrl_training.networks import Normaliser

EDGE = 0.5
"""Largest action in the data, of 1."""


def bandit(random: torch.Generator, size: int = 64) -> Batch:
    """Actions uniform in [-EDGE, EDGE], whatever the state."""
    s = torch.randn(size, 1, generator=random)
    a = EDGE * (2.0 * torch.rand(size, 1, generator=random) - 1.0)
    return Batch(s, a, a.squeeze(1), s, torch.zeros(size), torch.zeros(size))


def learned_action(name: str, steps: int, **settings: Any) -> float:
    """Train on the bandit; return the mean action of the policy."""
    random = torch.Generator().manual_seed(0)
    kind = ALGORITHMS[name]
    config = kind.config_type.model_validate({"hidden": (32, 32), **settings})
    algorithm: Algorithm[Any] = kind(
        config, Dims(1, 1, steps), Normaliser(1, [(-1.0, 1.0)]), random
    )
    for _ in range(steps):
        algorithm.update(bandit(random))
    with torch.no_grad():
        return float(algorithm.policy(torch.linspace(-1.5, 1.5, 50)[:, None]).mean())


def test_bcq_stays_in_the_support_unless_its_perturbation_is_large() -> None:
    small = {"vae_hidden": (32, 32)}
    assert 0.0 < learned_action("bcq", 300, **small) < EDGE
    assert learned_action("bcq", 300, phi=2.0, **small) > 1.8 * EDGE
