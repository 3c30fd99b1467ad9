"""How the node's process runs: its executor, its priority, its memory."""

import os
import time
from pathlib import Path

import numpy as np
import pytest
from offrl_policy.diagnostics import TickStatistics
from offrl_policy.executors import make_executor, works
from offrl_policy.realtime import set_up
from rclpy.executors import SingleThreadedExecutor
from rosgraph_msgs.msg import Clock
from support import ROBOT, write_policy

from .conftest import NodeStarter, Probe

pytestmark = pytest.mark.ros


class Idle(SingleThreadedExecutor):
    """One that runs nothing, as `EventsExecutor.spin()` of some wheels."""

    def spin_once(self, timeout_sec: float | None = None) -> None:
        time.sleep(timeout_sec or 0.0)


def test_an_executor_that_runs_nothing_is_found_out(ros: None) -> None:  # noqa: ARG001
    assert works(SingleThreadedExecutor)
    assert not works(Idle)


def test_single_unless_asked(ros: None) -> None:  # noqa: ARG001
    executor, otherwise = make_executor(events=False)
    assert type(executor) is SingleThreadedExecutor
    assert otherwise == ""


def test_events_executor_drives_at_the_rate(
    tmp_path: Path, start_node: NodeStarter, probe: Probe
) -> None:
    process = start_node(write_policy(tmp_path / "policy.onnx"), executor="events")
    probe.wait_for(lambda: probe.state == "NOMINAL", "NOMINAL")
    probe.commands.clear()
    before = cpu_seconds(process.pid)
    probe.feed(3.0)
    times = np.array([t for t, _ in probe.commands])
    assert 1.0 / np.median(np.diff(times)) == pytest.approx(20.0, rel=0.1)
    assert cpu_seconds(process.pid) - before < 2.0  # no core at 100 %
    assert "single is used" not in (tmp_path / "node.log").read_text()
    process.terminate()
    assert process.wait(20) == 0


def test_events_executor_ticks_on_simulated_time(
    tmp_path: Path, start_node: NodeStarter, probe: Probe
) -> None:
    """It may tick twice at one instant, here with a command whose rate has no limit."""
    text = ROBOT.replace("max_rate: [4.0, 8.0], ", "")
    path = write_policy(tmp_path / "policy.onnx", text=text)
    process = start_node(path, executor="events", use_sim_time=True)
    clock = probe.create_publisher(Clock, "/clock", 10)

    def run(seconds: float) -> None:
        for _ in range(round(seconds * 40)):
            now = Clock()
            now.clock.sec, now.clock.nanosec = divmod(time.time_ns(), 10**9)
            clock.publish(now)
            probe.feed(1 / 40)

    end = time.monotonic() + 20
    while probe.state != "NOMINAL":
        run(0.5)
        assert time.monotonic() < end
    probe.commands.clear()
    run(3.0)
    assert len(probe.commands) > 40  # of 60
    assert np.isfinite([[m.linear.x, m.angular.z] for _, m in probe.commands]).all()
    assert process.poll() is None


def test_events_executor_does_not_tell_publish_stamps(
    tmp_path: Path, start_node: NodeStarter
) -> None:
    text = ROBOT.replace("rate: 20.0", "rate: 20.0\nclock: publish")
    path = write_policy(tmp_path / "policy.onnx", text=text)
    assert start_node(path, executor="events").wait(20) == 2
    assert (
        "parameter executor: term 'scan' has clock: publish" in (tmp_path / "node.log").read_text()
    )


def test_ticks_that_take_or_come_too_late_are_counted() -> None:
    statistics = TickStatistics(0.05)
    ticks = [(0.01, 0), (0.01, 50), (0.06, 100), (0.01, 150), (0.01, 260), (0.01, 310)]  # s, ms
    late = [statistics.add(0.0, spent, tick * 10**6) for spent, tick in ticks]
    assert late == [0, 0, 1, 0, 1, 0]
    assert statistics.overruns == 2
    assert statistics.silence(0.9) == ""
    assert statistics.silence(2.5) == "no tick for 2.5 s"


@pytest.mark.parametrize(
    ("gaps", "late"),
    [
        ((100, 100, 500, 100), [1, 2, 3, 4]),
        ((95, 95, 95, 95), [0, 1, 2, 3]),
        ((76, 76, 76, 76), [0, 1, 1, 2]),
        ((95, 95, 5, 95), [0, 1, 0, 1]),
        ((95, 5, 95, 5), [0, 0, 0, 0]),
        ((5, 100, 50, 100), [0, 1, 0, 1]),
    ],
)  # ms
def test_ticks_too_far_apart_to_be_judged_are_late(gaps: tuple[int, ...], late: list[int]) -> None:
    """One that comes at once after a late one makes up for it, as the rate is kept."""
    statistics, ticks = TickStatistics(0.05), np.cumsum([0, *gaps])
    counted = [statistics.add(0.0, 0.01, int(tick) * 10**6) for tick in ticks]
    assert counted == [0, *late]
    assert statistics.overruns == sum(gap > 75 for gap in gaps)


def test_priority_and_locked_memory_or_the_remedy(
    tmp_path: Path, start_node: NodeStarter, probe: Probe
) -> None:
    parameters = {"realtime.priority": 10, "realtime.lock_memory": True}
    process = start_node(write_policy(tmp_path / "policy.onnx"), **parameters)
    probe.wait_for(lambda: probe.state == "NOMINAL", "NOMINAL")
    said = (tmp_path / "node.log").read_text()
    if "parameter realtime.priority: 10" in said:
        assert "LimitRTPRIO=" in said
    else:
        assert os.sched_getscheduler(process.pid) == os.SCHED_FIFO
        assert os.sched_getparam(process.pid).sched_priority == 10
    if "parameter realtime.lock_memory" in said:
        assert "LimitMEMLOCK=" in said
    else:
        status = Path(f"/proc/{process.pid}/status").read_text()
        (locked,) = [row for row in status.splitlines() if row.startswith("VmLck:")]
        assert int(locked.split()[1]) > 10_000  # kB


def test_what_is_not_permitted_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "sched_setscheduler", refuse)
    (problem,) = set_up(50, lock_memory=False)
    assert problem.startswith("parameter realtime.priority: 50: Operation not permitted.")
    assert set_up(0, lock_memory=False) == []


def cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
