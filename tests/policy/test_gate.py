"""The gate's states and the limiter, against sequences worked out by hand."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from offrl_policy.gate import Gate, GateSettings, State
from offrl_policy.limits import Limiter
from support import ROBOT, calibration, robot

TICK = 50_000_000


def drive(gate: Gate, scores: list[tuple[float, float]], start: int = 0) -> list[State]:
    return [gate.step(start + k * TICK, list(each)) for k, each in enumerate(scores)]


def test_starts_in_stop_and_goes_nominal_when_checks_pass() -> None:
    gate = Gate(calibration(), GateSettings())
    assert gate.state is State.STOP
    assert drive(gate, [(0.2, 0.2)]) == [State.NOMINAL]


def test_a_jump_of_either_score_alarms_at_once() -> None:
    for scores in ((1.0, 0.2), (0.2, 1.0)):
        gate = Gate(calibration(), GateSettings())
        assert drive(gate, [(0.2, 0.2), scores]) == [State.NOMINAL, State.FALLBACK]


def test_caution_before_the_threshold() -> None:
    gate = Gate(calibration(), GateSettings(caution=0.8))
    assert drive(gate, [(0.79, 0.2), (0.81, 0.2)]) == [State.NOMINAL, State.CAUTION]
    assert gate.reason == "critic_std at 0.81 of its threshold"


def test_cusum_catches_a_small_shift_that_lasts() -> None:
    """At 2 sigma over the mean each tick adds 1.5; 40 is passed at tick 27, never by the value."""
    gate = Gate(calibration(), GateSettings())
    states = drive(gate, [(0.4, 0.2)] * 40)
    assert states.index(State.FALLBACK) == 26
    assert "critic_std_cusum" in gate.reason
    still = Gate(calibration(), GateSettings())
    assert set(drive(still, [(0.24, 0.2)] * 4000)) == {State.NOMINAL}  # under the slack: never


def test_fallback_is_latched_until_reset_and_calm() -> None:
    gate = Gate(calibration(), GateSettings(dwell=0.5))
    drive(gate, [(2.0, 0.2)])
    assert set(drive(gate, [(0.2, 0.2)] * 100, TICK)) == {State.FALLBACK}
    assert "call reset" in gate.reason
    gate.reset()
    assert drive(gate, [(0.2, 0.2)], 101 * TICK) == [State.NOMINAL]


def test_unlatched_fallback_waits_for_the_dwell_time_below_release() -> None:
    gate = Gate(calibration(), GateSettings(dwell=0.5, latch=False, release=0.7))
    drive(gate, [(1.5, 0.2)])
    states = drive(gate, [(0.8, 0.2)] * 20 + [(0.2, 0.2)] * 200, TICK)
    assert set(states[:30]) == {State.FALLBACK}
    assert states[-1] is State.NOMINAL


def test_a_failed_check_does_not_open_the_latch() -> None:
    gate = Gate(calibration(), GateSettings(dwell=0.1))
    drive(gate, [(2.0, 0.2)])
    gate.stop("scan: 0.9 s old")
    assert gate.state is State.STOP
    assert drive(gate, [(0.2, 0.2)] * 50, TICK)[-1] is State.FALLBACK


def test_a_reset_keeps_the_dwell_time_through_a_failed_check() -> None:
    """Nor is a level between release and caution calm, or one above caution a warning only."""
    gate = Gate(calibration(), GateSettings(dwell=0.5))
    drive(gate, [(2.0, 0.2)])
    gate.reset()
    gate.stop("scan: 0.9 s old")
    assert gate.levels == {}
    assert set(drive(gate, [(0.75, 0.2), (0.95, 0.2)], TICK)) == {State.FALLBACK}
    gate.stop("scan: 0.9 s old")
    states = drive(gate, [(0.2, 0.2)] * 30, 3 * TICK)
    assert states.index(State.NOMINAL) >= 10
    assert states[-1] is State.NOMINAL


@pytest.mark.parametrize("stopped", [False, True])
def test_a_reset_begins_the_sums_anew(stopped: bool) -> None:
    """They are at twice their threshold, from which calm scores take minutes."""
    gate = Gate(calibration(), GateSettings(dwell=0.5))
    drive(gate, [(2.0, 0.2)] * 30)
    if stopped:
        gate.stop("scan: 0.9 s old")
    gate.reset()
    states = drive(gate, [(0.24, 0.2)] * 30, 30 * TICK)
    assert 10 <= states.index(State.NOMINAL) < 12
    assert states[-1] is State.NOMINAL


def test_a_reset_where_nothing_fell_keeps_the_sums() -> None:
    gate = Gate(calibration(), GateSettings())
    states = []
    for k in range(40):
        gate.reset()
        states += drive(gate, [(0.4, 0.2)], k * TICK)
    assert states.index(State.FALLBACK) == 26


def test_reset_while_unfamiliar_does_not_drive() -> None:
    gate = Gate(calibration(), GateSettings(dwell=0.1))
    drive(gate, [(2.0, 0.2)])
    gate.reset()
    assert set(drive(gate, [(2.0, 0.2)] * 50, TICK)) == {State.FALLBACK}


def test_limiter_clamps_and_limits_the_rate() -> None:
    limiter = Limiter(robot())
    np.testing.assert_allclose(limiter.step(np.array([9.0, -0.1]), 0.05), [0.2, -0.1])
    np.testing.assert_allclose(limiter.step(np.array([9.0, -9.0]), 0.05), [0.4, -0.5])
    for _ in range(20):
        command = limiter.step(np.array([9.0, -9.0]), 0.05)
    np.testing.assert_allclose(command, [1.0, -2.0])
    # a long pause between ticks does not open the limit: two periods at most
    np.testing.assert_allclose(limiter.step(np.array([-1.0, -2.0]), 60.0), [0.6, -2.0])


@pytest.mark.parametrize("max_rate", ["[4.0, 8.0]", None])
@given(steps=st.lists(st.tuples(st.floats(-9.0, 9.0), st.floats(-1.0, 1e6)), max_size=5))
def test_commands_are_finite_and_inside_the_limits_however_time_goes(
    max_rate: str | None, steps: list[tuple[float, float]]
) -> None:
    """Two ticks at one instant among them: without a limit the rate is infinite, the time zero."""
    given_rate = "" if max_rate is None else f"max_rate: {max_rate}, "
    limiter = Limiter(robot(ROBOT.replace("max_rate: [4.0, 8.0], ", given_rate)))
    for target, elapsed in [*steps, (9.0, 0.0)]:
        before = limiter.last
        command = limiter.step(np.array([target, target]), elapsed)
        assert (np.abs(command) <= [1.0, 2.0]).all()
        reach = 4.0 * min(max(elapsed, 0.0), 0.1) if max_rate else 2.0
        assert abs(command[0] - before[0]) <= reach + 1e-9
    assert max_rate or command[1] == 2.0


def test_nan_does_not_poison_the_limiter() -> None:
    limiter = Limiter(robot())
    limiter.step(np.array([0.1, 0.1]), 0.05)
    with pytest.raises(ValueError, match="not finite"):
        limiter.step(np.array([np.nan, 0.0]), 0.05)
    np.testing.assert_array_equal(limiter.last, [0.1, 0.1])
    np.testing.assert_allclose(limiter.step(np.array([0.15, 0.1]), 0.05), [0.15, 0.1])
