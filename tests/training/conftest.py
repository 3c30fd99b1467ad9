"""A point on a line, logged by a driver who is right half of the time."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from offrl_contract import Robot, robot_from_yaml
from offrl_data.dataset import Dataset, Episode, load_dataset
from offrl_data.dataset_writer import DatasetWriter
from offrl_training.algorithms.base import AlgorithmConfig

ROBOT = """
robot: point
rate: 5.0
observation:
  - {name: x, topic: /odom, type: nav_msgs/msg/Odometry, field: pose.pose.position.x}
action:
  - {name: cmd, topic: /cmd_vel, type: geometry_msgs/msg/Twist, field: linear.x, limits: [[-0.5, 1.5]], safe: [0.0]}
reward: "-abs(next_x_0 - 10.0)"
"""  # noqa: E501
GOAL, STILL, SPEED = 10.0, 0.5, 0.8
"""The goal [m], the middle of the action range [m/s], and the driver's usual speed about it."""

Make = Callable[..., Path]


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def robot() -> Robot:
    return robot_from_yaml(ROBOT, "point.yaml")


def small(kind: type[AlgorithmConfig], **settings: object) -> AlgorithmConfig:
    """Settings with every network of two layers of 16."""
    widths = {name: (16, 16) for name in kind.model_fields if name.endswith("hidden")}
    return kind.model_validate({**widths, **settings})


def drive(random: np.random.Generator, length: int, terminal: bool, source: str) -> Episode:
    """The point moves by 0.2 s times (action - 0.5): half the commands lead away from the goal."""
    x = np.empty(length + 1, np.float32)
    x[0] = GOAL + random.uniform(-1.0, 1.0)
    actions = np.empty(length, np.float32)
    for k in range(length):
        towards = np.sign(GOAL - x[k]) * random.choice([-1.0, 1.0])
        actions[k] = STILL + np.clip(SPEED * towards + random.normal(0.0, 0.1), -1.0, 1.0)
        x[k + 1] = np.clip(x[k] + 0.2 * (actions[k] - STILL), GOAL - 1.0, GOAL + 1.0)
    rewards = -np.abs(x[1:] - GOAL)
    return Episode(x[:, None], actions[:, None], rewards, terminal, source)


@pytest.fixture(scope="session")
def make(tmp_path_factory: pytest.TempPathFactory, robot: Robot) -> Make:
    """Write a dataset of the point; every third episode ends by a terminal."""

    def write(episodes: int = 10, length: int = 40, seed: int = 0) -> Path:
        path = tmp_path_factory.mktemp("data") / f"point_{episodes}_{length}_{seed}.h5"
        random = np.random.default_rng(seed)
        with DatasetWriter(path, robot) as writer:
            for index in range(episodes):
                writer.append(drive(random, length, index % 3 == 0, f"bag_{index}"))
            writer.finish({})
        return path

    return write


@pytest.fixture(scope="session")
def path(make: Make) -> Path:
    return make()


@pytest.fixture(scope="session")
def dataset(path: Path) -> Dataset:
    return load_dataset(path)
