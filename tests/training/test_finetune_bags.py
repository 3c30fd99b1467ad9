"""`offrl finetune --bags`: newly recorded bags, in which the gate drove for a while."""

import math
import shutil
from pathlib import Path

import numpy as np
import pytest
import yaml
from offrl_contract import cli
from offrl_contract.definitions import distro_definitions
from offrl_data.dataset import Episode, load_dataset
from offrl_training import checkpoint
from offrl_training.finetuning.bags import cut
from offrl_training.run import load_run
from rosbags.rosbag2 import StoragePlugin, Writer

from .conftest import Make

STORE = distro_definitions()
SECOND = 10**9
SMALL = ["--hidden", "16", "16", "--batch", "32", "--gamma", "0.9"]
NOMINAL, CAUTION, FALLBACK = 0, 1, 2  # levels of DiagnosticStatus


def odometry(x: float) -> object:
    types, zeros = STORE.types, np.zeros(36)
    stamp = types["builtin_interfaces/msg/Time"](0, 0)
    vector = types["geometry_msgs/msg/Vector3"](0.0, 0.0, 0.0)
    point = types["geometry_msgs/msg/Point"](x, 0.0, 0.0)
    pose = types["geometry_msgs/msg/Pose"](
        point, types["geometry_msgs/msg/Quaternion"](0.0, 0.0, 0.0, 1.0)
    )
    return types["nav_msgs/msg/Odometry"](
        types["std_msgs/msg/Header"](stamp, "odom"),
        "base",
        types["geometry_msgs/msg/PoseWithCovariance"](pose, zeros),
        types["geometry_msgs/msg/TwistWithCovariance"](
            types["geometry_msgs/msg/Twist"](vector, vector), zeros
        ),
    )


def gate(level: int) -> object:
    value = STORE.types["diagnostic_msgs/msg/KeyValue"]("state", "x" * level)
    return STORE.types["diagnostic_msgs/msg/DiagnosticStatus"](
        level, "policy: gate", "", "", [value]
    )


def write_bag(path: Path, marked: bool = True, day: int = 0) -> Path:
    """20 s at 5 Hz; the gate drives from 8 s to 12 s, after a second of caution."""
    vector = STORE.types["geometry_msgs/msg/Vector3"]
    sent = []
    for k in range(100):
        now = 200_000_000 * k
        level = FALLBACK if 40 <= k < 60 else CAUTION if 35 <= k < 40 else NOMINAL
        speed = 0.0 if level == FALLBACK else 0.6 + 0.3 * math.sin(k)
        twist = STORE.types["geometry_msgs/msg/Twist"](
            vector(speed, 0.0, 0.0), vector(0.0, 0.0, 0.0)
        )
        sent.append(("/odom", "nav_msgs/msg/Odometry", now, odometry(10.0 + math.sin(0.1 * k))))
        sent.append(("/cmd_vel", "geometry_msgs/msg/Twist", now + 2_000_000, twist))
        if marked and (k % 5 == 0 or k in (35, 40, 60)):
            sent.append(("/policy/gate", "diagnostic_msgs/msg/DiagnosticStatus", now, gate(level)))
    with Writer(path, version=9, storage_plugin=StoragePlugin.MCAP) as writer:
        connections = {
            topic: writer.add_connection(topic, kind, typestore=STORE)
            for topic, kind in {(topic, kind) for topic, kind, *_ in sent}
        }
        for topic, kind, now, content in sent:
            stamp = (1_750_000_000 + 86_400 * day) * SECOND + now
            writer.write(connections[topic], stamp, STORE.serialize_cdr(content, kind))
    return path


@pytest.fixture(scope="module")
def trained(make: Make, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("trained")
    (folder / "data.h5").write_bytes(make().read_bytes())
    words = ["train", "cal_ql", folder / "data.h5", "--out", folder / "run", "--steps", 40, *SMALL]
    assert cli.run([*map(str, words)]) == 0
    return folder


def finetune(trained: Path, out: Path, *arguments: object) -> int:
    words = ["finetune", trained / "run", "--out", out, "--steps", 60, *arguments]
    return cli.run([*map(str, words)])


@pytest.mark.parametrize(("interventions", "lengths"), [("keep", [98]), ("cut", [40, 38])])
def test_bags_are_learned_from(
    interventions: str, lengths: list[int], trained: Path, tmp_path: Path
) -> None:
    out, bag = tmp_path / "out", write_bag(tmp_path / "bag")
    asked = ["--bags", bag, "--interventions", interventions]
    assert finetune(trained, out, *asked) == 0
    new = load_dataset(tmp_path / "out_bags.h5")
    assert np.abs(new.lengths - lengths).max() <= 1, new.lengths
    assert (0.0 in new.actions) == (interventions == "keep")
    before, after = load_run(trained / "run"), load_run(out)
    assert (before.step, after.step) == (40, 100)
    assert after.dataset_digest == before.dataset_digest
    moved = after.algorithm.policy.mlp.weights[0] - before.algorithm.policy.mlp.weights[0]
    assert float(moved.detach().abs().max()) > 0.0
    assert finetune(trained, out, *asked, "--resume") == 0
    assert checkpoint.steps_of(out) == [100]


def test_bags_of_one_name_are_cut_by_their_own_gates(trained: Path, tmp_path: Path) -> None:
    bags = [write_bag(tmp_path / f"day_{day}" / "drive", day=day) for day in (0, 1)]
    asked = ["--bags", *bags, "--interventions", "cut"]
    assert finetune(trained, tmp_path / "out", *asked) == 0
    new = load_dataset(tmp_path / "out_bags.h5")
    assert len(new.lengths) == 4, new.lengths
    assert 0.0 not in new.actions


def test_a_run_that_is_new_takes_no_bags_of_a_deleted_one(trained: Path, tmp_path: Path) -> None:
    """Also where `--resume` is given, as in a script that goes on with whatever is there."""
    out, found = tmp_path / "out", []
    for day in (0, 1):
        bag = write_bag(tmp_path / f"bag_{day}", day=day)
        assert finetune(trained, out, "--bags", bag, "--resume") == 0
        found.append(load_dataset(tmp_path / "out_bags.h5").sources)
        shutil.rmtree(out)
    assert found == [("bag_0",), ("bag_1",)]


def test_a_dataset_of_new_bags_will_do(trained: Path, make: Make, tmp_path: Path) -> None:
    assert finetune(trained, tmp_path / "out", "--bags", make(seed=3)) == 0
    assert load_run(tmp_path / "out").step == 100


def test_checkpoints_come_by_time(trained: Path, make: Make, tmp_path: Path) -> None:
    """As in an environment: a kill loses no more than `--save-every`."""
    out = tmp_path / "out"
    assert finetune(trained, out, "--bags", make(seed=3), "--save-every", 0) == 0
    assert checkpoint.steps_of(out) == [98, 99, 100]


def test_a_run_may_be_the_working_directory(
    trained: Path,
    make: Make,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Its name is then not in what was given; a new run cannot take the place of that folder."""
    shutil.copytree(trained, tmp_path / "copy")
    bag = write_bag(tmp_path / "bag")
    monkeypatch.chdir(tmp_path / "copy" / "run")
    words = ["finetune", ".", "--bags", str(bag), "--steps", "2"]
    assert cli.run(words) == 0
    made = tmp_path / "copy" / "run_finetuned"
    assert (tmp_path / "copy" / "run_finetuned_bags.h5").exists()
    assert yaml.safe_load((made / "finetune.yaml").read_text())["run"] == "run"
    monkeypatch.chdir(made)
    assert cli.run(["finetune", "../run", *words[2:], "--out", ".", "--resume"]) == 0
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "empty")
    capsys.readouterr()
    for verb in (["finetune", str(made), *words[2:]], ["train", "bc", str(make())]):
        assert cli.run([*verb, "--out", "."]) == cli.EXIT_BAD_INPUT
        assert ": is the working directory. Name a folder in it." in capsys.readouterr().err


def test_cut_by_hand() -> None:
    """Ticks of 10 ns from 100 on; the gate drives from 125 (in tick 2) to 140 (where 4 begins)."""
    episode = Episode(
        observations=np.arange(7, dtype=np.float32)[:, None],
        actions=np.arange(6, dtype=np.float32)[:, None],
        rewards=np.arange(6, dtype=np.float32),
        terminal=True,
        source="bag",
        stamp=100,
    )
    drives = np.array([False, True, False])
    parts = cut(episode, 10, (np.array([90, 125, 140]), drives))
    assert [part.rewards.tolist() for part in parts] == [[0.0, 1.0], [4.0, 5.0]]
    assert [part.observations[:, 0].tolist() for part in parts] == [[0.0, 1.0, 2.0], [4, 5, 6]]
    assert [part.terminal for part in parts] == [False, True]
    assert [part.stamp for part in parts] == [100, 140]
    assert cut(episode, 10, (np.array([0]), np.array([True]))) == []
    (whole,) = cut(episode, 10, (np.zeros(0, np.int64), np.zeros(0, np.bool_)))
    assert whole.rewards.tolist() == episode.rewards.tolist()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], ["either --env or --bags"]),
        (["--bags", "unmarked", "--out", "n" * 300, "--resume"], ["name too long"]),
        (["--bags", "none"], ["none"]),
        (
            ["--bags", "unmarked", "--warm-up", "0", "--profile", "p.yaml"],
            ["finetune --bags: --warm-up, --profile: only for --env"],
        ),
        (
            ["--env", "Pendulum-v1", "--interventions", "cut"],
            ["finetune --env: --interventions: only for --bags"],
        ),
        (["--bags", "unmarked", "--interventions", "cut"], ["0 topics", "keep"]),
        (["--bags", "data.h5", "--interventions", "cut"], ["no gate topic"]),
    ],
)
def test_bad_input(
    arguments: list[str],
    words: list[str],
    trained: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    write_bag(tmp_path / "unmarked", marked=False)
    (tmp_path / "data.h5").write_bytes((trained / "data.h5").read_bytes())
    assert finetune(trained, tmp_path / "out", *arguments) == cli.EXIT_BAD_INPUT
    said = capsys.readouterr().err
    assert all(word in said for word in words), said
    assert {entry.name for entry in tmp_path.iterdir()} == {"unmarked", "data.h5"}
