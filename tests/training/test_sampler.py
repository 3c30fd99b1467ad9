"""What the networks are given: split, coordinates, ends of episodes."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from offrl_contract import InputError
from offrl_data.dataset import Dataset
from offrl_training.config import TrainingConfig
from offrl_training.networks import Normaliser
from offrl_training.sampler import Sampler, check_actions, split_episodes, unpack
from offrl_training.transitions import Transitions, prepare


def prepared(dataset: Dataset, gamma: float = 0.9, **settings: object) -> Transitions:
    """All episodes prepared for training."""
    training = TrainingConfig.model_validate(settings)
    return prepare(dataset, np.arange(len(dataset.lengths)), training, gamma)


def whole(dataset: Dataset) -> Sampler:
    """All transitions, with observations in SI units."""
    transitions = prepared(dataset)
    transitions.normaliser.observation_mean.zero_()
    transitions.normaliser.observation_std.fill_(1.0)
    return Sampler(transitions.pack(0, len(dataset)), 1, torch.Generator())


@pytest.mark.parametrize(
    ("count", "share", "held"),
    [(10, 0.2, 2), (2, 0.2, 1), (2, 0.99, 1), (1, 0.2, 0), (10, 0.0, 0), (4, 0.01, 1)],
)
def test_split_is_by_whole_episodes(count: int, share: float, held: int) -> None:
    train, held_out = split_episodes(count, share, seed=0)
    assert len(held_out) == held
    assert sorted([*train, *held_out]) == list(range(count))
    again = split_episodes(count, share, seed=0)
    assert np.array_equal(train, again[0])


def test_split_depends_on_the_seed() -> None:
    splits = {tuple(split_episodes(20, 0.2, seed)[1]) for seed in range(5)}
    assert len(splits) > 1


def test_timeouts_are_not_terminals_and_lead_to_the_last_observation(dataset: Dataset) -> None:
    batch = whole(dataset).everything()
    ends = dataset.starts + dataset.lengths - 1
    terminals = torch.from_numpy(dataset.terminals)
    assert 0 < terminals.sum() < len(ends)
    assert torch.equal(batch.discounts, torch.where(terminals, 0.0, 0.9))
    assert np.array_equal(batch.next_observations[ends], dataset.final_observations)
    inner = np.setdiff1d(np.arange(len(dataset)), ends)
    assert torch.equal(batch.next_observations[inner], batch.observations[inner + 1])


def test_a_batch_names_its_rows(dataset: Dataset) -> None:
    sampler = whole(dataset)
    everything, batch = sampler.everything(), sampler.sample(32)
    assert len(everything.rewards) == len(dataset)
    for all_of_it, column in zip(everything, batch, strict=True):
        assert torch.equal(all_of_it[batch.rows], column)


def test_batch_is_in_network_coordinates(dataset: Dataset) -> None:
    batch = unpack(prepared(dataset).pack(0, len(dataset)), torch.arange(len(dataset)), 1)
    assert float(batch.observations.mean()) == pytest.approx(0.0, abs=1e-4)
    assert float(batch.observations.std()) == pytest.approx(1.0, abs=1e-2)
    assert torch.allclose(batch.actions, torch.from_numpy(dataset.actions) - 0.5, atol=1e-6)
    assert torch.equal(batch.rewards, torch.from_numpy(dataset.rewards))
    inner = np.setdiff1d(np.arange(len(dataset)), dataset.starts + dataset.lengths - 1)
    assert torch.equal(batch.next_observations[inner], batch.observations[inner + 1])


def test_any_rows_are_as_in_the_whole(dataset: Dataset) -> None:
    """Spans that begin and end inside episodes, at their ends, and a row alone."""
    transitions = prepared(dataset, n_step=7)
    packed = transitions.pack(0, len(dataset))
    for first, last in (
        (0, 1),
        (0, 40),
        (3, 39),
        (35, 40),
        (38, 41),
        (39, 40),
        (17, 230),
        (399, 400),
    ):
        assert torch.equal(transitions.pack(first, last), packed[first:last])
    rows = np.array([0, 1, 2, 38, 39, 40, 120, 399])
    assert torch.equal(transitions.take(rows), packed[rows])
    assert transitions.take(rows[:0]).shape == (0, packed.shape[1])


def test_sampling_is_uniform_and_follows_the_generator(dataset: Dataset) -> None:
    sampler = whole(dataset)
    sampler.packed[:, 0] = torch.arange(len(sampler))
    sampler.generator.manual_seed(3)
    drawn = sampler.sample(100_000).observations.flatten().long()
    counts = torch.bincount(drawn, minlength=len(sampler))
    assert len(counts) == len(sampler)
    assert int(counts.min()) > 0.6 * 100_000 / len(sampler)
    sampler.generator.manual_seed(3)
    assert torch.equal(sampler.sample(100_000).observations.flatten().long(), drawn)


def test_a_constant_observation_keeps_its_unit() -> None:
    normaliser = Normaliser(2, ((-1.0, 1.0),))
    normaliser.fit(np.array([5.0, 1.0]), np.array([0.0, 1.0]))
    assert normaliser.observation_std.tolist() == pytest.approx([1.0, 1.001])
    assert normaliser.observation(torch.tensor([3.0, 1.0])).tolist() == [-2.0, 0.0]


def test_an_array_entry_that_hardly_moves_shares_the_array_s_scale() -> None:
    normaliser = Normaliser(3, ((-1.0, 1.0),))
    normaliser.fit(np.array([4.95, 2.0, 0.01]), np.array([0.05, 2.0, 0.01]), [slice(0, 2)])
    floor = 0.1 * np.sqrt((0.05**2 + 2.0**2) / 2)
    expected = np.array([floor, 2.0, 0.01]) + 1e-3
    np.testing.assert_allclose(normaliser.observation_std, expected, rtol=1e-5)


def test_actions_come_out_inside_the_limits() -> None:
    normaliser = Normaliser(1, ((-0.3, 0.7),))
    action = normaliser.action_to_si(torch.tensor([[-1.0], [1.0], [0.0], [1.1]]))
    low, high = normaliser.action_low, normaliser.action_high
    torch.testing.assert_close(action, torch.tensor([[-0.3], [0.7], [0.2], [0.7]]))
    assert bool(((action >= low) & (action <= high)).all())
    torch.testing.assert_close(normaliser.action(action[:3]).flatten()[:2], torch.tensor([-1, 1.0]))


def test_actions_outside_the_limits_are_refused(dataset: Dataset) -> None:
    actions = dataset.actions.copy()
    actions[7] = 1.6
    with pytest.raises(InputError, match=r"actions\[7, 0\] is 1.6, outside .* \[-0.5, 1.5\]"):
        check_actions(replace(dataset, actions=actions))
