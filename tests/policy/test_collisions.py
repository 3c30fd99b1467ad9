"""The robot file's `collision`: braking before the nearest thing is too near."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from offrl_contract import InputError
from offrl_policy.controller import Controller, Settings
from offrl_policy.gate import State
from offrl_policy.policy_file import Policy
from offrl_policy.record import Snapshot
from support import ROBOT, robot, write_policy

from .rig import SECOND, TICK, Rig

RANGE, TIME, PERIOD = 0.25, 0.5, TICK / SECOND
FAR = 4.0


def text(keys: str = "", history: int = 1) -> str:
    check = f"collision: {{range: {RANGE}, time: {TIME}{keys}}}, history: {history}, max_age: 0.3}}"
    return ROBOT.replace("max_age: 0.3}", check, 1)


def make(folder: Path, keys: str = "", history: int = 1) -> Rig:
    path = write_policy(folder / "p.onnx", text=text(keys, history))
    rig = Rig(Controller(Policy(path), Settings(blend_time=0.0)))
    rig.ticks(3, ranges=[FAR] * 8)
    return rig


@pytest.fixture(scope="module")
def policy(tmp_path_factory: pytest.TempPathFactory) -> Policy:
    return Policy(write_policy(tmp_path_factory.mktemp("policy") / "p.onnx", text=text()))


@given(speed=st.floats(0.5, 3.0), beam=st.integers(0, 7), begin=st.floats(2.5, 3.9))
def test_stops_so_long_before_the_nearest_thing_is_too_near(
    policy: Policy, speed: float, beam: int, begin: float
) -> None:
    """Whichever beam sees it; and not long before."""
    rig = Rig(Controller(policy, Settings()))
    ranges, near = [FAR] * 8, begin
    ranges[beam] = near
    rig.ticks(2, ranges=ranges)
    while True:
        ranges[beam] = near
        decision = rig.tick(ranges=ranges)
        left = (near - RANGE) / speed  # [s]
        if decision.state is State.STOP:
            break
        assert left > TIME - 1e-3
        near -= speed * PERIOD
    assert left < TIME + PERIOD + 1e-3
    assert "scan: collision ahead: " in decision.reason
    assert decision.reason.endswith(f"nears at {speed:.2f} m/s")


def test_it_goes_on_where_nothing_nears_any_more(tmp_path: Path) -> None:
    rig = make(tmp_path)
    rig.tick(ranges=[0.6] * 8)
    assert rig.tick(ranges=[0.5] * 8).state is State.STOP
    assert rig.tick(ranges=[0.5] * 8).state is State.NOMINAL
    assert rig.tick(ranges=[0.6] * 8).state is State.NOMINAL
    rig.ticks(3, ranges=[0.2] * 8)
    assert rig.tick(ranges=[0.2] * 8).state is State.NOMINAL  # too near, but standing: it may leave


def test_what_passes_does_not_stop(tmp_path: Path) -> None:
    """Each beam jumps by metres; the nearest thing keeps its distance."""
    rig = make(tmp_path)
    for tick in range(8):
        ranges = [FAR] * 8
        ranges[tick] = 0.3
        decision = rig.tick(ranges=ranges)
        assert decision.state is (State.STOP if tick == 0 else State.NOMINAL)  # it appeared


@pytest.mark.parametrize(("keys", "state"), [("", State.NOMINAL), (", noise: 0", State.STOP)])
def test_noise_is_no_approach(keys: str, state: State, tmp_path: Path) -> None:
    rig = make(tmp_path, keys)
    rig.ticks(3, ranges=[0.27] * 8)
    assert rig.tick(ranges=[0.26] * 8).state is state


@pytest.mark.parametrize("speed", [0.1, 0.2, 0.35])
def test_a_slow_approach_is_one_as_well(tmp_path: Path, speed: float) -> None:
    """By less than `noise` from one message to the next; braked at for good, not now and then."""
    rig = make(tmp_path)
    rig.ticks(2, ranges=[0.5] * 8)
    states, near = [], 0.5
    while near > RANGE:
        near -= speed * PERIOD
        states.append(rig.tick(ranges=[near] * 8).state)
    begun = states.index(State.STOP)
    left = 0.5 - RANGE - speed * PERIOD * (begun + 1)
    assert 0.5 * TIME - PERIOD <= left / speed <= TIME + PERIOD
    assert set(states[begun:]) == {State.STOP}


@given(jitter=st.lists(st.floats(0.0, 0.0199), min_size=5, max_size=60))
def test_what_jitters_by_less_than_noise_does_not_stop(policy: Policy, jitter: list[float]) -> None:
    rig = Rig(Controller(policy, Settings()))
    rig.ticks(2, ranges=[0.26] * 8)
    rig.ticks(7, ranges=[0.2799] * 8)
    assert {rig.tick(ranges=[0.26 + each] * 8).state for each in jitter[1:]} <= {State.NOMINAL}


def test_between_two_scans_the_approach_goes_on(tmp_path: Path) -> None:
    """At 2 m/s from 1.48 m: 1.23 m to go, of which the check sees 1.0 ahead."""
    rig = make(tmp_path)
    rig.ticks(2, ranges=[1.58] * 8)
    assert rig.tick(ranges=[1.48] * 8).state is State.NOMINAL
    states = [rig.tick(feed=False).state for _ in range(3)]
    assert states == [State.NOMINAL, State.NOMINAL, State.STOP]


def test_after_a_gap_nothing_is_known_of_speed(tmp_path: Path) -> None:
    rig = make(tmp_path)
    rig.tick(ranges=[2.0] * 8)
    rig.now += SECOND
    assert rig.tick(ranges=[0.4] * 8).reason == "last_action: 1.05 s old"
    assert rig.tick(ranges=[0.4] * 8).state is State.NOMINAL


def test_the_newest_of_a_history_counts(tmp_path: Path) -> None:
    rig = make(tmp_path, history=3)
    rig.ticks(3, ranges=[0.6] * 8)
    assert rig.tick(ranges=[0.5] * 8).state is State.STOP
    assert rig.ticks(2, ranges=[0.5] * 8)[0].state is State.NOMINAL


def test_a_scan_slower_than_the_tick_brakes_without_flicker(tmp_path: Path) -> None:
    """It comes every second tick; the one in between has the same newest scan."""
    rig = make(tmp_path, history=2)
    rig.ticks(2, ranges=[1.2] * 8)
    rig.tick(feed=False)
    states = []
    for near in np.arange(1.1, 0.3, -0.1):
        states += [rig.tick(ranges=[near] * 8).state, rig.tick(feed=False).state]
    begun = states.index(State.STOP)
    assert 0 < begun < len(states) - 2
    assert set(states[begun:]) == {State.STOP}


def test_a_clock_that_jumps_back_forgets(tmp_path: Path) -> None:
    rig = make(tmp_path)
    rig.tick(ranges=[0.6] * 8)
    assert rig.controller.collisions.approaches
    rig.controller.clock_jumped_back(rig.now - SECOND)
    assert not rig.controller.collisions.approaches


def test_a_snapshot_remembers_the_approach(tmp_path: Path) -> None:
    """A replay that begins at a keyframe decides as the node did."""
    one, other, ignorant = make(tmp_path), make(tmp_path), make(tmp_path)
    one.ticks(2, ranges=[0.6] * 8)
    known = Snapshot.model_validate_json(one.controller.snapshot().model_dump_json())
    for rig in (other, ignorant):
        rig.ticks(2, ranges=[0.5] * 8)
    other.controller.restore(known)
    assert [rig.tick(ranges=[0.5] * 8).state for rig in (one, other, ignorant)] == [
        State.STOP,
        State.STOP,
        State.NOMINAL,
    ]


@pytest.mark.parametrize(
    ("old", "new", "sentence"),
    [
        ("max_age: 0.3}", "collision: {range: 6, time: 1}}", "range 6 is outside clip"),
        ("max_age: 0.3}", "collision: {range: 1, time: 0}}", "greater than 0"),
        (
            "max_age: 0.3}",
            "collision: {range: 1, times: 1}}",
            r"collision.times: unknown key. Did you mean 'time'\?",
        ),
        ("bins: 4", "bins: 4, reduce: mean, collision: {range: 1, time: 1}", "takes reduce: min"),
        ("bins: 4, max_missing: 0.5", "wrap: true, collision: {range: 1, time: 1}", "takes dist"),
        ("source: action", "source: action, collision: {range: 1, time: 1}", "takes no collision"),
    ],
)
def test_what_cannot_be_checked_is_refused(old: str, new: str, sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        robot(ROBOT.replace(old, new, 1))


def test_commands_stay_inside_their_rate(tmp_path: Path) -> None:
    """Braking is a ramp, as after any other check."""
    rig = make(tmp_path)
    rig.ticks(10, ranges=[FAR] * 8)
    braking = rig.tick(ranges=[0.5] * 8).command
    np.testing.assert_allclose(braking, [0.3, 0.0])  # 4 and 8 per second, for 50 ms


def test_the_gate_watches_while_the_node_brakes(tmp_path: Path) -> None:
    """Otherwise a drift would begin anew after each braking."""
    braking, free = make(tmp_path), make(tmp_path)
    states, undisturbed = [], []
    for tick in range(40):
        ranges = [2.0 if tick % 2 else 0.5] * 8
        states.append(braking.tick(x=0.9, ranges=ranges).state)
        undisturbed.append(free.tick(x=0.9, ranges=[0.5] * 8).state)
    first = states.index(State.FALLBACK)
    assert first == undisturbed.index(State.FALLBACK) > 10  # by its CUSUM
    assert states[:first].count(State.STOP) >= first // 2
    assert set(states[first:]) == {State.FALLBACK}  # which stops anyway, and says why


@pytest.mark.parametrize("fallback", ["hold", "topic"])
def test_it_brakes_whoever_drives(fallback: str, tmp_path: Path) -> None:
    rig = make(tmp_path)
    rig.controller.change(
        Settings(fallback=fallback, blend_time=0.0, hold_time=5.0)  # type: ignore[arg-type]
    )
    rig.ticks(5, ranges=[FAR] * 8)
    rig.controller.back_up(rig.now, [0.5, 0.0])
    driven = rig.tick(x=2.4, ranges=[FAR] * 8)
    assert driven.state is State.FALLBACK
    assert driven.command[0] == pytest.approx(0.5)
    braking = rig.tick(ranges=[0.5] * 8)
    assert braking.state is State.STOP
    assert braking.command[0] == pytest.approx(0.3)
    assert rig.tick(ranges=[0.5] * 8).state is State.FALLBACK
