"""The policy node for a long time at 100 Hz, with a random fault every few seconds.

A driver publishes odometry and a scan over DDS, breaks something, waits for the state that the
fault asks for, mends it, and waits for the state that must follow. Whatever is not reached in time
is a failure, as is a traceback of the node. The node is killed and started again in the first
quarter only; afterwards its memory is watched.

    .venv/bin/python benchmarks/soak.py --minutes 20
"""

import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import rclpy
import tyro
from diagnostic_msgs.msg import DiagnosticStatus
from geometry_msgs.msg import Twist
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState
from nav_msgs.msg import Odometry
from node import ROOT, VARIANTS, messages, observations, resident, write_policy
from offrl_contract.definitions import distro_definitions
from offrl_policy.policy_file import Policy
from rcl_interfaces.srv import SetParameters
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.parameter import Parameter
from rclpy.qos import qos_profile_sensor_data
from sensor_msgs.msg import LaserScan
from std_srvs.srv import SetBool, Trigger

RESULTS = ROOT / "benchmarks" / "results" / "soak.json"
RATE = 100.0
MAX_AGE = 0.5  # [s], of the robot file of node.py
SHORTEST = 2.0  # [minutes]
SOON = 3.0
"""A state must follow its cause within this time [s], beyond what the robot file allows."""
CALM = 1.5
"""Longer than the gate's dwell [s]."""
DRIVING = ("NOMINAL", "CAUTION")


@dataclass(frozen=True)
class Config:
    """Break the node's world again and again."""

    minutes: float = 20.0
    """How long."""
    seed: int = 0
    """Of the faults' order."""
    publisher: Path | None = None
    """Internal: publish as a process of its own, until killed; the policy."""


def calmest(policy: Policy) -> int:
    """Return which of the driver's messages is the most usual one.

    With all of them an episode that never ends would alarm in the end, as it has to.
    """
    known = policy.gate.scores
    heights = []
    for observation in observations(VARIANTS, seed=10**6):
        scores = zip(policy.run(observation).uncertainty, known, strict=True)
        heights.append(max((score - each.mean) / each.std for score, each in scores))
    return int(np.argmin(heights))


class Driver(Node):
    """Sensors that can break, and the ear for what the node says."""

    def __init__(self, policy: Path) -> None:
        super().__init__("soak")
        self._executor = SingleThreadedExecutor()
        self._executor.add_node(self)
        scans, odometry = messages()
        usual = calmest(Policy(policy))
        self._usual_scan, self.usual_odometry = scans[usual], odometry[usual]
        self._scan = self.create_publisher(LaserScan, "/scan", qos_profile_sensor_data)
        self._odom = self.create_publisher(Odometry, "/odom", qos_profile_sensor_data)
        self.create_subscription(DiagnosticStatus, "/policy/gate", self._told, 100)
        self.create_subscription(Twist, "/cmd_vel", self._heard, 100)
        self.create_timer(1.0 / RATE, self._publish)
        self.state, self.reason = "", ""
        self.cause = ""
        """Why it fell back the last time."""
        self.command = (0.0, 0.0)
        self.commands = 0
        self.healthy = True
        self.odometry: bytes | None = None
        """Published in place of what is usual."""
        self.times = 1
        """Messages at each tick."""
        self._callers: dict[str, Any] = {}

    def _publish(self) -> None:
        if not self.healthy:
            return
        for _ in range(self.times):
            self._odom.publish(self.odometry or self.usual_odometry)
            self._scan.publish(self._usual_scan)

    def _told(self, message: DiagnosticStatus) -> None:
        before, self.state, self.reason = self.state, *(each.value for each in message.values[:2])
        self.cause = self.reason if before != self.state == "FALLBACK" else self.cause

    def _heard(self, message: Twist) -> None:
        self.commands += 1
        self.command = message.linear.x, message.angular.z

    def spin(self, seconds: float) -> None:
        """Drive on for some time."""
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0.0:
            self._executor.spin_once(timeout_sec=left)

    def reaches(self, condition: Callable[[], bool], seconds: float) -> bool:
        """Drive on until a condition holds; return whether it did in time."""
        end = time.monotonic() + seconds
        while not condition():
            if time.monotonic() > end:
                return False
            self.spin(0.02)
        return True

    def call(self, kind: Any, name: str, **fields: Any) -> Any:
        """Call a service; return its answer, None where there is none."""
        if name not in self._callers:
            self._callers[name] = self.create_client(kind, name)
        caller = self._callers[name]
        if not self.reaches(caller.service_is_ready, SOON):
            return None
        self.spin(0.3)  # rmw_fastrtps drops an answer to a client that is not discovered yet
        future = caller.call_async(kind.Request(**fields))
        return future.result() if self.reaches(future.done, SOON) else None


class Soak:
    """One run: the node, its driver, and what went wrong."""

    def __init__(self, folder: Path, policy: Path, driver: Driver) -> None:
        self.driver = driver
        self._folder, self._policy = folder, policy
        self.failures: list[str] = []
        self.overruns = 0
        """Times that the node fell back as its ticks were late, and was reset."""
        self.done: Counter[str] = Counter()
        self._starts = 0
        self.start()

    def start(self) -> None:
        """Start the node, as a supervisor would."""
        self._starts += 1
        values = [f"policy:={self._policy}", "autostart:=true"]
        arguments = [part for value in values for part in ("-p", value)]
        with self._log.open("w") as log:
            self.node = subprocess.Popen(
                [sys.executable, "-m", "offrl_policy.node", "--ros-args", *arguments],
                stdout=log,
                stderr=subprocess.STDOUT,
            )

    @property
    def _log(self) -> Path:
        return self._folder / f"node_{self._starts}.log"

    def require(self, what: str, condition: Callable[[], bool], seconds: float) -> None:
        """Note a failure where a condition does not come true in time."""
        if not self.driver.reaches(condition, seconds):
            driver = self.driver
            self.failures.append(f"{what}; {driver.state}: {driver.reason}")
            print("failure:", self.failures[-1], flush=True)

    def drives(self, after: str) -> None:
        """Require that the policy drives again; a machine that was too busy costs a reset."""
        driver = self.driver

        def late() -> bool:
            return driver.state == "FALLBACK" and "ticks behind" in driver.cause

        driver.reaches(lambda: driver.state in DRIVING or late(), SOON + CALM)
        if late():
            self.overruns += 1
            driver.spin(CALM)
            driver.call(Trigger, "/policy/reset")
        self.require(f"drives after {after}", lambda: driver.state in DRIVING, SOON + CALM)

    def stops(self, after: str) -> None:
        """Require STOP and the safe command."""
        driver = self.driver
        self.require(f"STOP after {after}", lambda: driver.state == "STOP", MAX_AGE + SOON)
        self.require(f"at rest after {after}", lambda: driver.command == (0.0, 0.0), SOON)

    # Faults: each ends with the node as it was

    def silence(self) -> None:
        """Both sensors stop."""
        self.driver.healthy = False
        self.stops("silence")
        self.driver.healthy = True
        self.drives("silence")

    def killed_publisher(self) -> None:
        """The process that publishes is killed."""
        self.driver.healthy = False
        child = subprocess.Popen([sys.executable, __file__, "--publisher", str(self._policy)])
        self.driver.spin(4.0)
        self.require("drives by another process", lambda: self.driver.state in DRIVING, 2 * SOON)
        child.kill()
        child.wait()
        self.stops("kill -9 of the publisher")
        self.driver.healthy = True
        self.drives("kill -9 of the publisher")

    def not_a_number(self) -> None:
        """A speed is NaN."""
        self._odometry_of(float("nan"))
        self.stops("NaN")
        self.driver.odometry = None
        self.drives("NaN")

    def cut_off(self) -> None:
        """A message ends early."""
        self.driver.odometry = self.driver.usual_odometry[:40]
        self.stops("a message cut off")
        self.driver.odometry = None
        self.drives("a message cut off")

    def unfamiliar(self) -> None:
        """A speed as never before; the gate latches until it is reset."""
        self._odometry_of(60.0)
        driver = self.driver
        self.require("FALLBACK when unfamiliar", lambda: driver.state == "FALLBACK", SOON)
        driver.odometry = None
        driver.spin(CALM)
        self.require("latched", lambda: driver.state == "FALLBACK", 0.0)
        self.require("at rest in FALLBACK", lambda: driver.command == (0.0, 0.0), SOON)
        if driver.call(Trigger, "/policy/reset") is None:
            self.failures.append("reset does not answer")
        self.drives("reset")

    def flood(self) -> None:
        """Ten times as many messages."""
        self.driver.times = 10
        before, begun = self.driver.commands, time.monotonic()
        self.driver.spin(2.0)
        rate = (self.driver.commands - before) / (time.monotonic() - begun)
        self.driver.times = 1
        if rate < 0.5 * RATE:
            self.failures.append(f"{rate:.0f} commands a second under a flood")
        self.drives("a flood")

    def deactivated(self) -> None:
        """The node is deactivated and activated again."""
        driver = self.driver
        self._transition(Transition.TRANSITION_DEACTIVATE)
        self.require("at rest, not active", lambda: driver.command == (0.0, 0.0), SOON)
        driver.spin(0.2)
        before = driver.commands
        driver.spin(0.5)
        if driver.commands != before:
            self.failures.append("commands while not active")
        self._transition(Transition.TRANSITION_ACTIVATE)
        self.drives("activation")

    def disengaged(self) -> None:
        """Another drives for a moment."""
        driver = self.driver
        driver.call(SetBool, "/policy/engage", data=False)
        self.require("at rest, not engaged", lambda: driver.command == (0.0, 0.0), SOON)
        driver.call(SetBool, "/policy/engage", data=True)
        before = driver.commands
        self.require("commands again", lambda: driver.commands > before + 10, SOON)
        self.drives("engaging")

    def loosened(self) -> None:
        """Somebody asks for a looser gate."""
        given = [Parameter("release", Parameter.Type.DOUBLE, 0.99).to_parameter_msg()]
        answer = self.driver.call(SetParameters, "/policy/set_parameters", parameters=given)
        if answer is None or answer.results[0].successful:
            self.failures.append(f"a looser gate is accepted: {answer}")
        self.drives("a refused parameter")

    def killed(self) -> None:
        """The node is killed in the middle of its work, and started by its supervisor."""
        driver = self.driver
        self.node.send_signal(signal.SIGKILL)
        self.node.wait()
        driver.state, driver.reason = "", ""
        driver.spin(0.2)
        before = driver.commands
        self.start()
        self.require("commands after a start", lambda: driver.commands > before, 10 * SOON)
        self.drives("kill -9 of the node")

    def _odometry_of(self, speed: float) -> None:
        store = distro_definitions()
        usual = store.deserialize_cdr(self.driver.usual_odometry, "nav_msgs/msg/Odometry")
        usual.twist.twist.linear.x = speed
        self.driver.odometry = bytes(store.serialize_cdr(usual, "nav_msgs/msg/Odometry"))

    def _transition(self, which: int) -> None:
        request = Transition(id=which)
        answer = self.driver.call(ChangeState, "/policy/change_state", transition=request)
        if answer is None or not answer.success:
            self.failures.append(f"transition {which} fails")

    def run(self, minutes: float, rng: random.Random) -> dict[str, Any]:
        """Break things until time is up; return what was seen."""
        self.require("drives at first", lambda: self.driver.state in DRIVING, 30.0)
        gentle = [
            self.silence,
            self.killed_publisher,
            self.not_a_number,
            self.cut_off,
            self.unfamiliar,
            self.flood,
            self.deactivated,
            self.disengaged,
            self.loosened,
        ]
        begun = time.monotonic()
        memory: list[tuple[float, float]] = []
        while (spent := time.monotonic() - begun) < minutes * 60.0:
            early = spent < minutes * 15.0
            fault = rng.choice([*gentle, self.killed] if early else gentle)
            fault()
            self.done[fault.__name__] += 1
            self.driver.spin(rng.uniform(0.5, 2.0))
            if not early:
                memory.append(((time.monotonic() - begun) / 60.0, resident(self.node.pid)))
            if self.node.poll() is not None:
                self.failures.append(f"the node ended with {self.node.returncode}")
                self.start()
                self.drives("its own end")
        self.node.send_signal(signal.SIGINT)
        status = self.node.wait(20)
        logs = [path.read_text() for path in self._folder.glob("node_*.log")]
        times, sizes = np.array(memory).T
        return {
            "minutes": minutes,
            "faults": dict(self.done),
            "failures": self.failures,
            "fallbacks that were reset": self.overruns,
            "tracebacks": sum(log.count("Traceback") for log in logs),
            "exit status": status,
            "memory [MB]": {
                "watched [minutes]": round(float(times[-1] - times[0]), 1),
                "begin": round(float(np.median(sizes[:5])), 1),
                "end": round(float(np.median(sizes[-5:])), 1),
                "per hour": round(float(np.polyfit(times, sizes, 1)[0]) * 60.0, 2),
            },
        }


def be_publisher(policy: Path) -> None:
    """Publish healthy sensors until killed."""
    rclpy.init()
    Driver(policy).spin(600.0)


def main(config: Config) -> None:
    """Soak, print and keep the figures."""
    if config.minutes < SHORTEST:
        raise SystemExit(f"--minutes {config.minutes:g}: at least {SHORTEST:g}")
    os.environ["ROS_AUTOMATIC_DISCOVERY_RANGE"] = "LOCALHOST"
    os.environ["ROS_DOMAIN_ID"] = str(random.randrange(1, 101))
    os.environ["OMP_NUM_THREADS"] = "1"
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        policy = write_policy(folder, RATE)
        rclpy.init()
        soak = Soak(folder, policy, Driver(policy))
        try:
            found = soak.run(config.minutes, random.Random(config.seed))
        finally:
            if soak.node.poll() is None:
                soak.node.kill()
    commit = subprocess.check_output(["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, text=True)
    RESULTS.write_text(json.dumps({"commit": commit.strip(), **found}, indent=1) + "\n")
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    given = tyro.cli(Config)
    if given.publisher is not None:
        be_publisher(given.publisher)
    else:
        main(given)
