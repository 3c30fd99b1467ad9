"""Half of the data drives the wrong way: cloning it goes nowhere, learning from it arrives."""

from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from offrl_data.dataset import load_dataset
from offrl_training.algorithms import ALGORITHMS
from offrl_training.config import TrainingConfig
from offrl_training.trainer import Trainer

from .conftest import GOAL, SPEED, STILL, Make

SETTINGS = {
    "bc": {"learning_rate": 1e-3},
    "td3_bc": {"learning_rate": 1e-3, "alpha": 10.0},
    "iql": {"learning_rate": 1e-3, "beta": 20.0},
    "cql": {"policy_rate": 3e-3, "critic_rate": 1e-3, "weight": 1.0, "samples": 4},
    "bear": {
        "vae_hidden": (32, 32),
        "policy_rate": 3e-3,
        "critic_rate": 1e-3,
        "threshold": 0.3,
        "candidates": 20,
    },
    "bcq": {"vae_hidden": (32, 32), "candidates": 20},
    "spibb": {"learning_rate": 1e-3},
    "brac": {"policy_hidden": (32, 32), "policy_rate": 1e-3, "clone_rate": 3e-3, "alpha": 0.1},
}


@pytest.fixture(scope="module")
def mixed(make: Make) -> Path:
    return make(episodes=60, length=40)


@cache
def train(name: str, path: Path) -> Trainer:
    """Train a small policy with a short horizon, as the task is over in ten ticks."""
    settings = {"hidden": (32, 32), "gamma": 0.8, **SETTINGS[name]}
    training = TrainingConfig(steps=1000, batch=64)
    config = ALGORITHMS[name].config_type.model_validate(settings)
    trainer = Trainer(name, config, training, load_dataset(path))
    for _ in range(training.steps):
        trainer.advance()
    return trainer


def speeds(trainer: Trainer) -> np.ndarray:
    """Commanded speed towards the goal [m/s] on both sides of it."""
    x = torch.tensor([[-0.8], [-0.4], [0.4], [0.8]]) + GOAL
    action = trainer.algorithm.act(x).detach().flatten() - STILL
    return (action * torch.tensor([1.0, 1.0, -1.0, -1.0])).numpy()


def test_cloning_goes_nowhere(mixed: Path) -> None:
    assert np.abs(speeds(train("bc", mixed))).max() < 0.5 * SPEED


@pytest.mark.parametrize("name", [name for name in SETTINGS if name != "bc"])
def test_offline_learning_drives_to_the_goal(name: str, mixed: Path) -> None:
    assert speeds(train(name, mixed)).min() > 0.6 * SPEED


def test_gate_critics_disagree_more_where_there_is_no_data(mixed: Path) -> None:
    trainer = train("iql", mixed)
    inside = torch.linspace(GOAL - 0.9, GOAL + 0.9, 50)[:, None]
    far = torch.cat([torch.linspace(-30, 0, 25), torch.linspace(20, 50, 25)])[:, None]

    def spread(x: torch.Tensor) -> float:
        with torch.no_grad():
            return float(trainer.gate_critics(x, trainer.algorithm.act(x)).std(0).median())

    assert spread(far) > 10.0 * spread(inside)
