"""Datasets larger than memory: the same transitions, in an order that favours none."""

import signal
from itertools import pairwise
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from kill_at import run_and_kill
from numpy.typing import NDArray
from offrl_contract import InputError, Robot, cli
from offrl_data import columns
from offrl_data.dataset import (
    AnyDataset,
    DatasetFile,
    Episode,
    load_dataset,
    open_dataset,
)
from offrl_data.dataset_writer import DatasetWriter
from offrl_training import checkpoint, statistics
from offrl_training.config import TrainingConfig
from offrl_training.sampler import split_episodes
from offrl_training.statistics import Moments
from offrl_training.stream import Stream
from offrl_training.transitions import capacity, prepare, read_dataset, spread_rows

from .conftest import Make
from .test_train_cli import rows as metric_rows
from .test_train_cli import unequal

EPISODES, ROWS = 41, 2000


@pytest.fixture(scope="module")
def counted(tmp_path_factory: pytest.TempPathFactory, robot: Robot) -> Path:
    """Episodes of many lengths; the observation of a row is its number in the file."""
    path = tmp_path_factory.mktemp("counted") / "data.h5"
    random = np.random.default_rng(0)
    cuts = np.sort(random.choice(np.arange(1, ROWS), EPISODES - 1, replace=False))
    edges = np.concatenate([[0], cuts, [ROWS]])
    with DatasetWriter(path, robot) as writer:
        for index, (first, last) in enumerate(pairwise(edges)):
            x = np.arange(first, last + 1, dtype=np.float32)[:, None]
            length = last - first
            actions = random.uniform(-0.5, 1.5, (length, 1)).astype(np.float32)
            rewards = random.normal(size=length).astype(np.float32)
            writer.append(Episode(x, actions, rewards, index % 3 == 0, "bag"))
        writer.finish({})
    return path


def stream(
    path: Path, rows: int, seed: int = 0, **settings: object
) -> tuple[Stream, NDArray[np.int64]]:
    """A stream over 80 % of the episodes, and the numbers of their rows."""
    dataset = open_dataset(path)
    episodes, _ = split_episodes(len(dataset.lengths), 0.2, seed=3)
    training = TrainingConfig.model_validate(settings)
    transitions = prepare(dataset, episodes, training, 0.9)
    transitions.normaliser.observation_mean.zero_()
    transitions.normaliser.observation_std.fill_(1.0)
    return Stream(transitions, episodes, rows, seed), spread_rows(dataset, episodes, ROWS)


def draw(source: Stream, size: int) -> NDArray[np.int64]:
    """The numbers of the rows of a batch."""
    return source.sample(size).observations.flatten().numpy().astype(np.int64)


@pytest.mark.parametrize("capacity", [50, 300, 1024, 5000])
def test_each_pass_has_every_training_transition_once(counted: Path, capacity: int) -> None:
    source, expected = stream(counted, capacity)
    assert len(source) == len(expected)
    drawn = np.concatenate([draw(source, 32) for _ in range(len(expected))])  # 32 passes
    passes = drawn.reshape(32, -1)
    for numbers in passes:
        assert np.array_equal(np.sort(numbers), expected)
    assert not np.array_equal(passes[0], passes[1])
    assert source.state() == {"pass": 32, "pool": 0, "used": 0}


def test_every_transition_comes_early_as_often_as_late(counted: Path) -> None:
    """Its place in a pass is uniform: mean and spread over 400 passes, for each of the rows."""
    source, expected = stream(counted, 500)
    count, passes = len(expected), 400
    places = np.empty((passes, count))
    for number in range(passes):
        drawn = draw(source, count)
        places[number, np.searchsorted(expected, drawn)] = np.arange(count)
    middle, deviation = (count - 1) / 2, count / np.sqrt(12.0)
    apart = (places.mean(0) - middle) / (deviation / np.sqrt(passes))
    assert np.abs(apart).max() < 5.0  # of some 1600 standard normal numbers
    assert np.abs(apart.std() - 1.0) < 0.2
    assert np.abs(places.std(0) / deviation - 1.0).max() < 0.2


def test_few_in_a_batch_are_neighbours_in_the_log(counted: Path) -> None:
    """As many of one's own block as the formula says; all of them where a pool is one block."""
    size = 64
    found = {}
    for rows in (1024, 256):
        source, expected = stream(counted, rows)
        block = source.rows_per_block
        others, formula = [], []
        for _ in range(2000):
            blocks = draw(source, size) // block
            others.append((blocks[:, None] == blocks).sum() / size - 1.0)
        counts = np.bincount(expected // block)
        pool = len(expected) / source.pools
        formula = (size - 1) * ((counts**2).sum() / counts.sum() - 1) / (pool - 1)
        found[rows] = float(np.mean(others)), formula
    assert block == 256
    assert found[256][0] > 0.85 * (size - 1)  # a batch over the edge has two blocks
    measured, expected_others = found[1024]
    assert measured == pytest.approx(expected_others, rel=0.15)


def test_blocks_are_small_where_there_is_memory(counted: Path) -> None:
    source, _ = stream(counted, 256 * 300)
    assert source.rows_per_block == 300


def test_batches_are_those_of_the_data_in_memory(counted: Path) -> None:
    """To the bit, next observations, n-step rewards and returns across the edges of blocks too."""
    loaded = load_dataset(counted)
    settings = {"n_step": 5, "reward_scale": "standard"}
    source, _ = stream(counted, 300, **settings)
    episodes, _ = split_episodes(len(loaded.lengths), 0.2, seed=3)
    memory = prepare(loaded, episodes, TrainingConfig.model_validate(settings), 0.9)
    memory.normaliser.observation_mean.zero_()
    memory.normaliser.observation_std.fill_(1.0)
    packed = memory.pack(0, len(loaded))
    for _ in range(100):
        batch = source.sample(32)
        numbers = batch.observations.flatten().long()
        streamed = torch.cat([column.view(32, -1) for column in batch[:-1]], 1)  # not its rows
        order = [0, 1, 2, 4, 3, 5]  # a batch has s' before the discount
        assert torch.equal(streamed, packed[numbers][:, order])


def test_a_pool_is_not_larger_than_the_limit(counted: Path) -> None:
    source, _ = stream(counted, 300)
    draw(source, 1)
    assert source._pool.shape == (300, 6)
    dataset = open_dataset(counted)
    assert capacity(dataset, 3) == 3_000_000 // (4 * 6 + 8)


@pytest.mark.parametrize("seed", [0, 1])
def test_a_place_in_the_stream_is_found_again(counted: Path, seed: int) -> None:
    first, _ = stream(counted, 300, seed)
    for _ in range(40):
        draw(first, 50)
    state = first.state()
    following = [draw(first, 50) for _ in range(40)]
    second, _ = stream(counted, 300, seed)
    second.restore(state)
    assert all(np.array_equal(draw(second, 50), numbers) for numbers in following)
    other, _ = stream(counted, 300, seed + 1)
    second.restore({"pass": 0, "pool": 0, "used": 0})
    assert not np.array_equal(draw(other, 50), draw(second, 50))


def test_statistics_are_those_of_all_rows(counted: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In many pieces and groups."""
    monkeypatch.setattr(columns, "_BYTES_PER_PIECE", 4 * 37)
    monkeypatch.setattr(statistics, "_ROWS_PER_GROUP", 150)
    loaded = load_dataset(counted)
    chosen = np.random.default_rng(1).random(len(loaded.lengths)) < 0.7
    rows = loaded.rows_of(np.flatnonzero(chosen))
    both: list[AnyDataset] = [loaded, open_dataset(counted)]
    for dataset in both:
        found = statistics.statistics(dataset, chosen)
        np.testing.assert_allclose(
            found.observations.mean, loaded.observations[rows].mean(0, float)
        )
        np.testing.assert_allclose(
            found.observations.std, loaded.observations[rows].std(0, dtype=float), rtol=1e-12
        )
        assert found.rewards.low == loaded.rewards[rows].min()
        assert found.returns.high == loaded.returns()[chosen].max()
        assert found.returns.count == chosen.sum()


def test_moments_survive_a_large_mean() -> None:
    values = 1e8 + np.random.default_rng(0).normal(size=(999, 2))
    found = Moments()
    for part in np.array_split(values, 7):
        found.add(part)
    np.testing.assert_allclose(found.std, values.std(0), rtol=1e-6)
    np.testing.assert_allclose(found.mean, values.mean(0), rtol=1e-15)


def test_an_open_dataset_is_checked_as_a_loaded_one(counted: Path, tmp_path: Path) -> None:
    assert open_dataset(counted).digest == load_dataset(counted).digest
    broken = tmp_path / "nan.h5"
    broken.write_bytes(counted.read_bytes())
    with h5py.File(broken, "a") as file:
        file["observations"][1234, 0] = np.nan
    text = tmp_path / "text.h5"
    text.write_text("not HDF5")
    for path, sentence in (
        (broken, r"observations\[1234, 0\] is not finite \(1 such values\)"),
        (text, "not an offrl dataset"),
        (tmp_path / "none.h5", "no such dataset"),
    ):
        for read in (load_dataset, open_dataset):
            with pytest.raises(InputError, match=sentence):
                read(path)


@pytest.fixture(scope="module")
def long(make: Make) -> Path:
    """40000 rows, of which a megabyte holds 31250."""
    return make(episodes=40, length=1000)


def train(path: Path, out: Path, *more: object) -> list[str]:
    base = ["train", "cal_ql", path, "--out", out, "--hidden", 8, "--samples", 2, "--steps", 30]
    settings = ["--batch", 2048, "--log-every", 5, "--checkpoint-every", 10, *more]
    return [str(word) for word in (*base, *settings)]


def test_a_killed_run_resumes_to_the_bit(
    long: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Over the edges of pools and passes: 61440 of 32000 transitions are drawn."""
    limit = ("--memory-limit", 1)
    straight, killed = tmp_path / "straight", tmp_path / "killed"
    assert cli.run(train(long, straight, *limit)) == 0
    assert "streamed from point_40_1000_0.h5 in 2 parts of a pass" in capsys.readouterr().out
    again = train(long, killed, *limit, "--resume")
    assert run_and_kill(again, 17) == -signal.SIGKILL
    assert checkpoint.steps_of(killed) == [10]
    assert cli.run(again) == 0
    first, second = (checkpoint.load(folder, 30) for folder in (straight, killed))
    assert first["sampler"] == {"pass": 1, "pool": 1, "used": pytest.approx(13440, abs=2000)}
    assert unequal(first, second) == []
    assert metric_rows(straight) == metric_rows(killed)


def test_what_fits_is_held_in_memory(long: Path, tmp_path: Path) -> None:
    assert isinstance(read_dataset(long, 1), DatasetFile)
    assert not isinstance(read_dataset(long, 2), DatasetFile)
    for out, more in (("a", ()), ("b", ("--memory-limit", 2))):
        assert cli.run(train(long, tmp_path / out, *more)) == 0
    first, second = (checkpoint.load(tmp_path / out, 30) for out in ("a", "b"))
    assert unequal(first, second) == []


def test_an_algorithm_that_needs_all_transitions_is_refused(counted: Path) -> None:
    limited, _ = stream(counted, 500)
    with pytest.raises(InputError, match="--memory-limit: this algorithm compares all transitions"):
        limited.everything()
