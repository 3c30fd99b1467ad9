"""Several seeds in one program: each is what it would be alone."""

import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from offrl_contract import Robot
from offrl_data.dataset import Dataset, load_dataset
from offrl_data.dataset_writer import DatasetWriter
from offrl_training import checkpoint
from offrl_training.algorithms import ALGORITHMS
from offrl_training.run import load_run
from offrl_training.seed_batch import SeedBatch
from offrl_training.trainer import Trainer

from .conftest import drive
from .test_algorithms import differing
from .test_train_cli import SMALL, refused, rows, stop_at_checkpoint, train, unequal
from .test_trainer import NoWaiting, trainer

SEEDS = (3, 4)
STEPS = 8


@pytest.fixture(scope="module")
def uneven(tmp_path_factory: pytest.TempPathFactory, robot: Robot) -> Dataset:
    """Episodes of different length: the splits of two seeds have different sizes."""
    path = tmp_path_factory.mktemp("uneven") / "data.h5"
    random = np.random.default_rng(0)
    with DatasetWriter(path, robot) as writer:
        for index in range(8):
            writer.append(drive(random, 20 + 3 * index, index % 3 == 0, f"bag_{index}"))
        writer.finish({})
    return load_dataset(path)


def trainers(name: str, dataset: Dataset, **settings: Any) -> list[Trainer]:
    """Two seeds whose warm starts end, and whose gate critics learn, within a few steps."""
    made = [trainer(name, dataset, seed=seed, **{"steps": 40, **settings}) for seed in SEEDS]
    for each in made:
        each.gate_critics.interval = 3
    return made


@pytest.mark.parametrize("name", ALGORITHMS)
def test_each_seed_is_as_alone(name: str, uneven: Dataset) -> None:
    """Networks, targets, optimisers, random numbers, counters and metrics, up to rounding."""
    alone, together = trainers(name, uneven), trainers(name, uneven)
    batch = SeedBatch(together)
    for _ in range(STEPS):
        with NoWaiting():
            batch.advance()
        for single in alone:
            single.advance()
    for single, part in zip(alone, together, strict=True):
        torch.testing.assert_close(part.state(), single.state(), rtol=1e-4, atol=1e-6)
        torch.testing.assert_close(part.evaluate(), single.evaluate(), rtol=1e-4, atol=1e-6)
    assert len(together[0].sampler) != len(together[1].sampler)
    policies = (each.algorithm.policy.state_dict() for each in together)
    assert differing(*policies) != []


def test_seeds_multiply_in_half_the_digits_too(uneven: Dataset) -> None:
    whole = trainers("td3_bc", uneven)
    alone, together = (trainers("td3_bc", uneven, precision="bf16") for _ in range(2))
    for batch in (SeedBatch(whole), SeedBatch(together)):
        for _ in range(2):
            batch.advance()
    for _ in range(2):
        alone[0].advance()
    loss = float(together[0].metrics["q_loss"])
    assert loss == pytest.approx(float(alone[0].metrics["q_loss"]), rel=0.02)
    assert loss != float(whole[0].metrics["q_loss"])


COMMON = ["iql", "--steps", 240, "--checkpoint-every", 40, "--log-every", 40, "--seed", 3, *SMALL]


def test_seeds_are_ordinary_runs_and_resume_to_the_bit(path: Path, tmp_path: Path) -> None:
    straight, stopped = tmp_path / "straight", tmp_path / "stopped"
    assert train(*COMMON, path, "--seeds", 2, "--out", straight) == 0
    assert sorted(run.name for run in straight.iterdir()) == ["seed_3", "seed_4"]

    again = [*map(str, COMMON), str(path), "--seeds", "2", "--out", str(stopped), "--resume"]
    first = stopped / "seed_3"
    assert stop_at_checkpoint(again, first, signal.SIGTERM) == 128 + signal.SIGTERM
    step = checkpoint.steps_of(first)[-1]
    assert step < 240
    if len(checkpoint.steps_of(first)) > 1:  # as if killed between the checkpoints of both
        checkpoint.path_of(stopped / "seed_4", step).unlink()
    assert train(*again) == 0
    for name in ("seed_3", "seed_4"):
        states = [checkpoint.load(folder / name, 240) for folder in (straight, stopped)]
        assert unequal(*states) == []
        assert rows(straight / name) == rows(stopped / name)

    assert train(*COMMON, path, "--seed", 4, "--out", tmp_path / "alone") == 0
    alone, together = load_run(tmp_path / "alone"), load_run(straight / "seed_4")
    assert together.training == alone.training
    assert np.array_equal(together.held_out_episodes, alone.held_out_episodes)
    own = {p.name: p.stat().st_size for p in (tmp_path / "alone" / "checkpoints").iterdir()}
    for saved in (straight / "seed_4" / "checkpoints").iterdir():  # not with those of all seeds
        assert saved.stat().st_size == pytest.approx(own[saved.name], rel=0.1)
    more = [*COMMON, path, "--seed", 4, "--out", straight / "seed_4", "--resume"]
    assert train(*more) == 0  # as a run of its own, it is complete


def test_seeds_that_do_not_fit_are_refused(
    path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "seeds"
    base = ["bc", path, "--steps", 4, *SMALL, "--out", out]
    assert "must be 1 or more" in refused(capsys, *base, "--seeds", 0)
    assert "Leave one of them out" in refused(capsys, *base, "--seeds", 2, "--compile")
    said = refused(capsys, *base, "--seed", 2**32 - 1, "--seeds", 2)
    assert "the last one is 4294967296, 4294967295 the largest allowed" in said
    (out / "seed_1").mkdir(parents=True)
    (out / "seed_1" / "thesis.tex").write_text("keep me")
    assert "seed_1: exists and is not empty" in refused(capsys, *base, "--seeds", 2)
    assert [run.name for run in out.iterdir()] == ["seed_1"]
    assert train(*base, "--seeds", 1) == 0
    said = refused(capsys, *base, "--seeds", 1, "--resume", "--gamma", "0.5")
    assert "seed_0: cannot resume with other settings: parameters.gamma is 0.5" in said
    (out / "seed_1" / "thesis.tex").unlink()
    said = refused(capsys, *base, "--seeds", 2, "--resume")
    assert "no step at which all seeds have a checkpoint (seed_0: [4], seed_1: none)" in said
    said = refused(capsys, "bc", path, "--seeds", 2, "--out", out / "seed_0")
    assert "is a run folder itself" in said


def test_a_seed_that_diverges_is_named(
    path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "seeds"
    wild = ["td3", path, "--learning-rate", "1e30", "--seeds", 2, "--out", out, "--steps", 20]
    said = refused(capsys, *wild, *SMALL)
    assert "seed_0: training diverged at step 20" in said
    assert not list(out.rglob("*.pt"))
