"""Each constraint holds the policy to the data, and without it the policy leaves them.

In all of these the task ends after one action, whose reward is the action itself: the more, the
better. The driver never commanded more than half of what is allowed.
"""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from offrl_training.algorithms import ALGORITHMS
from offrl_training.algorithms.base import Algorithm, Batch, Dims, Metrics
from offrl_training.networks import Normaliser
from torch import Tensor

EDGE = 0.5
"""Largest action in the data, of 1."""

Driver = Callable[[torch.Generator], Tensor]


def uniform(random: torch.Generator) -> Tensor:
    """Anything in [-EDGE, EDGE]."""
    return EDGE * (2.0 * torch.rand(64, 1, generator=random) - 1.0)


def split(random: torch.Generator) -> Tensor:
    """In [0.2, EDGE] half of the time, else in [-1, -0.7]; the mean of both is in neither."""
    choice, within = torch.rand(2, 64, 1, generator=random)
    return torch.where(choice < 0.5, 0.2, -1.0) + 0.3 * within


def train(
    name: str, driver: Driver, steps: int, seed: int = 0, **settings: Any
) -> tuple[Algorithm[Any], list[Metrics]]:
    """Train on the driver's actions, whatever the state; return the metrics of each step, too."""
    random = torch.Generator().manual_seed(seed)
    kind = ALGORITHMS[name]
    config = kind.config_type.model_validate({"hidden": (32, 32), **settings})
    algorithm = kind(config, Dims(1, 1, steps), Normaliser(1, [(-1.0, 1.0)]), random)
    metrics, none, rows = [], torch.zeros(64), torch.arange(64)
    for _ in range(steps):
        s, a = torch.randn(64, 1, generator=random), driver(random)
        r = a.squeeze(1)
        metrics.append(algorithm.update(Batch(s, a, r, s, none, r, rows)))
    return algorithm.requires_grad_(False), metrics


def learned_action(name: str, driver: Driver, steps: int, **settings: Any) -> float:
    """Return the mean action of the trained policy."""
    algorithm, _ = train(name, driver, steps, **settings)
    return float(algorithm.policy(torch.linspace(-1.5, 1.5, 50)[:, None]).mean())


def test_bcq_takes_the_better_actions_in_the_support_unless_its_perturbation_is_large() -> None:
    assert learned_action("bc", split, 300, learning_rate=1e-3) < -0.1
    small = {"vae_hidden": (32, 32)}
    assert 0.2 < learned_action("bcq", split, 300, **small) < EDGE
    assert learned_action("bcq", split, 300, phi=2.0, **small) > 1.8 * EDGE


BEAR: dict[str, Any] = {"vae_hidden": (32, 32), "candidates": 10}


def test_bear_stays_in_the_support_unless_its_threshold_is_large() -> None:
    fast = {"policy_rate": 1e-3, "critic_rate": 1e-3, "alpha_rate": 0.03, **BEAR}
    assert abs(learned_action("bear", uniform, 300, **fast)) < 0.5 * EDGE
    assert learned_action("bear", uniform, 300, threshold=10.0, **fast) > 1.8 * EDGE


def test_bear_dual_variable_brings_the_mmd_to_its_threshold() -> None:
    """The tighter of two thresholds takes the larger weight."""
    fast = {"policy_rate": 3e-3, "critic_rate": 3e-3, "alpha_rate": 0.01, **BEAR}
    alpha = {}
    for threshold in (0.15, 0.25):
        _, metrics = train("bear", uniform, 350, threshold=threshold, **fast)
        mmd = torch.stack([each["mmd"] for each in metrics])
        assert float(mmd[-100:].mean()) == pytest.approx(threshold, rel=0.1)
        alpha[threshold] = float(metrics[-1]["alpha"])
    assert alpha[0.15] > 1.5 * alpha[0.25]


BRAC: dict[str, Any] = {
    "policy_hidden": (32, 32),
    "policy_rate": 3e-3,
    "critic_rate": 3e-3,
    "clone_rate": 3e-3,
    "warm_start": 0.3,
}


def test_brac_goes_as_far_as_its_weight_of_the_kl_says_and_without_it_out_of_the_data() -> None:
    """E[a] - alpha KL(N(m, s^2) || N(0, s_b^2)) is largest at m = s_b^2 / alpha."""
    alpha, variance = 0.25, EDGE**2 / 3.0
    action = learned_action("brac", uniform, 400, alpha=alpha, **BRAC)
    assert action == pytest.approx(variance / alpha, abs=0.1)
    assert learned_action("brac", uniform, 400, alpha=0.0, **BRAC) > 1.8 * EDGE


def test_brac_stays_in_the_support_by_the_mmd_and_without_it_does_not() -> None:
    mmd = {"divergence": "mmd", **BRAC}
    assert 0.1 < learned_action("brac", uniform, 400, alpha=20.0, **mmd) < 0.9 * EDGE
    assert learned_action("brac", uniform, 400, alpha=0.0, **mmd) > 1.8 * EDGE
