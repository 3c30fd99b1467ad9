"""The tick without ROS: every check, every fallback, hand-over without a jump."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from offrl_policy.controller import Controller, Decision, Settings
from offrl_policy.gate import GateSettings, State
from offrl_policy.policy_file import Answer, Policy
from support import ROBOT, encode, odometry, write_policy

from .rig import ODOMETRY, SECOND, TICK, Rig, twist

CUT = "unpack_from requires a buffer of at least 12 bytes for unpacking 8 bytes at offset 4 (actual buffer size is 7)"  # noqa: E501
WITHOUT_LAST = ROBOT.replace("  - {name: last_action, source: action}\n", "")
UNLIMITED = ROBOT.replace("max_rate: [4.0, 8.0], ", "")


def make(path: Path, text: str = ROBOT, **settings: Any) -> Rig:
    policy = Policy(write_policy(path / "p.onnx", text=text))
    return Rig(Controller(policy, Settings(**settings)))


@pytest.fixture
def rig(tmp_path: Path) -> Rig:
    return make(tmp_path, blend_time=0.0)


def test_begins_in_stop_and_then_drives(rig: Rig) -> None:
    first, second = rig.ticks(2)
    assert first.state is State.STOP
    assert first.reason == "last_action: no message yet"
    np.testing.assert_array_equal(first.command, [0.0, 0.0])
    assert second.state is State.NOMINAL
    np.testing.assert_allclose(second.command, [0.2, 0.25])  # 4 per second for 50 ms
    np.testing.assert_allclose(rig.ticks(2)[-1].command, [0.5, 0.25])


def test_stale_term_stops_within_its_max_age_and_names_itself(rig: Rig) -> None:
    rig.ticks(10)
    states = [rig.tick(feed=False) for _ in range(12)]
    stopped = next(k for k, each in enumerate(states) if each.state is State.STOP)
    assert 5 <= stopped <= 6  # max_age 0.3 s at 20 Hz
    assert states[stopped].reason.startswith("scan: 0.3")
    np.testing.assert_array_equal(states[-1].command, [0.0, 0.0])
    assert rig.tick().state is State.NOMINAL


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"x": float("nan")}, "twist_0: not finite"),
        ({"z": float("inf")}, "twist_1: not finite"),
        (
            {"ranges": [float("nan")] * 8},
            "scan: 8 of 8 readings are missing, at most 4 may be",
        ),
        ({"ranges": [1.0, 1.0, *[float("nan")] * 2, *[1.0] * 4]}, "scan_1: not finite"),
        ({"ranges": [1.0, 2.0]}, "scan: 2 readings for 4 bins"),
    ],
)
def test_bad_values_stop_and_leave_the_limiter_alone(
    options: dict[str, Any], reason: str, rig: Rig
) -> None:
    rig.ticks(10)
    bad = rig.tick(**options)
    assert bad.state is State.STOP
    assert bad.reason == reason
    assert np.isfinite(bad.command).all()
    assert np.isfinite(rig.controller.limiter.last).all()
    assert rig.tick().state is State.NOMINAL


def test_network_output_that_is_not_finite_stops(tmp_path: Path) -> None:
    rig = make(tmp_path)
    rig.ticks(5)
    scores = np.array([0.1, 0.1], np.float32)
    answer = Answer(np.array([np.nan, 0.0], np.float32), scores, ())
    rig.controller.policy.run = lambda *_: answer  # type: ignore[method-assign]
    bad = rig.tick()
    assert (bad.state, bad.reason) == (State.STOP, "policy: output not finite")
    assert np.isfinite(bad.command).all()


def test_unfamiliar_state_ramps_to_the_safe_command(rig: Rig) -> None:
    rig.ticks(10)
    alarmed = rig.tick(x=4.0)
    assert alarmed.state is State.FALLBACK
    assert alarmed.reason == "unfamiliar: critic_std at 2.00 of its threshold"
    np.testing.assert_allclose(alarmed.command, [0.3, 0.0])  # within the rate limits
    np.testing.assert_allclose(rig.ticks(2, x=4.0)[-1].command, [0.0, 0.0])
    assert rig.ticks(100)[-1].state is State.FALLBACK  # latched


def test_hold_keeps_the_last_command_then_stops(tmp_path: Path) -> None:
    rig = make(tmp_path, fallback="hold", hold_time=0.5, blend_time=0.0)
    rig.ticks(10)
    held = rig.ticks(20, x=4.0)
    np.testing.assert_allclose(held[5].command, [0.5, 0.25])
    np.testing.assert_allclose(held[-1].command, [0.0, 0.0])


@pytest.mark.parametrize("interruption", ["stale", "collision", "engaged"])
def test_hold_does_not_drive_off_again_after_a_stop(tmp_path: Path, interruption: str) -> None:
    """Nor does it hold a command of shadow mode, that nobody was given."""
    text = ROBOT.replace("max_age: 0.3}", "max_age: 0.3, collision: {range: 0.3, time: 0.5}}", 1)
    rig = make(tmp_path, text, fallback="hold", hold_time=10.0, blend_time=0.0)
    rig.ticks(10)
    ranges = [0.3 if interruption == "collision" else 1.0] * 8
    if interruption == "stale":
        stopped = rig.ticks(12, feed=False)[-1]
    elif interruption == "collision":
        stopped = [rig.tick(ranges=[1.0 - k / 20] * 8) for k in range(15)][-1]
    else:
        for _ in range(20):
            rig.now += TICK
            rig.feed()
            rig.controller.push("/cmd_vel", rig.now, twist(np.array([0.0, 0.0])))
            rig.controller.tick(rig.now, engaged=False)
    if interruption != "engaged":
        assert stopped.state is State.STOP
        np.testing.assert_array_equal(stopped.command, [0.0, 0.0])
    decisions = rig.ticks(20, x=4.0, ranges=ranges)
    assert decisions[-1].state is State.FALLBACK
    np.testing.assert_array_equal([each.command for each in decisions], np.zeros((20, 2)))


def test_topic_passes_a_fresh_backup_through_the_limits_else_stops(tmp_path: Path) -> None:
    rig = make(tmp_path, fallback="topic", blend_time=0.0)
    rig.ticks(10)
    for _ in range(10):
        rig.controller.back_up(rig.now, [-0.3, 9.0])
        driven = rig.tick(x=4.0)
    np.testing.assert_allclose(driven.command, [-0.3, 2.0])
    rig.controller.back_up(rig.now, [float("nan"), 0.0])  # at once, however fresh the last good one
    np.testing.assert_allclose(rig.tick(x=4.0).command, [-0.1, 1.6])
    np.testing.assert_allclose(rig.ticks(20, x=4.0)[-1].command, [0.0, 0.0])


def test_hand_over_blends_and_never_jumps(tmp_path: Path) -> None:
    rig = make(tmp_path, blend_time=1.0, gate=GateSettings(latch=False, dwell=0.2))
    commands = [decision.command for decision in rig.ticks(30)]
    commands += [decision.command for decision in rig.ticks(10, x=4.0)]
    commands += [decision.command for decision in rig.ticks(100)]
    steps = np.abs(np.diff(commands, axis=0))
    assert (steps <= np.array([4.0, 8.0]) / 20 + 1e-9).all()
    resumed = np.array(commands)[60:, 0]
    assert (np.diff(resumed) >= -1e-9).all()
    rising = int((np.diff(resumed) > 1e-6).sum())
    assert rising >= 10  # spread over blend_time, not one rate-limited jump
    np.testing.assert_allclose(commands[-1], [0.5, 0.25])


def test_caution_may_slow_down(tmp_path: Path) -> None:
    rig = make(tmp_path, caution_scale=0.4, blend_time=0.0)
    rig.ticks(10)
    slow = rig.ticks(3, x=1.8)[-1]
    assert slow.state is State.CAUTION
    np.testing.assert_allclose(slow.command, [0.2, 0.1])


def test_wishes_beyond_the_limits_are_scaled_and_blended_inside_of_them(tmp_path: Path) -> None:
    """5.0 of at most 1.0 was in CAUTION full speed, and a hand-over a fifth as long."""
    path = write_policy(tmp_path / "p.onnx", action=(5.0, 0.25), text=UNLIMITED)
    settings = Settings(caution_scale=0.4, blend_time=1.0, fallback="topic")
    rig = Rig(Controller(Policy(path), settings))
    np.testing.assert_allclose(rig.ticks(12)[-1].command, [0.5, 0.125])
    rig.ticks(20)
    np.testing.assert_allclose(rig.tick(x=1.8).command, [0.4, 0.1])
    for _ in range(11):
        rig.controller.back_up(rig.now, [-5.0, 0.1])
        driven = rig.tick(x=4.0)
    np.testing.assert_allclose(driven.command, [0.5 * 0.4 - 0.5, 0.1])


def test_late_ticks_in_a_row_fall_back(rig: Rig) -> None:
    rig.ticks(5)
    rig.controller.late = 3
    late = rig.tick()
    assert late.state is State.FALLBACK
    assert late.reason == "3 ticks behind: too slow for 20 Hz"


def test_clock_that_jumps_back_forgets_everything(rig: Rig) -> None:
    rig.ticks(5)
    rig.now -= 100 * SECOND
    assert rig.controller.clock_jumped_back(rig.now)
    assert not rig.controller.clock_jumped_back(rig.now)
    assert rig.controller.live.buffered == 0
    assert rig.tick(feed=False).state is State.STOP
    assert rig.ticks(2)[-1].state is State.NOMINAL


def test_changed_definition_stops_while_it_lasts(rig: Rig) -> None:
    rig.ticks(5)
    rig.controller.fault = "/odom: a publisher's definition of nav_msgs/msg/Odometry is other"
    assert rig.tick().reason.startswith("/odom: a publisher's definition")
    rig.controller.fault = ""
    assert rig.tick().state is State.NOMINAL


def test_a_message_that_cannot_be_timed_stops_for_a_tick(tmp_path: Path) -> None:
    rig = make(tmp_path, ROBOT.replace("twist.angular.z]", "twist.angular.z], clock: header"))

    def tick(raw: bytes | None = None) -> Decision:
        message = odometry(0.2, 0.2)
        message.header.stamp.sec, message.header.stamp.nanosec = divmod(rig.now, SECOND)  # type: ignore[attr-defined]
        rig.controller.push("/odom", rig.now, encode(message, ODOMETRY))
        if raw is not None:
            rig.controller.push("/odom", rig.now, raw)
        return rig.tick()

    assert [tick().state for _ in range(3)][-1] is State.NOMINAL
    stopped = tick(b"\0\1\0\0abc")
    assert (stopped.state, stopped.reason) == (State.STOP, f"{ODOMETRY} of 7 bytes: {CUT}")
    assert tick().state is State.NOMINAL


@pytest.mark.parametrize("driven", [True, False])
def test_engaging_begins_at_the_command_in_force_or_the_safe_one(
    tmp_path: Path, driven: bool
) -> None:
    """However fast another drove a minute ago, or this node would have."""
    rig = make(tmp_path, WITHOUT_LAST, blend_time=0.0)
    if driven:
        rig.controller.push("/cmd_vel", rig.now, twist(np.array([1.0, 0.0])))
    for _ in range(1200):
        rig.now += TICK
        rig.feed()
        rig.controller.tick(rig.now, engaged=False)
    np.testing.assert_allclose(rig.tick().command, [0.2, 0.25])  # 4 per second for 50 ms


def test_stopped_from_outside_it_drives_off_from_the_safe_command(tmp_path: Path) -> None:
    """As after activation: nothing that drove before is held, or blended from."""
    rig = make(tmp_path, fallback="hold", hold_time=10.0, blend_time=0.0)
    rig.ticks(10)
    rig.controller.stop("disengaged")
    np.testing.assert_allclose(rig.tick().command, [0.2, 0.25])
    rig.ticks(10)
    np.testing.assert_allclose(rig.tick(x=4.0).command, [0.5, 0.25])  # held
    rig.controller.stop("just activated")
    np.testing.assert_array_equal(rig.tick(x=4.0).command, [0.0, 0.0])


def test_a_clock_behind_its_messages_has_jumped_back(tmp_path: Path) -> None:
    """Before any tick as well; what a backup said in that future is not fresh."""
    rig = make(tmp_path, fallback="topic", blend_time=0.0)
    for tell in (lambda: rig.feed(), lambda: rig.controller.back_up(rig.now, [0.9, 0.0])):
        rig.now = 1000 * SECOND
        tell()
        assert not rig.controller.clock_jumped_back(rig.now - TICK // 2)
        rig.now = 50 * SECOND
        assert rig.controller.clock_jumped_back(rig.now)
        assert rig.controller.live.buffered == 0
        assert not rig.controller.clock_jumped_back(rig.now)
    np.testing.assert_array_equal(rig.ticks(3, x=4.0)[-1].command, [0.0, 0.0])


def test_a_gap_in_time_does_not_count_as_calm(tmp_path: Path) -> None:
    rig = make(tmp_path, WITHOUT_LAST, gate=GateSettings(latch=False, dwell=1.0))
    rig.controller.gate.fall_back("tried")
    rig.ticks(2)
    rig.now += 3600 * SECOND
    states = [decision.state for decision in rig.ticks(30)]
    assert states.index(State.NOMINAL) >= 20
