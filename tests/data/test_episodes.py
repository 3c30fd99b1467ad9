"""Rewards by topic and in Python; episodes by a switch, by events, by length."""

import sys
from pathlib import Path

import numpy as np
import pytest
from offrl_contract import InputError, Robot, robot_from_yaml
from offrl_contract.cli import run
from offrl_contract.sampling import Series, episode_ticks
from offrl_data.conversion import BagReport, convert_bags
from offrl_data.dataset import Dataset, load_dataset
from rosbags.rosbag2 import StoragePlugin, Writer

from .conftest import KIND, ROBOT, STORE

BOOL, EMPTY, FLOAT = "std_msgs/msg/Bool", "std_msgs/msg/Empty", "std_msgs/msg/Float32"
Event = tuple[str, str, float, float]
"""Topic, type, time [s], value."""


def log(path: Path, events: list[Event], seconds: float = 4.0) -> Path:
    """A pose and a command every 50 ms from 100 s on, and events among them."""
    types = STORE.types
    vector = types["geometry_msgs/msg/Vector3"]
    rows: list[tuple[float, str, str, object]] = []
    for k in range(round(seconds * 20)):
        twist = types[KIND](vector(k / 20, 0.0, 0.0), vector(0.0, 0.0, 0.0))
        rows += [(100.0 + k / 20, topic, KIND, twist) for topic in ("/pose", "/cmd")]
    for topic, kind, at, value in events:
        content = [] if kind == EMPTY else [bool(value) if kind == BOOL else value]
        if kind == EMPTY:
            content = [0]
        rows.append((at, topic, kind, types[kind](*content)))
    with Writer(path, version=9, storage_plugin=StoragePlugin.MCAP) as writer:
        kinds = {topic: kind for _, topic, kind, _ in rows}
        topics = {t: writer.add_connection(t, k, typestore=STORE) for t, k in kinds.items()}
        for at, topic, kind, message in sorted(rows, key=lambda row: row[0]):
            writer.write(topics[topic], round(at * 1e9), STORE.serialize_cdr(message, kind))
    return path


def convert(bag: Path, text: str, tmp_path: Path) -> tuple[Dataset, BagReport]:
    out = tmp_path / "data.h5"
    (report,) = convert_bags([bag], robot_from_yaml(text, "robot.yaml"), out)
    return load_dataset(out), report


def with_episode(more: str) -> str:
    return ROBOT.replace("min_length: 3}", f"min_length: 3, {more}}}")


def starts(data: Dataset) -> list[float]:
    return np.round(data.observations[data.starts, 0], 6).tolist()


def ends(data: Dataset) -> list[float]:
    return np.round(data.final_observations[:, 0], 6).tolist()


def test_a_switch_says_when_an_episode_runs(tmp_path: Path) -> None:
    events = [("/run", BOOL, 100.5, 1), ("/run", BOOL, 101.55, 0), ("/run", BOOL, 102.0, 1)]
    text = with_episode(f"running: {{topic: /run, type: {BOOL}, field: data}}")
    data, report = convert(log(tmp_path / "log", events), text, tmp_path)
    assert starts(data) == pytest.approx([0.5, 2.0])
    assert ends(data) == pytest.approx([1.5, 3.9])
    assert report.dropped["outside of an episode"] == 5 + 4  # 0.0 to 0.4, 1.6 to 1.9
    assert not data.terminals.any()


def test_a_term_may_be_named_as_an_episode_is(tmp_path: Path) -> None:
    events = [("/run", BOOL, 100.0, 1)]
    text = with_episode(f"running: {{topic: /run, type: {BOOL}, field: data}}")
    bag = log(tmp_path / "log", events)
    expected, _ = convert(bag, text, tmp_path)
    data, _ = convert(
        bag, text.replace("pose", "episode_running").replace("/episode_running", "/pose"), tmp_path
    )
    assert data.observations.tolist() == expected.observations.tolist()


def test_events_begin_and_end_episodes(tmp_path: Path) -> None:
    events = [
        ("/begin", EMPTY, 100.42, 0),
        ("/end", EMPTY, 101.52, 0),
        ("/begin", EMPTY, 102.01, 0),
    ]
    events += [("/begin", EMPTY, 103.01, 0)]  # begins anew, with no end before
    text = with_episode(
        f"start: {{topic: /begin, type: {EMPTY}}}, stop: {{topic: /end, type: {EMPTY}}}"
    )
    data, _ = convert(log(tmp_path / "log", events), text, tmp_path)
    assert starts(data) == pytest.approx([0.5, 2.1, 3.1])
    assert ends(data) == pytest.approx([1.5, 3.0, 3.9])


def test_two_events_between_two_ticks_cut(tmp_path: Path) -> None:
    events = [("/end", BOOL, 102.02, 1), ("/end", BOOL, 102.03, 0)]  # a value of 0 is no event
    text = with_episode(f"stop: {{topic: /end, type: {BOOL}, field: data}}")
    data, _ = convert(log(tmp_path / "log", events), text, tmp_path)
    assert starts(data) == pytest.approx([0.0, 2.1])
    assert ends(data) == pytest.approx([2.0, 3.9])
    assert data.timeouts.sum() == 2


def test_a_button_that_is_held_is_one_event(tmp_path: Path) -> None:
    held = [("/begin", BOOL, 100.02 + k / 20, 0.5 < k / 20 < 1.7) for k in range(79)]
    text = with_episode(f"start: {{topic: /begin, type: {BOOL}, field: data}}")
    data, _ = convert(log(tmp_path / "log", held), text, tmp_path)
    assert starts(data) == pytest.approx([0.6])
    assert ends(data) == pytest.approx([3.9])


def test_a_switch_that_goes_off_and_on_between_two_ticks_cuts(tmp_path: Path) -> None:
    events = [("/run", BOOL, 99.99, 1), ("/run", BOOL, 102.02, 0), ("/run", BOOL, 102.04, 1)]
    text = with_episode(f"running: {{topic: /run, type: {BOOL}, field: data}}")
    data, _ = convert(log(tmp_path / "log", events), text, tmp_path)
    assert starts(data) == pytest.approx([0.0, 2.1])
    assert ends(data) == pytest.approx([2.0, 3.9])


def test_longer_episodes_are_cut_as_by_a_timeout(tmp_path: Path) -> None:
    data, _ = convert(log(tmp_path / "log", []), with_episode("max_length: 15"), tmp_path)
    assert data.lengths.tolist() == [15, 15, 9]
    assert data.timeouts.nonzero()[0].tolist() == [14, 29, 38]
    assert starts(data) == pytest.approx([0.0, 1.5, 3.0])
    assert ends(data) == pytest.approx([1.5, 3.0, 3.9])


def test_reward_and_terminal_of_topics(tmp_path: Path) -> None:
    events = [("/score", FLOAT, 100.0 + k / 10 - 0.01, k) for k in range(41)]
    events += [("/done", BOOL, 100.0 + k / 10 - 0.01, k == 20) for k in range(41)]
    text = ROBOT.replace(
        'reward: "next_pose_0 - pose_0 + 100 * cmd"',
        f"reward: {{topic: /score, type: {FLOAT}, field: data}}",
    ).replace(
        'terminal: "next_pose_1 > 0.5"', f"terminal: {{topic: /done, type: {BOOL}, field: data}}"
    )
    data, _ = convert(log(tmp_path / "log", events), text, tmp_path)
    assert data.rewards.tolist() == list(range(1, 40))
    assert data.terminals.nonzero()[0].tolist() == [19]
    robot = robot_from_yaml(text, "robot.yaml")
    assert robot_from_yaml(robot.to_yaml(), "again").digest() == robot.digest()


def test_a_terminal_that_is_not_a_number_is_no_terminal(tmp_path: Path) -> None:
    text = ROBOT.replace("next_pose_1 > 0.5", "0 * sqrt(1 - next_pose_0)")
    data, report = convert(log(tmp_path / "log", []), text, tmp_path)
    assert not data.terminals.any()
    assert ends(data) == [1.0]
    assert report.dropped["reward or terminal: not finite"] == 29


def test_reward_in_python(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my_rewards.py").write_text(
        "def progress(now, then, action):\n"
        "    return (then['pose'] - now['pose'])[:, 0] + action[:, 0]\n"
        "def wrong_shape(now, then, action):\n    return 0.0\n"
        "def broken(now, then, action):\n    return now['psoe']\n"
        "def writes(now, then, action):\n    now['pose'][:] = 0.0\n    return action[:, 0]\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [p for p in sys.path if p])
    bag = log(tmp_path / "log", [])

    def text(name: str) -> str:
        return ROBOT.replace(
            'reward: "next_pose_0 - pose_0 + 100 * cmd"', f'reward: {{python: "{name}"}}'
        )

    data, _ = convert(bag, text("my_rewards:progress"), tmp_path)
    pose = np.append(data.observations[:, 0], data.final_observations[0, 0])
    np.testing.assert_allclose(data.rewards, np.diff(pose) + data.actions[:, 0], atol=1e-6)
    assert str(tmp_path) not in sys.path
    for name, sentence in {
        "my_rewards:wrong_shape": r"returned shape \(\), not \(39,\)",
        "my_rewards:broken": "raised KeyError: 'psoe'",
        "my_rewards:writes": "raised ValueError: assignment destination is read-only",
        "my_rewards:progres": "has no function 'progres'. Did you mean 'progress'?",
        "no_such_module:f": "module 'no_such_module' cannot be imported",
    }.items():
        with pytest.raises(InputError, match=sentence.replace("?", r"\?")):
            convert(bag, text(name), tmp_path)


@pytest.mark.parametrize(
    ("old", "new", "sentence"),
    [
        ("min_length: 3", "min_length: 3, max_length: 2", "max_length: 2 is below min_length"),
        ("min_length: 3", "min_length: 3, start: {topc: /a}", "start.topc: unknown key. Did you"),
        ("min_length: 3", "min_length: 3, running: {topic: /a, type: a/msg/B}", "field: missing"),
        (
            'reward: "next_pose_0',
            "signals: 5\nreward: {topic: /r, type: a/msg/B, field: x}  #",
            "signals: Input should be a valid tuple, got 5",
        ),
        ('reward: "next_pose_0', "reward: {topics: /a}  #", "reward: unknown key 'topics'"),
        (
            'reward: "next_pose_0',
            "reward: {python: nothing}  #",
            "'nothing' is not module:function",
        ),
    ],
)
def test_bad_keys_are_named(
    old: str, new: str, sentence: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    robot = tmp_path / "robot.yaml"
    robot.write_text(ROBOT.replace(old, new))
    bag = log(tmp_path / "log", [])
    assert run(["convert", str(bag), "--robot", str(robot), "--out", str(tmp_path / "d.h5")]) == 2
    assert sentence in capsys.readouterr().err


def test_ticks_of_episodes_by_hand() -> None:
    ticks = np.arange(8)
    running = Series(np.array([2, 5]), np.array([[1.0], [0.0]]))
    inside, stretch = episode_ticks(running, None, None, ticks)
    assert inside.tolist() == [False, False, True, True, True, False, False, False]
    assert stretch.tolist() == [0, 0, 1, 1, 1, 1, 1, 1]
    damaged = Series(np.array([2, 5]), np.array([[1.0], [np.nan]]))
    assert episode_ticks(damaged, None, None, ticks)[0].tolist() == inside.tolist()
    inside, stretch = episode_ticks(None, np.array([1, 5]), np.array([3, 5]), ticks)
    assert inside.tolist() == [False, True, True, False, False, True, True, True]
    assert stretch.tolist() == [0, 1, 1, 2, 2, 4, 4, 4]


def test_the_robot_needs_no_reward_module(robot: Robot) -> None:
    """A robot file with a reward in Python loads where the module is not."""
    text = ROBOT.replace(
        'reward: "next_pose_0 - pose_0 + 100 * cmd"', 'reward: {python: "not_here:f"}'
    )
    assert robot_from_yaml(text, "robot.yaml").observation_size == robot.observation_size
