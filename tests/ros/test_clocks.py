"""The policy node's clocks over real DDS: publish stamps, simulated time, a clock that jumps."""

import shutil
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from diagnostic_msgs.msg import DiagnosticStatus
from in_process import policy_node
from rosgraph_msgs.msg import Clock
from std_srvs.srv import Trigger
from support import ROBOT, odometry, write_policy

from .conftest import NodeStarter, Probe, log

pytestmark = pytest.mark.ros


@pytest.mark.parametrize(("clock", "fresh"), [("receive", True), ("publish", False)])
def test_publish_stamps_tell_how_long_a_message_was_under_way(
    clock: str, fresh: bool, tmp_path: Path, probe: Probe
) -> None:
    """The node takes a message out of its queue half a second after it was sent."""
    text = ROBOT.replace("rate: 20.0", f"rate: 20.0\nclock: {clock}")
    path = write_policy(tmp_path / "policy.onnx", text=text)
    with policy_node(path) as (node, executor):
        probe.wait_for(lambda: probe.heard_by("/odom"), "discovery")
        for _ in range(10):  # the messages that discovery was waited for with
            executor.spin_once(timeout_sec=0.05)
        probe.send("/odom", odometry(0.7), "nav_msgs/msg/Odometry")
        time.sleep(0.5)
        now = node.get_clock().now().nanoseconds
        for _ in range(10):
            executor.spin_once(timeout_sec=0.05)
        assert node.controller is not None
        seen = node.controller.live.observe(now + 10**9).terms["twist"]
        assert seen.values[0, 0] == 0.7
        assert bool(seen.ages[0] < 1_250_000_000) is fresh


def test_publish_stamps_beside_simulated_time_are_refused(
    tmp_path: Path, start_node: NodeStarter
) -> None:
    text = ROBOT.replace("rate: 20.0", "rate: 20.0\nclock: publish")
    process = start_node(write_policy(tmp_path / "policy.onnx", text=text), use_sim_time=True)
    assert process.wait(20) == 2
    assert "parameter use_sim_time: term 'scan' has clock: publish" in log(tmp_path)


class Simulated:
    """A /clock, with sensors."""

    def __init__(self, probe: Probe, now: float) -> None:
        self.now = now
        """[s]"""
        self._probe = probe
        self._clock = probe.create_publisher(Clock, "/clock", 10)

    def run(self, seconds: float, step: float = 0.025) -> None:
        """Let it run for some time [s] of its own, in real time."""
        for _ in range(round(seconds / step)):
            self.now += step
            now = Clock()
            now.clock.sec, now.clock.nanosec = divmod(round(self.now * 1e9), 10**9)
            self._clock.publish(now)
            self._probe.feed(step, rate=1 / step)

    def run_until(self, condition: Callable[[], bool], step: float = 0.025) -> None:
        end = time.monotonic() + 20
        while not condition():
            assert time.monotonic() < end, f"{self._probe.state}: {self._probe.reason}"
            self.run(0.5, step)


def test_half_of_the_rate_is_too_slow_and_says_so(
    policy: Path, start_node: NodeStarter, probe: Probe
) -> None:
    """No step of it can be judged: it drove on without that score, and left no FALLBACK."""
    start_node(policy, use_sim_time=True, dwell=0.5)
    simulated = Simulated(probe, 1000.0)
    simulated.run_until(lambda: probe.state == "NOMINAL")
    simulated.run_until(lambda: probe.state == "FALLBACK", step=0.095)  # of 0.05
    assert probe.reason.endswith("ticks behind: too slow for 20 Hz")
    assert probe.call(Trigger, "/policy/reset").success
    simulated.run(2.0, step=0.095)
    assert probe.state == "FALLBACK"
    assert probe.commands[-1][1].linear.x == 0.0
    simulated.run(0.5)
    assert probe.call(Trigger, "/policy/reset").success
    simulated.run_until(lambda: probe.state == "NOMINAL")


def test_clock_that_jumps_back_stops_with_one_warning(
    start_node: NodeStarter, probe: Probe, tmp_path: Path
) -> None:
    """Also with a history of commands, of which none is from the time before."""
    text = ROBOT.replace("source: action}", "source: action, history: 2}")
    start_node(write_policy(tmp_path / "policy.onnx", text=text), use_sim_time=True)
    simulated = Simulated(probe, 1000.0)
    simulated.run_until(lambda: probe.state == "NOMINAL")
    before = len(probe.commands)
    simulated.now = 50.0
    simulated.run(3.0)
    assert log(tmp_path).count("the clock jumped back") == 1
    assert probe.state == "NOMINAL"  # it drives again on the new clock
    assert len(probe.commands) - before > 20


def test_clock_that_dies_stops_the_robot(
    policy: Path, start_node: NodeStarter, probe: Probe
) -> None:
    """Nothing ticks any more: the robot would have driven on by the last command."""
    start_node(policy, use_sim_time=True)
    simulated = Simulated(probe, 1000.0)
    simulated.run_until(lambda: any(command.linear.x != 0.0 for _, command in probe.commands))
    probe.feed(4.0)
    assert probe.commands[-1][1].linear.x == 0.0
    assert probe.gates[-1].level == DiagnosticStatus.STALE
    assert probe.gates[-1].message.startswith("STOP: no tick for ")
    told = probe.diagnostics[-1].status[0]
    assert told.level == DiagnosticStatus.ERROR
    assert told.message.startswith("STOP: no tick for ")
    simulated.run_until(lambda: probe.state == "NOMINAL")


SET_BACK = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <time.h>
#include <unistd.h>
int clock_gettime(clockid_t clock, struct timespec *now) {
  int (*real)(clockid_t, struct timespec *) = dlsym(RTLD_NEXT, "clock_gettime");
  int result = real(clock, now);
  if (clock == CLOCK_REALTIME && access(SWITCH, F_OK) == 0) now->tv_sec -= 3600;
  return result;
}
"""


def test_a_system_clock_that_is_set_back_stops_and_goes_on(
    policy: Path,
    start_node: NodeStarter,
    probe: Probe,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """By an hour, as by NTP: the robot would have driven on by its last command for so long."""
    compiler = shutil.which("cc") or pytest.skip("no C compiler, for a clock that can be set")
    source, library, switch = (tmp_path / name for name in ("back.c", "back.so", "switch"))
    source.write_text(SET_BACK)
    options = ["-shared", "-fPIC", f'-DSWITCH="{switch}"', "-o", str(library), str(source), "-ldl"]
    subprocess.run([compiler, *options], check=True)
    with monkeypatch.context() as patch:
        patch.setenv("LD_PRELOAD", str(library))
        start_node(policy)
    probe.wait_for(lambda: probe.state == "NOMINAL", "NOMINAL")
    probe.commands.clear()
    switch.touch()
    probe.feed(2.0)
    assert len(probe.commands) > 20  # of 40
    assert log(tmp_path).count("the clock jumped back") == 1
    assert probe.state == "NOMINAL"
