"""Causal sampling, and the promise that a bag and a live robot give the same rows."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from offrl_contract import Robot, robot_from_yaml
from offrl_contract.definitions import distro_definitions
from offrl_contract.live import Live
from offrl_contract.sampling import (
    Fault,
    Series,
    action_of_tick,
    observation_vector,
    sample,
    sample_observation,
)

MS = 1_000_000
STORE = distro_definitions()
TWIST = STORE.types["geometry_msgs/msg/Twist"]
VECTOR = STORE.types["geometry_msgs/msg/Vector3"]
ROBOT = """
robot: test
rate: 10.0
observation:
  - {name: a, topic: /a, type: geometry_msgs/msg/Twist, field: [linear.x, linear.y], max_age: 0.25, history: 3}
  - {name: b, topic: /b, type: geometry_msgs/msg/Twist, field: angular.z, max_age: 0.1, clip: [-1, 1]}
  - {name: last, source: action, history: 2}
action:
  - {name: cmd, topic: /cmd, type: geometry_msgs/msg/Twist, field: [linear.x], limits: [[-5, 5]], hold: 0.3, safe: [0]}
reward: "a_0"
"""  # noqa: E501


@pytest.fixture(scope="module")
def robot() -> Robot:
    return robot_from_yaml(ROBOT, "test.yaml")


def test_newest_sample_at_or_before_the_tick() -> None:
    series = Series(np.array([10, 20, 20, 30]), np.array([[1.0], [2.0], [3.0], [np.nan]]))
    ticks = np.array([9, 10, 19, 20, 29, 30, 41])
    found = sample(series, ticks, 10)
    np.testing.assert_array_equal(found.values[1:5, 0], [1.0, 1.0, 3.0, 3.0])
    assert found.faults.tolist() == [
        Fault.MISSING,
        Fault.NONE,
        Fault.NONE,
        Fault.NONE,
        Fault.NONE,
        Fault.NOT_FINITE,
        Fault.STALE,
    ]
    assert found.ages.tolist() == [-1, 0, 9, 0, 9, 0, 11]


def test_a_sample_counts_only_once_it_has_arrived() -> None:
    """The second is stamped 20 and arrives at 45, after the third; the first arrives at once."""
    series = Series(np.array([10, 20, 30]), np.array([[1.0], [2.0], [3.0]]), np.array([10, 45, 40]))
    found = sample(series, np.array([10, 25, 39, 40, 45]), 100)
    assert found.values[:, 0].tolist() == [1.0, 1.0, 1.0, 3.0, 3.0]
    assert found.ages.tolist() == [0, 15, 29, 10, 15]


def test_of_two_messages_at_one_instant_the_last_counts(robot: Robot) -> None:
    series = Series(np.array([0, 0]), np.array([[1.0], [2.0]]))
    assert sample(series, np.array([0]), 1).values[0, 0] == 2.0
    live = Live(robot, STORE)
    for z in (0.25, 0.5):
        live.push("/b", 0, message(0.0, 0.0, z))
    assert live.observe(0).terms["b"].values[0, 0] == 0.5


deliveries = st.lists(
    st.tuples(st.integers(0, 900), st.integers(-60, 120), st.integers(0, 9)), max_size=40
)


@settings(max_examples=200, deadline=None)
@given(deliveries=deliveries, clock=st.sampled_from(["publish", "header"]))
def test_bag_and_live_agree_on_stamps_of_another_clock(
    deliveries: list[tuple[int, int, int]], clock: str
) -> None:
    """Messages that overtake one another, and stamps ahead of the receive clock."""
    text = f"""
robot: test
rate: 10.0
observation:
  - {{name: s, topic: /s, type: geometry_msgs/msg/PointStamped, field: point.x, max_age: 0.15, clock: {clock}, history: 3}}
action:
  - {{name: cmd, topic: /cmd, type: geometry_msgs/msg/Twist, field: [linear.x], limits: [[-5, 5]], safe: [0]}}
reward: "s_0"
"""  # noqa: E501
    robot = robot_from_yaml(text, "test.yaml")
    types = STORE.types
    received = np.array(sorted(r for r, _, _ in deliveries), np.int64) * MS
    stamps = np.maximum(received - np.array([d for _, d, _ in deliveries], np.int64) * MS, 0)
    values = np.array([[float(v)] for _, _, v in deliveries]).reshape(-1, 1)
    order = np.argsort(stamps, kind="stable")
    none = Series(np.zeros(0, np.int64), np.empty((0, 1)))
    series = {"s": Series(stamps[order], values[order], received[order]), "cmd": none}
    ticks = np.arange(0, 1100, 100, dtype=np.int64) * MS
    bag = sample_observation(robot, series, ticks)["s"]
    live = Live(robot, STORE)
    row = 0
    for k, tick in enumerate(ticks.tolist()):
        while row < len(received) and received[row] <= tick:
            at = types["builtin_interfaces/msg/Time"](*divmod(int(stamps[row]), 10**9))
            content = types["geometry_msgs/msg/PointStamped"](
                types["std_msgs/msg/Header"](at, ""),
                types["geometry_msgs/msg/Point"](values[row, 0], 0.0, 0.0),
            )
            live.push("/s", int(received[row]), content, int(stamps[row]))
            row += 1
        seen = live.observe(tick).terms["s"]
        assert seen.faults[0] == bag.faults[k]
        assert seen.ages[0] == bag.ages[k]
        if not seen.faults[0]:
            np.testing.assert_array_equal(seen.values[0], bag.values[k])


def test_action_of_a_tick_is_in_force_when_the_next_begins(robot: Robot) -> None:
    """A command given 5 ms after tick 0 is the action of tick 0 and the last action at tick 1."""
    commands = Series(np.array([5, 105, 205]) * MS, np.array([[1.0], [2.0], [9.0]]))
    ticks = np.array([0, 100, 200, 600]) * MS
    action = action_of_tick(robot, {"cmd": commands}, ticks)
    assert action.values[:3, 0].tolist() == [1.0, 2.0, 5.0]  # 9 is clipped to the limit
    assert action.faults.tolist() == [0, 0, 0, Fault.STALE]


def message(x: float, y: float, z: float) -> object:
    return TWIST(linear=VECTOR(x, y, 0.0), angular=VECTOR(0.0, 0.0, z))


events = st.lists(
    st.tuples(
        st.integers(0, 2000),
        st.sampled_from(["/a", "/b", "/cmd"]),
        st.sampled_from([0.0, 1.0, -3.5, 7.25, float("nan")]),
    ),
    max_size=60,
)


@settings(max_examples=200, deadline=None)
@given(events=events, phase=st.integers(0, 99), as_bytes=st.booleans())
def test_bag_and_live_give_the_same_rows(
    events: list[tuple[int, str, float]], phase: int, as_bytes: bool
) -> None:
    robot = robot_from_yaml(ROBOT, "test.yaml")
    events = sorted(events, key=lambda event: event[0])
    live = Live(robot, STORE)
    ticks = np.arange(phase, 2100, 100, dtype=np.int64) * MS
    series = {}
    for name, topic, values in (
        ("a", "/a", lambda v: [v, v + 1]),
        ("b", "/b", lambda v: [min(max(v, -1), 1) if v == v else v]),
        ("cmd", "/cmd", lambda v: [v]),
    ):
        mine = [(t * MS, values(v)) for t, where, v in events if where == topic]
        stamps = np.array([t for t, _ in mine], dtype=np.int64)
        rows = np.array([row for _, row in mine]).reshape(len(mine), len(values(0.0)))
        series[name] = Series(stamps, rows)
    bag = sample_observation(robot, series, ticks)
    vectors = observation_vector(bag)
    pending = list(events)
    for k, tick in enumerate(ticks):
        while pending and pending[0][0] * MS <= tick:
            stamp, topic, v = pending.pop(0)
            content = message(v, v + 1, v)
            raw = bytes(STORE.serialize_cdr(content, "geometry_msgs/msg/Twist"))
            live.push(topic, stamp * MS, raw if as_bytes else content)
        seen = live.observe(int(tick))
        assert {f.term: int(f.kind) for f in seen.faults} == {
            name: int(each.faults[k]) for name, each in bag.items() if each.faults[k]
        }
        if not seen.faults:
            np.testing.assert_array_equal(seen.vector, vectors[k])


def test_a_flood_keeps_the_newest_and_does_not_grow(robot: Robot) -> None:
    live = Live(robot, STORE)
    for k in range(20_000):
        live.push("/b", k * MS // 10, message(0.0, 0.0, k * 1e-5))
    assert live.buffered < 4100  # four periods of history at 10 kHz
    assert live.observe(2_000 * MS).terms["b"].values[0, 0] == pytest.approx(0.19999)


def ahead(*messages: tuple[int, int]) -> Live:
    """A robot of another clock, after messages (received, sent) [ms] on /a and /b."""
    live = Live(
        robot_from_yaml(ROBOT.replace("rate: 10.0", "rate: 10.0\nclock: publish"), "t"), STORE
    )
    for received, sent in messages:
        for topic in ("/a", "/b"):
            live.push(topic, received * MS, message(received, 0.0, 0.0), sent * MS)
    return live


def test_a_stamp_far_ahead_makes_no_other_old() -> None:
    """Term `a` looks back two ticks; the message an hour ahead is not known yet."""
    now = range(1000, 2000, 100)
    live = ahead(*((t, t) for t in now), (1950, 3_600_000), *((t + 1000, t + 1000) for t in now))
    seen = live.observe(2900 * MS)
    assert [f.term for f in seen.faults] == ["last"]
    assert seen.terms["a"].values[0, ::2].tolist() == [2700.0, 2800.0, 2900.0]


def test_a_sample_is_no_younger_than_its_reception() -> None:
    """The clock of the sender is 200 ms ahead, so that each is known 200 ms later, and that old."""
    live = ahead(*((t, t + 200) for t in range(1000, 2000, 100)))
    terms = live.observe(2150 * MS).terms
    assert terms["a"].ages[0] == 250 * MS
    assert terms["b"].ages[0] == 250 * MS
    assert terms["b"].faults[0] == Fault.STALE
    times = np.array([1000, 1100]) * MS
    series = Series(times + 200 * MS, np.zeros((2, 1)), times)
    assert sample(series, np.array([1350 * MS]), 100 * MS).ages.tolist() == [250 * MS]


def test_messages_do_not_pile_up_where_time_or_a_stamp_stands_still() -> None:
    stuck = [(t, 10**6) for t in range(5000)]
    assert ahead(*[(0, 0)] * 5000).buffered == 2
    assert ahead(*stuck).buffered == 2
    assert ahead(*((t, t + 10**6) for t in range(5000))).buffered == 2 * 1000


def test_a_number_beyond_single_precision_is_a_fault_with_words(robot: Robot) -> None:
    live = Live(robot, STORE)
    live.push("/b", 0, message(0.0, 0.0, 0.0))
    live.push("/a", 0, message(0.0, 1e39, 0.0))
    live.push("/cmd", 0, message(np.inf, 0.0, 0.0))
    assert [fault.text for fault in live.observe(0).faults] == [
        "a: no message yet",
        "last: no message yet",
    ]
    found = [fault.text for fault in live.observe(200 * MS).faults]
    assert found == ["a_1: not finite", "b: 0.20 s old", "last: not finite"]


def test_reset_forgets(robot: Robot) -> None:
    live = Live(robot, STORE)
    live.push("/b", 0, message(0.0, 0.0, 1.0))
    live.reset()
    assert [fault.text for fault in live.observe(0).faults][1] == "b: no message yet"


def test_malformed_bytes_are_a_fault_with_words(robot: Robot) -> None:
    live = Live(robot, STORE)
    live.push("/b", 0, b"\x00\x01\x00\x00short")
    fault = live.observe(0).faults[1]
    assert fault.kind == Fault.NOT_FINITE
    assert "geometry_msgs/msg/Twist of 9 bytes" in fault.text
