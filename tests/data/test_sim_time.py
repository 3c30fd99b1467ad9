"""Logs of a simulator: everything timed by /clock, as in a node with use_sim_time."""

from collections.abc import Callable
from pathlib import Path

import pytest
from mcap.writer import Writer
from offrl_contract import InputError, robot_from_yaml
from offrl_contract.live import Live
from offrl_data.conversion import convert_bags
from offrl_data.dataset import load_dataset

from .conftest import KIND, STORE
from .test_clocks import ROBOT, STAMPED

WALL = 1_700_000_000_000_000_000
"""When the recording began [ns]."""
CLOCK = "rosgraph_msgs/msg/Clock"
TEXTS = {"/speed": STAMPED, "/cmd": KIND, "/goal": KIND, "/clock": CLOCK}
GOAL = "{name: goal, topic: /goal, type: geometry_msgs/msg/Twist, field: linear.x, max_age: 60}"


def simulated(k: int) -> int:
    """The simulated time [ns] at step k of 10 ms, from 40 s on."""
    return 40_000_000_000 + k * 10_000_000


def log(
    path: Path,
    wall: Callable[[int], int],
    clock: Callable[[int], int],
    topics: tuple[str, ...],
    begin: int = 20,
) -> tuple[Path, list[tuple[int, str, bytes]]]:
    """A counting speed and commands each 50 ms of simulated time, received by the wall clock.

    The clock is sent from a step on.
    """
    types = STORE.types
    vector, time = types["geometry_msgs/msg/Vector3"], types["builtin_interfaces/msg/Time"]
    zero = vector(0.0, 0.0, 0.0)
    sent: list[tuple[int, str, bytes]] = []

    def send(k: int, topic: str, message: object) -> None:
        raw = bytes(STORE.serialize_cdr(message, TEXTS[topic]))
        sent.append((k, topic, raw))
        writer.add_message(channels[topic], wall(k), raw, wall(k))

    with path.open("wb") as stream:
        writer = Writer(stream)
        writer.start(profile="ros2")
        channels = {}
        for topic in topics:
            text = STORE.generate_msgdef(TEXTS[topic], ros_version=2)[0]
            schema = writer.register_schema(TEXTS[topic], "ros2msg", text.encode())
            channels[topic] = writer.register_channel(topic, "cdr", schema)
        for k in range(600):
            if "/clock" in topics and k >= begin:
                send(k, "/clock", types[CLOCK](time(*divmod(clock(k), 10**9))))
            if k % 5 == 0:
                twist = types[KIND](vector(float(k), 0.0, 0.0), zero)
                head = types["std_msgs/msg/Header"](time(*divmod(simulated(k), 10**9)), "")
                send(k, "/speed", types[STAMPED](head, twist))
                send(k, "/cmd", twist)
            if "/goal" in topics and k == 0:
                send(k, "/goal", types[KIND](vector(7.0, 0.0, 0.0), zero))
        writer.finish()
    return path, sent


def slow(k: int) -> int:
    """The wall time of step k [ns]: a simulator at a quarter of the real speed that also stalls."""
    return WALL + k * 40_000_000 + (k > 300) * 7_000_000_000


def rows(
    path: Path, clock: str, out: Path, sim_time: bool
) -> tuple[list[float], list[float], float]:
    """Observations, actions, and the time of the first row [s]."""
    convert_bags(
        [path], robot_from_yaml(ROBOT.replace("CLOCK", clock), "test"), out, sim_time=sim_time
    )
    data = load_dataset(out)
    return data.observations[:, 0].tolist(), data.actions[:, 0].tolist(), data.stamps[0] / 1e9


@pytest.mark.parametrize("clock", ["receive", "header"])
def test_rows_are_those_of_a_log_in_simulated_time(clock: str, tmp_path: Path) -> None:
    path, _ = log(tmp_path / "sim.mcap", slow, simulated, ("/speed", "/cmd", "/clock"))
    ideal, _ = log(tmp_path / "ideal.mcap", simulated, simulated, ("/speed", "/cmd"))
    seen = rows(path, clock, tmp_path / "sim.h5", sim_time=True)
    expected = rows(ideal, clock, tmp_path / "ideal.h5", sim_time=False)
    skipped = 4  # ticks of 0.1 s: the messages before /clock began have no time
    assert len(seen[0]) == len(expected[0]) - skipped // 2
    assert seen[0] == expected[0][skipped // 2 :]
    assert seen[1] == expected[1][skipped // 2 :]
    assert seen[2] == pytest.approx(40.2)
    # by the wall clock the ticks are four times as dense, and the stall cuts the episode
    assert len(rows(path, "receive", tmp_path / "wall.h5", sim_time=False)[0]) > 3 * len(seen[0])


def test_the_robot_sees_the_same_with_use_sim_time(tmp_path: Path) -> None:
    """A goal from before the clock began is of the time 0, and in force."""
    path, sent = log(tmp_path / "sim.mcap", slow, simulated, ("/speed", "/cmd", "/goal", "/clock"))
    text = ROBOT.replace("CLOCK", "receive").replace("observation:", f"observation:\n  - {GOAL}")
    robot = robot_from_yaml(text, "test")
    convert_bags([path], robot, tmp_path / "sim.h5", sim_time=True)
    data = load_dataset(tmp_path / "sim.h5")
    expected = data.observations.tolist()
    live = Live(robot, STORE)
    now, tick, seen = 0, int(data.stamps[0]), []
    for k, topic, raw in sent:
        if topic == "/clock":
            now = simulated(k)
        else:
            live.push(topic, now, raw)
        if now >= tick and topic == "/cmd":  # after all messages of this instant
            observation = live.observe(tick)
            seen.append(observation.vector.tolist())
            tick += robot.period
    assert seen[: len(expected)] == expected


def test_a_note_says_how_fast_simulated_time_went(tmp_path: Path) -> None:
    path, _ = log(tmp_path / "sim.mcap", slow, simulated, ("/speed", "/cmd", "/clock"))
    robot = robot_from_yaml(ROBOT.replace("CLOCK", "receive"), "test")
    (report,) = convert_bags([path], robot, tmp_path / "data.h5", sim_time=True)
    assert "timed by /clock: 5.8 s of simulated time in 30.2 s" in report.notes
    assert "/speed: 4 messages before the clock began" in report.notes
    assert not report.losses


def test_the_time_before_the_clock_is_no_pause(tmp_path: Path) -> None:
    """The messages of the first 0.2 s have the time 0, the others times from 40 s on."""
    path, _ = log(tmp_path / "sim.mcap", slow, simulated, ("/speed", "/cmd", "/clock"))
    robot = robot_from_yaml(ROBOT.replace("CLOCK", "receive"), "test")
    (report,) = convert_bags([path], robot, tmp_path / "data.h5", sim_time=True)
    assert report.seconds == pytest.approx(5.75)
    assert report.ticks < 60
    assert "pause longer than 1 s" not in report.dropped
    assert report.topics[0].longest_gap == pytest.approx(0.05)
    assert report.topics[0].messages == 120


def test_headers_from_before_the_clock_do_not_refuse_it(tmp_path: Path) -> None:
    """Most of the log is from then, when the receive clock stands at 0."""
    path, _ = log(tmp_path / "sim.mcap", slow, simulated, ("/speed", "/cmd", "/clock"), begin=400)
    seen, _, first = rows(path, "header", tmp_path / "sim.h5", sim_time=True)
    assert first >= 44.0
    assert seen == [seen[0] + 10.0 * k for k in range(len(seen))]


def reset(k: int) -> int:
    """A clock that begins again at step 300."""
    return simulated(k % 300)


@pytest.mark.parametrize(
    ("clock", "topics", "sentence"),
    [
        (simulated, ("/speed", "/cmd"), "--sim-time: no topic /clock"),
        (reset, ("/speed", "/cmd", "/clock"), "goes backwards 1 times, first by 2.990 s"),
    ],
)
def test_clocks_that_cannot_be_followed(
    clock: Callable[[int], int], topics: tuple[str, ...], sentence: str, tmp_path: Path
) -> None:
    path, _ = log(tmp_path / "log.mcap", slow, clock, topics)
    with pytest.raises(InputError, match=sentence):
        rows(path, "receive", tmp_path / "data.h5", sim_time=True)
    assert not list(tmp_path.glob("*.h5"))


def test_publish_stamps_are_refused_beside_sim_time(tmp_path: Path) -> None:
    path, _ = log(tmp_path / "sim.mcap", slow, simulated, ("/speed", "/cmd", "/clock"))
    with pytest.raises(InputError, match="term 'speed' has clock: publish"):
        rows(path, "publish", tmp_path / "data.h5", sim_time=True)


def test_a_header_in_simulated_time_is_refused_with_this_remedy(tmp_path: Path) -> None:
    path, _ = log(tmp_path / "sim.mcap", slow, simulated, ("/speed", "/cmd", "/clock"))
    with pytest.raises(
        InputError, match=r"Use clock: receive. Or --sim-time, for a simulator's log."
    ):
        rows(path, "header", tmp_path / "data.h5", sim_time=False)
