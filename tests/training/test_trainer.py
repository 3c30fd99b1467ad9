"""Runs: resume to the last bit, logs, and what a later program reads."""

import csv
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from offrl_contract import InputError
from offrl_data.dataset import Dataset
from offrl_training import checkpoint
from offrl_training.algorithms import ALGORITHMS
from offrl_training.algorithms.base import Batch, Metrics
from offrl_training.algorithms.bc import BC
from offrl_training.config import TrainingConfig
from offrl_training.logging import MetricsLog
from offrl_training.run import RunConfig, create_run, load_run, resume_run
from offrl_training.trainer import Trainer, fit
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from .conftest import small
from .test_algorithms import differing

STEPS = 200


def trainer(name: str, dataset: Dataset, **settings: object) -> Trainer:
    training = TrainingConfig.model_validate(
        {"steps": STEPS, "batch": 32, "log_every": 20, "checkpoint_every": 100, **settings}
    )
    return Trainer(name, small(ALGORITHMS[name].config_type), training, dataset)


def config(made: Trainer, name: str, dataset: Dataset) -> RunConfig:
    return RunConfig(
        algorithm=name,
        parameters=made.algorithm.config,
        training=made.training,
        dataset="point.h5",
        dataset_digest=dataset.digest,
        train_episodes=tuple(made.train_episodes.tolist()),
        held_out_episodes=tuple(made.held_out_episodes.tolist()),
    )


def run(made: Trainer, folder: Path, until: int = STEPS) -> None:
    fit(made, folder, lambda _: None, lambda: made.step >= until, lambda *_: None)


def columns(folder: Path) -> list[dict[str, str]]:
    with (folder / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    return [{k: v for k, v in row.items() if k != "steps_per_second"} for row in rows]


@pytest.mark.parametrize("name", ALGORITHMS)
def test_resume_is_exact(name: str, dataset: Dataset, tmp_path: Path) -> None:
    folders = [tmp_path / "straight", tmp_path / "resumed"]
    straight = trainer(name, dataset)
    for folder in folders:
        create_run(folder, config(straight, name, dataset), dataset.robot)
    run(straight, folders[0])

    killed = trainer(name, dataset)
    run(killed, folders[1], until=130)
    checkpoint.path_of(folders[1], 130).unlink()  # as if killed after the one at 100
    resumed = trainer(name, dataset)
    resume_run(folders[1], config(resumed, name, dataset), resumed)
    assert resumed.step == 100
    run(resumed, folders[1])

    for part in ("algorithm", "gate_critics"):
        assert differing(straight.state()[part], resumed.state()[part]) == []
    for key, optimizer in straight.state()["optimizers"].items():
        for parameter, state in optimizer["state"].items():
            assert differing(state, resumed.state()["optimizers"][key]["state"][parameter]) == []
    assert torch.equal(straight.generator.get_state(), resumed.generator.get_state())
    assert columns(folders[0]) == columns(folders[1])
    assert [int(row["step"]) for row in columns(folders[1])] == list(range(20, 201, 20))


class Warming(BC):
    """Measures one thing for 45 updates, then another at every fourth."""

    def update(self, batch: Batch) -> Metrics:
        metrics = super().update(batch)
        if self.updates <= 45:
            return metrics | {"warm_loss": metrics["policy_loss"]}
        return metrics | ({"late_loss": metrics["policy_loss"]} if self.updates % 4 == 0 else {})


def test_rows_are_the_same_whenever_a_run_was_resumed(
    dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before, in and after a warm-up, and between two rows."""
    monkeypatch.setitem(ALGORITHMS, "warming", Warming)
    straight = trainer("warming", dataset, steps=70, log_every=10)
    create_run(tmp_path / "straight", config(straight, "warming", dataset), dataset.robot)
    run(straight, tmp_path / "straight")
    expected = (tmp_path / "straight" / "metrics.csv").read_text().splitlines()
    for stop in (35, 45, 48, 50, 63):
        folder = tmp_path / f"resumed_{stop}"
        create_run(folder, config(straight, "warming", dataset), dataset.robot)
        run(trainer("warming", dataset, steps=70, log_every=10), folder, until=stop)
        resumed = trainer("warming", dataset, steps=70, log_every=10)
        resume_run(folder, config(resumed, "warming", dataset), resumed)
        run(resumed, folder)
        assert columns(folder) == columns(tmp_path / "straight")
        assert (folder / "metrics.csv").read_text().splitlines()[0] == expected[0]
    rows = columns(tmp_path / "straight")
    assert [row["warm_loss"] != "" for row in rows] == [True] * 5 + [False] * 2
    assert [row["late_loss"] != "" for row in rows] == [False] * 4 + [True] * 3


@pytest.mark.parametrize("name", ALGORITHMS)
def test_load_run_acts_as_the_trained_policy(name: str, dataset: Dataset, tmp_path: Path) -> None:
    made = trainer(name, dataset, steps=20)
    create_run(tmp_path / "run", config(made, name, dataset), dataset.robot)
    run(made, tmp_path / "run")
    loaded = load_run(tmp_path / "run")
    observation = torch.from_numpy(dataset.observations)
    action = made.algorithm.act(observation)
    assert torch.equal(loaded.algorithm.act(observation), action)
    assert torch.equal(
        loaded.gate_critics(observation, action), made.gate_critics(observation, action)
    )
    assert float(loaded.algorithm.normaliser.observation_mean) == pytest.approx(10.0, abs=0.5)
    assert loaded.step == 20
    assert loaded.algorithm_name == name
    assert loaded.dataset_digest == dataset.digest
    assert loaded.robot.digest() == dataset.robot.digest()
    assert np.array_equal(loaded.held_out_episodes, made.held_out_episodes)
    assert len(loaded.train_episodes) == 8
    assert not loaded.algorithm.training


def test_held_out_episodes_leave_no_trace(dataset: Dataset) -> None:
    """Other numbers in the held-out episodes change nothing that training sees."""
    first = trainer("bc", dataset)
    observations = dataset.observations.copy()
    observations[dataset.rows_of(first.held_out_episodes)] = 1e6
    second = trainer("bc", replace(dataset, observations=observations))
    assert torch.equal(first.sampler.packed, second.sampler.packed)
    mean = first.algorithm.normaliser.observation_mean
    assert torch.equal(mean, second.algorithm.normaliser.observation_mean)


def test_the_last_three_checkpoints_are_kept(dataset: Dataset, tmp_path: Path) -> None:
    made = trainer("bc", dataset, steps=60, checkpoint_every=10)
    create_run(tmp_path / "run", config(made, "bc", dataset), dataset.robot)
    run(made, tmp_path / "run")
    assert checkpoint.steps_of(tmp_path / "run") == [40, 50, 60]
    assert not list((tmp_path / "run").rglob("*.tmp"))


def test_a_diverged_run_stops_and_keeps_its_last_sound_checkpoint(
    dataset: Dataset, tmp_path: Path
) -> None:
    made = trainer("iql", dataset, checkpoint_every=10, log_every=10)
    create_run(tmp_path / "run", config(made, "iql", dataset), dataset.robot)
    run(made, tmp_path / "run", until=15)
    made.sampler.packed[:, 2] = torch.inf
    with pytest.raises(InputError, match=r"diverged at step 20: .* checkpoint is step 15"):
        run(made, tmp_path / "run")
    assert checkpoint.steps_of(tmp_path / "run") == [10, 15]


def test_rows_after_the_checkpoint_and_half_rows_are_cut(tmp_path: Path) -> None:
    with MetricsLog(tmp_path, 0) as log:
        for step in (10, 20, 30):
            log.write(step, {"loss": step / 3})
    with (tmp_path / "metrics.csv").open("a") as file:
        file.write("1")  # of a row "100,..." that a kill cut off
    with MetricsLog(tmp_path, 20) as log:
        log.write(30, {"loss": 0.5})
    text = (tmp_path / "metrics.csv").read_text().split()
    assert text == ["step,loss", "10,3.33333333", "20,6.66666667", "30,0.5"]


def test_a_metric_that_comes_late_gets_a_column(tmp_path: Path) -> None:
    with MetricsLog(tmp_path, 0) as log:
        log.write(1, {"loss": 0.5})
        log.write(2, {"loss": 0.25, "penalty": 3.0})
        log.write(3, {"penalty": 2.0})
    rows = ["step,loss,penalty", "1,0.5,", "2,0.25,3", "3,,2"]
    assert (tmp_path / "metrics.csv").read_text().splitlines() == rows
    with MetricsLog(tmp_path, 2) as log:
        log.write(3, {"loss": 0.125, "weight": 1.0})
    rows = ["step,loss,penalty,weight", "1,0.5,,", "2,0.25,3,", "3,0.125,,1"]
    assert (tmp_path / "metrics.csv").read_text().splitlines() == rows


@pytest.mark.parametrize("damage", ["empty", "cut", "garbage", "foreign"])
def test_a_damaged_checkpoint_is_named(damage: str, dataset: Dataset, tmp_path: Path) -> None:
    made = trainer("bc", dataset, steps=2)
    create_run(tmp_path / "run", config(made, "bc", dataset), dataset.robot)
    run(made, tmp_path / "run")
    path = checkpoint.path_of(tmp_path / "run", 2)
    content = path.read_bytes()
    if damage == "foreign":  # a pickle that would run code: refused by weights_only
        torch.save({"format": checkpoint.FORMAT, "path": Path("x")}, path)
    else:
        path.write_bytes({"empty": b"", "cut": content[:-100], "garbage": b"x" * 999}[damage])
    with pytest.raises(InputError, match=r"step_2.pt: damaged checkpoint"):
        load_run(tmp_path / "run")


def test_load_run_refuses_what_is_no_run(dataset: Dataset, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such folder"):
        load_run(tmp_path / "missing")
    with pytest.raises(InputError, match="not a run folder"):
        load_run(tmp_path)
    made = trainer("bc", dataset)
    create_run(tmp_path / "run", config(made, "bc", dataset), dataset.robot)
    with pytest.raises(InputError, match="no checkpoint yet"):
        load_run(tmp_path / "run")
    with pytest.raises(InputError, match=r"not a run folder.*Runs in it: .*run$"):
        load_run(tmp_path)
    path = tmp_path / "run" / "config.yaml"
    text = path.read_text()
    path.write_text(text.replace("algorithm: bc", "algorithm: iqll"))
    with pytest.raises(InputError, match=r"algorithm: 'iqll'. Did you mean 'iql'"):
        load_run(tmp_path / "run")
    path.write_text(text.replace("gamma: 0.99", "gamma: 1.99"))
    with pytest.raises(InputError, match="parameters: gamma: Input should be less than 1"):
        load_run(tmp_path / "run")


class Products(TorchDispatchMode):
    """Notes the precision of every matrix product."""

    NAMES = ("mm", "addmm", "bmm", "baddbmm")

    def __init__(self) -> None:
        super().__init__()
        self.seen: set[torch.dtype] = set()

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        if function.overloadpacket.__name__ in self.NAMES:
            self.seen |= {each.dtype for each in args if isinstance(each, torch.Tensor)}
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("name", ALGORITHMS)
def test_bf16_multiplies_in_half_the_digits_and_keeps_the_parameters(
    name: str, dataset: Dataset
) -> None:
    whole, half = (trainer(name, dataset, precision=p) for p in ("float32", "bf16"))
    for made, products in ((whole, torch.float32), (half, torch.bfloat16)):
        with Products() as found:
            for _ in range(5):  # one of which updates the gate's critics
                made.advance()
        assert found.seen == {products}
    assert all(p.dtype == torch.float32 for p in half.algorithm.parameters())
    moved = [
        torch.linalg.vector_norm(torch.cat([p.detach().flatten() for p in each.parameters()]))
        for each in (whole.algorithm, half.algorithm)
    ]
    assert float(moved[1]) == pytest.approx(float(moved[0]), rel=0.01)
    loss = "q_loss" if "q_loss" in whole.metrics else "policy_loss"
    expected, found_loss = float(whole.metrics[loss]), float(half.metrics[loss])
    assert found_loss == pytest.approx(expected, rel=0.2, abs=0.1)
    assert found_loss != expected


class NoWaiting(TorchDispatchMode):
    """Raises where the host asks for a value, or for a size that depends on values."""

    NAMES = ("_local_scalar_dense", "equal", "masked_select", "nonzero", "_unique2", "unique_dim")

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        name = function.overloadpacket.__name__
        by_mask = name.startswith("index") and any(
            isinstance(each, torch.Tensor) and each.dtype == torch.bool
            for each in tree_leaves(args[1:2])
        )
        if name in self.NAMES or by_mask:
            raise RuntimeError(f"the host waits for the device: {function}")
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("name", ALGORITHMS)
def test_a_step_does_not_wait_for_the_device(name: str, dataset: Dataset) -> None:
    """On a GPU, one value that is asked for costs more than a step."""
    made = trainer(name, dataset, steps=20)
    made.gate_critics.interval = 2
    for _ in range(2):  # in the warm start, and after it
        with NoWaiting():
            for _ in range(2):
                made.advance()
        made.algorithm.updates = 20


@pytest.mark.parametrize("ask", [float, bool, torch.nonzero, lambda x: x[x > 0.0]])
def test_a_step_that_waits_is_found(ask: Callable[[torch.Tensor], Any]) -> None:
    with NoWaiting(), pytest.raises(RuntimeError, match="the host waits"):
        ask(torch.ones(1))


def test_gate_critics_learn_as_often_as_a_fifth_of_the_work_allows(dataset: Dataset) -> None:
    made = {name: trainer(name, dataset) for name in ("bc", "td3_bc", "cql")}
    intervals = [each.gate_critics.interval for each in made.values()]
    assert intervals == sorted(intervals, reverse=True)
    assert intervals[0] > 5 * intervals[2]
    for each in made.values():
        batch = each.sampler.sample(32)
        with FlopCounterMode(display=False) as steps:
            for _ in range(2):
                each.algorithm.update(batch)
        with FlopCounterMode(display=False) as gate:
            each.gate_critics.update(batch, each.algorithm.quick_policy)
        added = gate.get_total_flops() / (each.gate_critics.interval * steps.get_total_flops() / 2)
        assert 0.1 < added <= 0.2 or each.gate_critics.interval == 1


@pytest.mark.parametrize("name", ALGORITHMS)
def test_the_trial_of_both_leaves_no_trace(
    name: str, dataset: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried = trainer(name, dataset).state()
    monkeypatch.setattr(Trainer, "_interval", lambda _: 5)
    untried = trainer(name, dataset).state()
    for key in ("algorithm", "gate_critics"):
        assert differing(tried[key], untried[key]) == []
    assert torch.equal(tried["generator"], untried["generator"])
    assert tried["step"] == untried["step"] == 0
    for key, optimizer in untried["optimizers"].items():
        for number, state in optimizer["state"].items():
            assert differing(state, tried["optimizers"][key]["state"][number]) == []
