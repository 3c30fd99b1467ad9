"""Returns, n-step returns and normalised rewards, against numbers worked out by hand."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from offrl_contract import InputError, Robot
from offrl_data.dataset import Dataset, Episode, load_dataset
from offrl_data.dataset_writer import DatasetWriter
from offrl_training.algorithms.base import Batch
from offrl_training.config import RewardScale, TrainingConfig
from offrl_training.returns import n_step_returns, returns_to_go
from offrl_training.rewards import RewardMap, reward_map
from offrl_training.sampler import unpack
from offrl_training.statistics import Moments
from offrl_training.transitions import prepare

SUCCESS, CUT, FAILURES = [-1.0, -1.0, 8.0], [-1.0, -1.0, 8.0], [-1.0, -1.0]


@pytest.fixture
def dataset(robot: Robot, tmp_path: Path) -> Dataset:
    """A success, the same rewards cut by a timeout, and failures only; x counts the ticks."""
    with DatasetWriter(tmp_path / "data.h5", robot) as writer:
        for index, (rewards, terminal) in enumerate(
            [(SUCCESS, True), (CUT, False), (FAILURES, False)]
        ):
            length = len(rewards)
            states = 10.0 * index + np.arange(length + 1, dtype=np.float32)[:, None]
            actions = np.zeros((length, 1), np.float32)
            writer.append(Episode(states, actions, np.array(rewards, np.float32), terminal, "bag"))
        writer.finish({})
    return load_dataset(tmp_path / "data.h5")


def to_go(gamma: float) -> list[list[float]]:
    """Returns to go of the three episodes."""
    rewards = np.array([*SUCCESS, *CUT, *FAILURES], np.float32)
    lengths, terminals = np.array([3, 3, 2]), np.array([True, False, False])
    returns = returns_to_go(rewards, lengths, terminals, gamma)
    return [part.tolist() for part in np.split(returns, [3, 6])]


def test_a_terminal_ends_the_return() -> None:
    assert to_go(0.5)[0] == [0.5, 3.0, 8.0]


def test_after_a_timeout_the_mean_reward_goes_on_without_end() -> None:
    # mean 2, so 2 / (1 - 0.5) = 4 follows: 8 + 2, -1 + 5, -1 + 2
    assert to_go(0.5)[1] == [1.0, 4.0, 10.0]


def test_an_episode_of_failures_is_worth_failing_for_ever() -> None:
    np.testing.assert_allclose(to_go(0.99)[2], -1.0 / (1.0 - 0.99), rtol=1e-9)


def test_gamma_zero_is_the_reward() -> None:
    assert to_go(0.0) == [SUCCESS, CUT, FAILURES]


def test_n_step_returns_by_hand() -> None:
    rewards = np.array([1.0, 2.0, 4.0, 8.0], np.float32)
    ticks = np.array([3, 2, 1])
    # 1 + 2/2 + 4/4, 2 + 4/2, 4
    assert n_step_returns(rewards, ticks, 0.5).tolist() == [3.0, 4.0, 4.0]


def batch(dataset: Dataset, **settings: object) -> Batch:
    """All transitions, prepared with gamma 0.5, observations in SI units."""
    training = TrainingConfig.model_validate(settings)
    transitions = prepare(dataset, np.arange(3), training, 0.5)
    transitions.normaliser.observation_mean.zero_()
    transitions.normaliser.observation_std.fill_(1.0)
    return unpack(transitions.pack(0, len(dataset)), torch.arange(len(dataset)), 1)


@pytest.mark.parametrize(
    ("n", "rewards", "discounts", "landings"),
    [
        (
            1,
            [-1, -1, 8, -1, -1, 8, -1, -1],
            [0.5, 0.5, 0, 0.5, 0.5, 0.5, 0.5, 0.5],
            [1, 2, 3, 11, 12, 13, 21, 22],
        ),
        (  # -1 - 1/2, -1 + 8/2; the last of an episode has one tick left
            2,
            [-1.5, 3, 8, -1.5, 3, 8, -1.5, -1],
            [0.25, 0, 0, 0.25, 0.25, 0.5, 0.25, 0.5],
            [2, 3, 3, 12, 13, 13, 22, 22],
        ),
        (  # -1 - 1/2 + 8/4 to the terminal, and the same to the timeout, from which a value goes on
            5,
            [0.5, 3, 8, 0.5, 3, 8, -1.5, -1],
            [0, 0, 0, 0.125, 0.25, 0.5, 0.25, 0.5],
            [3, 3, 3, 13, 13, 13, 22, 22],
        ),
    ],
)
def test_n_ticks_end_with_the_episode(
    n: int, rewards: list[float], discounts: list[float], landings: list[float], dataset: Dataset
) -> None:
    found = batch(dataset, n_step=n)
    assert found.rewards.tolist() == rewards
    assert found.discounts.tolist() == discounts
    assert found.next_observations.flatten().tolist() == landings
    # what Cal-QL compares with is the whole return of the row, however many ticks are summed
    assert found.returns_to_go.tolist() == [value for part in to_go(0.5) for value in part]


def test_a_value_is_the_same_for_every_n(dataset: Dataset) -> None:
    """On policy: with V(s) the return that follows, every n gives that return."""
    returns = [value for part in to_go(0.5) for value in part]
    value = dict(zip(dataset.observations.flatten().tolist(), returns, strict=True))
    value |= {3.0: 999.0, 13.0: 4.0, 22.0: -2.0}  # after a terminal, which counts nothing; timeouts
    for n in (1, 2, 3, 4):
        found = batch(dataset, n_step=n)
        following = torch.tensor([value[x] for x in found.next_observations.flatten().tolist()])
        target = found.rewards + found.discounts * following
        torch.testing.assert_close(target, found.returns_to_go)


def moments(values: NDArray[np.floating[Any]]) -> Moments:
    """Of values that come in two parts."""
    found = Moments()
    found.add(values[:1])
    found.add(values[1:])
    return found


@pytest.mark.parametrize(
    ("scale", "rewards"),
    [
        ("none", [-1.0, 3.0, 1.0]),
        ("return_range", [-250.0, 750.0, 250.0]),  # returns 2 and -2: 1000 / 4
        ("unit", [0.0, 1.0, 0.5]),
        ("standard", [-(1.5**0.5), 1.5**0.5, 0.0]),  # mean 1, variance 8 / 3
    ],
)
def test_reward_maps_by_hand(scale: RewardScale, rewards: list[float]) -> None:
    given = np.array([-1.0, 3.0, 1.0], np.float32)
    made = reward_map(scale, moments(given), moments(np.array([2.0, -2.0])))
    np.testing.assert_allclose(made(given), rewards, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("scale", ["return_range", "unit", "standard"])
def test_rewards_that_do_not_differ_cannot_be_scaled(scale: RewardScale) -> None:
    same: NDArray[np.float32] = np.full(4, 2.0, np.float32)
    with pytest.raises(
        InputError, match=rf"--reward-scale {scale}: .* have one .*, [24]; use none"
    ):
        reward_map(scale, moments(same), moments(np.array([4.0, 4.0])))


def test_returns_are_those_of_normalised_rewards(dataset: Dataset) -> None:
    """From 0 to 1: -1 is 0, 8 is 1; the third episode is worth nothing for ever."""
    found = batch(dataset, reward_scale="unit", n_step=2)
    assert found.rewards.tolist() == pytest.approx([0, 0.5, 1, 0, 0.5, 1, 0, 0], abs=1e-6)
    # after the timeout the mean 1/3 goes on: 1/3 / (1 - 0.5) = 2/3
    expected = [0.25, 0.5, 1, 0.25 + 1 / 12, 0.5 + 1 / 6, 1 + 1 / 3, 0, 0]
    assert found.returns_to_go.tolist() == pytest.approx(expected, abs=1e-6)


def test_only_training_episodes_make_the_map(dataset: Dataset) -> None:
    transitions = prepare(
        dataset, np.array([2, 1]), TrainingConfig(reward_scale="return_range"), 0.5
    )
    assert transitions.rewards == RewardMap(1000.0 / (6.0 - -2.0))
