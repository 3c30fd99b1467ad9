"""Return-to-go against numbers worked out by hand: a terminal ends it, a timeout does not."""

from pathlib import Path

import numpy as np
import pytest
from offrl_contract import Robot
from offrl_data.dataset import Dataset, Episode, load_dataset
from offrl_data.dataset_writer import DatasetWriter
from offrl_training.returns import returns_to_go


@pytest.fixture
def dataset(robot: Robot, tmp_path: Path) -> Dataset:
    """A success, the same rewards cut by a timeout, and failures only."""
    episodes = [([-1.0, -1.0, 8.0], True), ([-1.0, -1.0, 8.0], False), ([-1.0, -1.0], False)]
    with DatasetWriter(tmp_path / "data.h5", robot) as writer:
        for rewards, terminal in episodes:
            length = len(rewards)
            states = np.zeros((length + 1, 1), np.float32)
            actions = np.zeros((length, 1), np.float32)
            writer.append(Episode(states, actions, np.array(rewards, np.float32), terminal, "bag"))
        writer.finish({})
    return load_dataset(tmp_path / "data.h5")


def test_a_terminal_ends_the_return(dataset: Dataset) -> None:
    assert returns_to_go(dataset, 0.5)[:3].tolist() == [0.5, 3.0, 8.0]


def test_after_a_timeout_the_mean_reward_goes_on_without_end(dataset: Dataset) -> None:
    # mean 2, so 2 / (1 - 0.5) = 4 follows: 8 + 2, -1 + 5, -1 + 2
    assert returns_to_go(dataset, 0.5)[3:6].tolist() == [1.0, 4.0, 10.0]


def test_an_episode_of_failures_is_worth_failing_for_ever(dataset: Dataset) -> None:
    np.testing.assert_allclose(returns_to_go(dataset, 0.99)[6:], -1.0 / (1.0 - 0.99), rtol=1e-9)


def test_gamma_zero_is_the_reward(dataset: Dataset) -> None:
    np.testing.assert_array_equal(returns_to_go(dataset, 0.0), dataset.rewards)
