"""Off-policy evaluation: against what policies really earn, and told with its errors."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from offrl_contract import InputError, Robot, cli, robot_from_yaml
from offrl_data.dataset import Dataset, Episode, load_dataset
from offrl_data.dataset_writer import DatasetWriter
from offrl_training.evaluation.commands import show
from offrl_training.evaluation.config import EvaluationConfig
from offrl_training.evaluation.estimate import Estimates, Interval, estimate
from offrl_training.evaluation.fqe import FittedQEvaluation, Log, weighted_loss
from offrl_training.sampler import split_episodes
from torch import Tensor

from .conftest import GOAL, SPEED, STILL, Make, drive
from .test_algorithms import batch

GAMMA = 0.8
SMALL = EvaluationConfig(gamma=GAMMA, steps=1000, critics=4, hidden=(32, 32))


def to_the_goal(x: Tensor) -> Tensor:
    return STILL + (5.0 * (GOAL - x)).clamp(-SPEED, SPEED)


def away(x: Tensor) -> Tensor:
    return STILL - SPEED * torch.sign(GOAL - x)


def really_earned(act: object, dataset: Dataset) -> float:
    """What a policy earns in the world of conftest from the beginnings of held-out episodes."""
    _, held_out = split_episodes(len(dataset.lengths), SMALL.held_out, SMALL.seed)
    x = torch.from_numpy(dataset.observations[dataset.starts[held_out]])
    total = torch.zeros(len(x))
    for k in range(60):
        x = (x + 0.2 * (act(x) - STILL)).clamp(GOAL - 1.0, GOAL + 1.0)  # type: ignore[operator]
        total -= GAMMA**k * (x[:, 0] - GOAL).abs()
    return float(total.mean())


@pytest.fixture(scope="module")
def log(robot: Robot, tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """The point's driver, who never ends the task."""
    path, random = tmp_path_factory.mktemp("log") / "log.h5", np.random.default_rng(0)
    with DatasetWriter(path, robot) as writer:
        for _ in range(60):
            writer.append(drive(random, 40, False, "bag"))
        writer.finish({})
    return load_dataset(path)


@pytest.fixture(scope="module")
def found(log: Dataset) -> Estimates:
    return estimate(log, {"to": to_the_goal, "away": away, "twin": to_the_goal}, SMALL)


def test_values_are_those_that_policies_earn(log: Dataset, found: Estimates) -> None:
    good, bad = really_earned(to_the_goal, log), really_earned(away, log)
    assert good - bad > 2.0
    assert found.values["to"].mean == pytest.approx(good, abs=0.35)
    assert found.values["away"].mean == pytest.approx(bad, abs=0.35)


def test_the_driver_is_worth_what_was_earned(found: Estimates) -> None:
    assert found.driver.mean == pytest.approx(found.earned.mean, abs=0.35)
    assert found.earned.low < found.earned.mean < found.earned.high
    assert found.episodes == 12


def test_a_gain_is_free_of_what_two_policies_share(found: Estimates) -> None:
    assert found.values["to"] == found.values["twin"]
    gain = found.gains["to"]
    assert gain.low > 0.0 > found.gains["away"].high
    assert gain.mean == pytest.approx(found.values["to"].mean - found.driver.mean, abs=1e-5)


def constant(path: Path, robot: Robot, lengths: list[int], terminal: bool) -> Dataset:
    """Episodes with a reward of 1 per tick, at places that tell nothing of the time."""
    random = np.random.default_rng(0)
    with DatasetWriter(path, robot) as writer:
        for length in lengths:
            x = random.uniform(9.0, 11.0, (length + 1, 1)).astype(np.float32)
            actions = random.uniform(0.0, 1.0, (length, 1)).astype(np.float32)
            writer.append(Episode(x, actions, np.ones(length, np.float32), terminal, "bag"))
        writer.finish({})
    return load_dataset(path)


@pytest.mark.parametrize(("terminal", "length", "worth"), [(False, 20, 5.0), (True, 1, 1.0)])
def test_the_task_goes_on_after_a_timeout_and_ends_at_a_terminal(
    tmp_path: Path, robot: Robot, terminal: bool, length: int, worth: float
) -> None:
    dataset = constant(tmp_path / "data.h5", robot, [length] * 40, terminal)
    found = estimate(dataset, {"to": to_the_goal}, SMALL)
    assert found.values["to"].mean == pytest.approx(worth, rel=0.06)
    assert found.driver.mean == pytest.approx(worth, rel=0.06)
    assert found.earned.mean == pytest.approx(worth, rel=1e-5)


def test_what_was_earned_is_exact(tmp_path: Path, robot: Robot) -> None:
    """It is the mean of the held-out returns, not of the bootstrap samples'."""
    lengths = list(range(1, 21))
    dataset = constant(tmp_path / "data.h5", robot, lengths, terminal=True)
    config = SMALL.model_copy(update={"steps": 1})
    _, held_out = split_episodes(len(lengths), config.held_out, config.seed)
    by_hand = np.mean([(1.0 - GAMMA ** lengths[e]) / (1.0 - GAMMA) for e in held_out])
    found = estimate(dataset, {"to": to_the_goal}, config)
    assert found.earned.mean == pytest.approx(by_hand, rel=1e-5)


def test_loss_by_hand() -> None:
    q, target = torch.tensor([[1.0, 2.0], [0.0, 3.0]]), torch.tensor([[0.0, 4.0], [1.0, 3.0]])
    counts = torch.tensor([[2.0, 1.0], [3.0, 0.0]])
    assert float(weighted_loss(q, target, counts)) == (2 * 1 + 4) / 2 + 3 / 2


def method(counts: Tensor) -> FittedQEvaluation:
    data = batch()
    random = torch.Generator().manual_seed(1)
    actions = torch.stack([data.actions, -data.actions])
    config = EvaluationConfig(critics=2, hidden=(8,), steps=20, batch=16, tau=1.0)
    return FittedQEvaluation(Log(data, actions, counts, (-9.0, 9.0)), config, random)


def test_targets_by_hand() -> None:
    made = method(torch.ones(2, 32))
    made.unit = 2.0
    data, actions = made.log.data, made.log.next_actions
    targets = made.targets(data, actions)  # policy 0's two critics, then policy 1's
    for policy, critic in ((0, 0), (0, 1), (1, 0), (1, 1)):
        value = made.q_target(data.next_observations, actions[policy])[2 * policy + critic]
        by_hand = data.rewards / 2.0 + data.discounts * value
        torch.testing.assert_close(targets[2 * policy + critic], by_hand)


def test_targets_stay_within_what_rewards_allow() -> None:
    made = method(torch.ones(2, 32))
    made.unit = 2.0
    data, going = made.log.data, made.log.data.discounts > 0.0
    for bias, bound in ((1e3, 9.0), (-1e3, -9.0)):
        made.q_target.biases[-1].data.fill_(bias)
        targets = made.targets(data, made.log.next_actions)
        assert bool((targets[:, going] == bound / 2.0).all())
        torch.testing.assert_close(targets[:, ~going], (data.rewards / 2.0)[~going].expand(4, -1))


def test_a_critic_never_sees_what_its_sample_lacks() -> None:
    counts = torch.ones(2, 32)
    counts[1, 8:] = 0.0
    one, other = method(counts), method(counts)
    other.log.data.rewards[8:] += 5.0
    for each in (one, other):
        each.unit = 1.0
        each.run(range(20))
    data = one.log.data
    values = [each.values(data.observations, each.log.next_actions) for each in (one, other)]
    for policy in range(2):
        assert not torch.equal(values[0][policy, 0], values[1][policy, 0])
        assert torch.equal(values[0][policy, 1], values[1][policy, 1])


def test_interval_by_hand() -> None:
    """Two critics, two episodes; one sample has the first episode twice, one has each once."""
    values, shares = np.array([[0.0, 4.0], [2.0, 6.0]]), np.array([[1.0, 0.0], [0.5, 0.5]])
    found = Interval.of(values, shares)
    reach = 1.96 * 8.0**0.5  # samples 0 and 4
    assert (found.mean, found.low, found.high) == (3.0, 3.0 - reach, 3.0 + reach)


def test_one_episode_is_refused(make: Make) -> None:
    with pytest.raises(InputError, match="one episode; an evaluation takes two or more"):
        estimate(load_dataset(make(episodes=1)), {"to": to_the_goal}, SMALL)


def test_episodes_of_which_nothing_follows_are_refused(tmp_path: Path, robot: Robot) -> None:
    dataset = constant(tmp_path / "data.h5", robot, [1] * 4, terminal=False)
    with pytest.raises(InputError, match="longer than one transition or ends by a terminal"):
        estimate(dataset, {"to": to_the_goal}, SMALL)


def evaluate(*words: object) -> int:
    try:
        return cli.run(["evaluate", *map(str, words)])
    except SystemExit as left:  # by the parser
        return int(str(left.code))


TINY = ("--steps", 200, "--hidden", 16, 16, "--critics", 3)


@pytest.fixture(scope="module")
def runs(path: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("runs")
    for name in ("bc", "td3_bc"):
        words = [name, path, "--out", folder / name, "--steps", 50, "--hidden", 16, 16]
        assert cli.run(["train", *map(str, words)]) == 0
    return [folder / "bc", folder / "td3_bc"]


def test_the_command_shows_a_table_and_writes_a_file(
    path: Path, runs: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = tmp_path / "evaluation.json", tmp_path / "again.json"
    for file in files:
        assert evaluate(*runs, "--data", path, *TINY, "--out", file) == 0
    shown = capsys.readouterr().out
    assert "driver, in truth" in shown
    assert "In 2 held-out episodes the method is off by" in shown
    record = json.loads(files[0].read_text())
    assert {name: p["algorithm"] for name, p in record["policies"].items()} == {
        str(runs[0]): "bc",
        str(runs[1]): "td3_bc",
    }
    assert record["settings"]["steps"] == 200
    assert files[0].read_bytes() == files[1].read_bytes()


def test_the_surest_policy_comes_first(
    found: Estimates, capsys: pytest.CaptureFixture[str]
) -> None:
    """Not the one with the best mean, which may have left the data."""
    values = {"astray": Interval(5.0, -20.0, 30.0), "sure": Interval(1.0, 0.8, 1.2)}
    show(replace(found, values=values, gains=values), EvaluationConfig())
    shown = capsys.readouterr().out
    assert 0 < shown.index("sure") < shown.index("astray")


def test_bad_input_is_told(
    path: Path, robot: Robot, runs: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    slower = robot_from_yaml(robot.to_yaml().replace("rate: 5.0", "rate: 4.0"), "slower.yaml")
    constant(tmp_path / "other.h5", slower, [5] * 4, terminal=False)
    told = {
        (runs[0], "--data", tmp_path / "other.h5"): "was made with another robot file",
        (runs[0], "--data", tmp_path / "none.h5"): "no such dataset",
        (tmp_path, "--data", path): "not a run folder",
        (tmp_path / ("n" * 300), "--data", path): "not a run folder",
        ("--data", path): "one run folder at least",
        (runs[0], "--data", path, "--gamma", 1.0): "gamma",
        (runs[0], "--data", path, "--critics", 1): "critics",
        (runs[0], "--data", path, *TINY, "--seed", 2**64): "less than 4294967296",
        (runs[0], "--data", path, *TINY, "--out", path / "in_a_file"): "cannot be written",
        (runs[0], "--data", path, *TINY, "--out", "."): "--out .: is a folder",
        (runs[0], "--data", path, *TINY, "--out", path): "is a file to read",
        (runs[0], "--data", path, *TINY, "--out", "n" * 300): "name too long",
    }
    for words, answer in told.items():
        assert evaluate(*words) == 2, words
        assert answer in capsys.readouterr().err
