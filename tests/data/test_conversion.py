"""Conversion: what a transition is, where episodes end, what the report says."""

from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
from offrl_contract import InputError, Robot, load_robot, robot_from_yaml
from offrl_data.bags import find_bags
from offrl_data.commands import ConvertConfig
from offrl_data.conversion import BagReport, convert_bags
from offrl_data.dataset import load_dataset
from offrl_data.message_definitions import MessageDefinitions

from .conftest import ROBOT, BagMaker, drive, read


def convert(paths: list[Path], robot: Robot, out: Path) -> list[BagReport]:
    return convert_bags(paths, robot, out)


@pytest.mark.parametrize("kind", ["mcap", "db3", "bag"])
def test_a_transition_is_what_the_contract_says(
    kind: str, make_bag: BagMaker, robot: Robot, tmp_path: Path
) -> None:
    out = tmp_path / "data.h5"
    (report,) = convert([make_bag(drive(2.0), kind=kind)], robot, out)
    data = load_dataset(out)
    # 20 ticks at 0.1 s; the last has no successor
    assert (report.ticks, report.transitions, report.episodes) == (20, 19, 1)
    np.testing.assert_allclose(data.observations[:, 0], np.arange(19) * 0.1, atol=1e-6)
    np.testing.assert_allclose(data.actions[:, 0], np.arange(19) * 0.01, atol=1e-6)
    np.testing.assert_allclose(data.rewards, 0.1 + np.arange(19), atol=1e-5)
    np.testing.assert_allclose(data.final_observations, [[1.9, 0.0]], atol=1e-6)
    np.testing.assert_allclose(data.next_observations[:, 0], np.arange(1, 20) * 0.1, atol=1e-6)
    assert not data.terminals.any()
    assert data.timeouts.nonzero()[0].tolist() == [18]


def test_terminal_ends_an_episode_and_is_not_a_timeout(
    make_bag: BagMaker, robot: Robot, tmp_path: Path
) -> None:
    out = tmp_path / "data.h5"
    (report,) = convert([make_bag(drive(2.0, ends=(1.0,)))], robot, out)
    data = load_dataset(out)
    assert report.terminals == 1
    assert data.lengths.tolist() == [10, 9]
    assert data.terminals.nonzero()[0].tolist() == [9]
    assert data.timeouts.nonzero()[0].tolist() == [18]
    np.testing.assert_allclose(data.final_observations[0], [1.0, 1.0], atol=1e-6)


def test_a_pause_splits_and_every_tick_is_accounted_for(
    make_bag: BagMaker, robot: Robot, tmp_path: Path
) -> None:
    out = tmp_path / "data.h5"
    (report,) = convert([make_bag(drive(2.0, gap=3.0))], robot, out)
    assert report.episodes == 2
    assert report.transitions + sum(report.dropped.values()) == report.ticks
    assert report.dropped["pause longer than 1 s"] >= 28
    assert load_dataset(out).timeouts.sum() == 2


def test_a_pause_splits_even_where_samples_may_be_old(make_bag: BagMaker, tmp_path: Path) -> None:
    patient = ROBOT.replace("max_age: 0.15", "max_age: 60").replace("hold: 0.25", "hold: 60")
    robot = robot_from_yaml(patient, "patient.yaml")
    (report,) = convert([make_bag(drive(2.0, gap=3.0))], robot, tmp_path / "data.h5")
    assert report.episodes == 2
    assert report.dropped["pause longer than 1 s"] >= 28


def test_commands_outside_the_limits_are_clipped_and_counted(
    make_bag: BagMaker, robot: Robot, tmp_path: Path
) -> None:
    messages = [(t, s, x * 20 if t == "/cmd" else x, y) for t, s, x, y in drive(2.0)]
    (report,) = convert([make_bag(messages)], robot, tmp_path / "data.h5")
    assert report.clipped_commands == 14
    assert report.notes == ["cmd.linear.x: logged from 0 to 3.8, limits -1 to 1"]
    assert load_dataset(tmp_path / "data.h5").actions.max() == 1.0


def test_two_messages_at_one_instant_resolve_to_the_later_one(
    make_bag: BagMaker, robot: Robot, tmp_path: Path
) -> None:
    messages = drive(2.0)
    double = [m if m[0] == "/cmd" else (m[0], m[1], m[2] + 50.0, m[3]) for m in messages]
    both = [message for pair in zip(messages, double, strict=True) for message in pair]
    convert([make_bag(both)], robot, tmp_path / "data.h5")
    assert load_dataset(tmp_path / "data.h5").observations[:, 0].min() >= 50.0


def test_several_bags_keep_their_order_and_names(
    make_bag: BagMaker, robot: Robot, tmp_path: Path
) -> None:
    for name in ("b", "a"):
        make_bag(drive(1.0), name=name)
    bags = find_bags([tmp_path])
    assert [bag.name for bag in bags] == ["a", "b"]
    convert(bags, robot, tmp_path / "data.h5")
    assert load_dataset(tmp_path / "data.h5").sources == ("a", "b")


def test_a_bag_that_is_found_twice_counts_once(make_bag: BagMaker, tmp_path: Path) -> None:
    logs = tmp_path / "logs"
    bag = make_bag(drive(1.0), name="logs/one")
    (file,) = bag.glob("*.mcap")
    (logs / "latest").symlink_to("one")
    (logs / "loop").symlink_to(".")
    assert find_bags([logs, logs / "one", file, logs, logs / "one" / ".." / "one"]) == [bag]


def test_the_readme_lists_every_option() -> None:
    root = Path(__file__).parents[2]
    readme = (root / "ros_ws" / "src" / "offrl_data" / "README.md").read_text()
    for option in fields(ConvertConfig)[1:]:
        assert f"\n| `--{option.name.replace('_', '-')}` |" in readme


def test_d4rl_code_reads_the_file_as_it_is(
    make_bag: BagMaker, robot: Robot, tmp_path: Path
) -> None:
    convert([make_bag(drive(2.0))], robot, tmp_path / "data.h5")
    flat = read(tmp_path / "data.h5")
    assert set(flat) == {"observations", "actions", "rewards", "terminals", "timeouts"}
    assert {name: (array.shape, array.dtype.str[1:]) for name, array in flat.items()} == {
        "observations": ((19, 2), "f4"),
        "actions": ((19, 1), "f4"),
        "rewards": ((19,), "f4"),
        "terminals": ((19,), "b1"),
        "timeouts": ((19,), "b1"),
    }


def test_a_bag_without_a_topic_is_skipped_with_a_note(
    make_bag: BagMaker, robot: Robot, tmp_path: Path
) -> None:
    whole = make_bag(drive(1.0), name="whole")
    part = make_bag([m for m in drive(1.0) if m[0] == "/pose"], name="part")
    reports = convert([part, whole], robot, tmp_path / "data.h5")
    assert reports[0].notes == ["skipped: no topic /cmd"]
    assert reports[1].transitions == 9


def test_a_clock_that_cannot_be_used_is_refused_with_its_figure(
    bags: Path, msgs: Path, tmp_path: Path
) -> None:
    definitions = MessageDefinitions(msgs=msgs)
    text = load_robot("ackermann").to_yaml().replace("name: speed", "name: speed\n  clock: header")
    robot = robot_from_yaml(text, "ackermann.yaml")
    with pytest.raises(InputError, match=r"/odometry.*-5700748\.\d+ s from the receive clock"):
        convert_bags([bags / "ackermann_gps"], robot, tmp_path / "data.h5", definitions)
    assert list(tmp_path.iterdir()) == []
