"""Several seeds in one program: each is what it would be alone."""

import warnings
from typing import Any

import pytest
import torch
from offrl_data.dataset import Dataset
from offrl_training.algorithms import ALGORITHMS
from offrl_training.seed_batch import SeedBatch
from offrl_training.trainer import Trainer

from .test_algorithms import SHORT
from .test_trainer import trainer

SEEDS = (3, 4)
STEPS = 6
# The first steps of Adam have the size of the step size, whatever the gradient: rounding in a
# gradient of nearly 0 shows. At most so much of a thousandth (the largest step size) is allowed.
TOLERANCE = 1e-6


def trainers(name: str, dataset: Dataset, **settings: Any) -> list[Trainer]:
    given = {"steps": 100, "batch": 32, **settings}
    return [trainer(name, dataset, seed=seed, **given) for seed in SEEDS]


@pytest.mark.parametrize("name", ALGORITHMS)
def test_each_seed_is_as_alone(name: str, dataset: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    """Parameters, targets, optimisers, random numbers, counters and metrics."""
    alone, together = trainers(name, dataset), trainers(name, dataset)
    batch = SeedBatch(together)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # of operations that vmap takes one by one
        for _ in range(STEPS):
            batch.advance()
    for single, part in zip(alone, together, strict=True):
        for _ in range(STEPS):
            single.advance()
        mine, theirs = part.state(), single.state()
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-6)
