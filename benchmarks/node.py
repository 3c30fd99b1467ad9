"""Round trip of the policy node over DDS, beside an echo node that does nothing.

The driver publishes odometry, a scan of 36 beams and the clock, and waits for the command; the node
runs in simulated time, so that its tick follows the clock at once and no timer's phase is in the
figure. The echo node has the same subscriptions, executor and timer, and publishes a fixed command.
Both nodes take turns at each rate, every window in a new process. What the gate costs is timed
inside a process that ticks at 100 Hz: back to back, everything would be in the cache. A command
that comes after the next tick has begun is late, one that never comes is lost, too; the percentiles
are of the others.

Run it alone on the machine: `.venv/bin/python benchmarks/node.py`.
"""

import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import rclpy
import tyro
from convert import build
from diagnostic_msgs.msg import DiagnosticArray
from geometry_msgs.msg import Twist
from nav_msgs.msg import Odometry
from offrl_contract import cli, robot_from_yaml
from offrl_contract.definitions import distro_definitions
from offrl_data.dataset import Episode
from offrl_data.dataset_writer import DatasetWriter
from offrl_policy.controller import Controller, Settings
from offrl_policy.executors import make_executor
from offrl_policy.policy_file import Policy
from rclpy.executors import Executor, SingleThreadedExecutor
from rclpy.node import Node
from rclpy.parameter import Parameter
from rclpy.qos import QoSProfile, qos_profile_sensor_data
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import LaserScan

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "node.json"
BEAMS = 36
ROBOT = f"""
robot: bench
rate: RATE
observation:
  - {{name: scan, topic: /scan, type: sensor_msgs/msg/LaserScan, field: ranges, bins: {BEAMS}, clip: [0.1, 10.0], max_age: 0.5}}
  - {{name: twist, topic: /odom, type: nav_msgs/msg/Odometry, field: [twist.twist.linear.x, twist.twist.angular.z], max_age: 0.5}}
action:
  - {{name: cmd, topic: /cmd_vel, type: geometry_msgs/msg/Twist, field: [linear.x, angular.z], limits: [[-1, 1], [-2, 2]], safe: [0, 0]}}
reward: "next_twist_0"
"""  # noqa: E501
EPOCH = 1_700_000_000 * 10**9  # [ns]
VARIANTS = 64
WARM_UP = 1.0  # [s]
START_SECONDS = 30.0
Role = Literal["echo", "policy"]


@dataclass(frozen=True)
class Config:
    """Time the node's round trip, beside an echo's."""

    rates: tuple[float, ...] = (50.0, 100.0, 200.0, 500.0)
    """Ticks per second."""
    seconds: float = 10.0
    """Length of a window."""
    rounds: int = 3
    """Windows of each node at each rate."""
    memory_minutes: float = 10.0
    """How long the node's memory is watched, at the highest rate; 0 for not at all."""
    executor: Literal["single", "events"] = "single"
    """Of both nodes."""
    echo: float | None = None
    """Internal: be the echo node, at this rate."""


def robot(rate: float) -> Any:
    """Return the robot at a rate."""
    return robot_from_yaml(ROBOT.replace("RATE", str(rate)), "bench.yaml")


def observations(count: int, seed: int) -> np.ndarray[Any, np.dtype[np.float32]]:
    """Return observations (count, 38) as the driver publishes them."""
    generator = np.random.default_rng(seed)
    scans = generator.uniform(1.0, 9.0, (count, BEAMS))
    return np.hstack([scans, generator.uniform(-1.0, 1.0, (count, 2))]).astype(np.float32)


def write_policy(folder: Path, rate: float) -> Path:
    """Train for a moment on noise; what is timed does not depend on what was learned."""
    data, run, out = folder / "data.h5", folder / "run", folder / "policy.onnx"
    generator = np.random.default_rng(1)
    with DatasetWriter(data, robot(rate)) as writer:
        for episode in range(60):
            states = observations(101, episode)
            actions = generator.uniform(-1.0, 1.0, (100, 2)).astype(np.float32)
            writer.append(Episode(states, actions, states[1:, -2], terminal=False, source=""))
        writer.finish({})
    small = ["--steps", "50", "--hidden", "256", "256", "--held-out", "0.5"]
    exporting = ["--data", data, "--out", out, "--alpha", "0.1"]
    for command in (["train", "iql", data, "--out", run, *small], ["export", run, *exporting]):
        if cli.run([str(part) for part in command]):
            raise SystemExit(f"{command[0]} failed")
    return out


def messages() -> tuple[list[bytes], list[bytes]]:
    """Return serialised scans and odometry."""
    store = distro_definitions()
    vector = store.types["geometry_msgs/msg/Vector3"]
    scans, odometry = [], []
    for row in observations(VARIANTS, seed=10**6):
        message = build(
            store,
            "sensor_msgs/msg/LaserScan",
            ranges=row[:BEAMS],
            intensities=np.zeros(0, np.float32),
            range_max=10.0,
        )
        scans.append(bytes(store.serialize_cdr(message, "sensor_msgs/msg/LaserScan")))
        x, z = map(float, row[BEAMS:])
        speed = {"linear": vector(x, 0.0, 0.0), "angular": vector(0.0, 0.0, z)}
        message = build(store, "nav_msgs/msg/Odometry", **speed)
        odometry.append(bytes(store.serialize_cdr(message, "nav_msgs/msg/Odometry")))
    return scans, odometry


class Echo(Node):
    """Hears what the policy node hears, and answers each tick with the same command."""

    def __init__(self, rate: float) -> None:
        use_sim_time = Parameter("use_sim_time", Parameter.Type.BOOL, True)
        super().__init__("echo", parameter_overrides=[use_sim_time])
        for kind, topic in ((LaserScan, "/scan"), (Odometry, "/odom")):
            self.create_subscription(kind, topic, self._hear, qos_profile_sensor_data, raw=True)
        self._command = self.create_publisher(Twist, "/cmd_vel", 1)
        self.create_timer(1.0 / rate, lambda: self._command.publish(Twist()))

    def _hear(self, raw: bytes) -> None:
        """Do nothing with a message."""


def be_echo(rate: float, executor: Executor) -> None:
    """Spin as the policy node does."""
    executor.add_node(Echo(rate))
    try:
        while rclpy.ok():
            executor.spin_once(timeout_sec=0.1)
    except (KeyboardInterrupt, rclpy.executors.ExternalShutdownException):
        pass


class Driver(Node):
    """The other end: sensors, clock, and the ear for commands."""

    def __init__(self) -> None:
        super().__init__("driver")
        self._executor = SingleThreadedExecutor()
        self._executor.add_node(self)
        self._scans, self._odometry = messages()
        self._clock = self.create_publisher(Clock, "/clock", QoSProfile(depth=1))
        self._scan = self.create_publisher(LaserScan, "/scan", qos_profile_sensor_data)
        self._odom = self.create_publisher(Odometry, "/odom", qos_profile_sensor_data)
        self.create_subscription(Twist, "/cmd_vel", self._heard, 10)
        self.create_subscription(DiagnosticArray, "/diagnostics", self._told, 10)
        self.diagnostics: dict[str, str] = {}
        self._ticks = 0
        self._commands = 0
        self._answered = 0

    def _heard(self, message: Twist) -> None:  # noqa: ARG002
        self._commands += 1
        self._answered = time.perf_counter_ns()

    def _told(self, message: DiagnosticArray) -> None:
        self.diagnostics = {pair.key: pair.value for pair in message.status[0].values}

    def _spin(self, until: float) -> None:
        left = until - time.monotonic()
        self._executor.spin_once(timeout_sec=max(left, 0.0))

    def wait_for_node(self, rate: float) -> None:
        """Tick until a command comes. Raises TimeoutError."""
        end, before = time.monotonic() + START_SECONDS, self._commands
        while self._commands == before:
            if time.monotonic() > end:
                raise TimeoutError("no command from the node")
            self.drive(rate, 0.2)

    def drive(self, rate: float, seconds: float) -> dict[str, Any]:
        """Tick at a rate; return round trips [us] and how many ticks had no answer in time."""
        trips, unanswered = [], 0
        first, commands = self._ticks, self._commands
        begun = time.monotonic()
        for k in range(round(seconds * rate)):
            while time.monotonic() < begun + k / rate:
                self._spin(begun + k / rate)
            self._answered = 0
            sent = self._tick(rate)
            due = begun + (k + 1) / rate
            while not self._answered and time.monotonic() < due:
                self._spin(due)
            if self._answered:
                trips.append((self._answered - sent) / 1e3)
            else:
                unanswered += 1
        until = time.monotonic() + 0.1
        while time.monotonic() < until:
            self._spin(until)
        lost = (self._ticks - first) - (self._commands - commands)
        return {"trips": trips, "late": unanswered, "lost": max(lost, 0)}

    def _tick(self, rate: float) -> int:
        """Publish what belongs to one tick; return when the first left [ns]."""
        self._ticks += 1
        clock = Clock()
        stamp = EPOCH + round(self._ticks / rate * 1e9)
        clock.clock.sec, clock.clock.nanosec = divmod(stamp, 10**9)
        sent = time.perf_counter_ns()
        self._odom.publish(self._odometry[self._ticks % VARIANTS])
        self._scan.publish(self._scans[self._ticks % VARIANTS])
        self._clock.publish(clock)
        return sent


@contextmanager
def started(role: Role, rate: float, policy: Path, executor: str) -> Iterator[int]:
    """Run a node as a process; yield its id."""
    if role == "echo":
        command = [sys.executable, __file__, "--echo", str(rate), "--executor", executor]
    else:
        values = [f"policy:={policy}", "mode:=engaged", "use_sim_time:=true", "autostart:=true"]
        values.append(f"executor:={executor}")
        arguments = [part for value in values for part in ("-p", value)]
        command = [sys.executable, "-m", "offrl_policy.node", "--ros-args", *arguments]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        yield process.pid
    finally:
        process.send_signal(signal.SIGINT)
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def cpu_seconds(pid: int) -> float:
    """Return the CPU time of a process so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def resident(pid: int) -> float:
    """Return the resident memory of a process [MB]."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def windows(driver: Driver, rate: float, policy: Path, config: Config) -> dict[str, Any]:
    """Time both nodes in turns at one rate."""
    found: dict[str, dict[str, list[Any]]] = {}
    for _ in range(config.rounds):
        for role in ("echo", "policy"):
            mine = found.setdefault(role, {"trips": [], "late": [], "lost": [], "cpu": []})
            with started(role, rate, policy, config.executor) as pid:
                driver.wait_for_node(rate)
                driver.drive(rate, WARM_UP)
                before = cpu_seconds(pid)
                window = driver.drive(rate, config.seconds)
                mine["cpu"].append((cpu_seconds(pid) - before) / config.seconds)
            for key, value in window.items():
                mine[key] += value if key == "trips" else [value]
    table = {role: summary(each) for role, each in found.items()}
    table["policy"]["compute per tick [us]"] = {
        share: round(float(driver.diagnostics[f"tick {share} [ms]"]) * 1e3)
        for share in ("p50", "p99")
    }
    ratio = table["policy"]["p50"] / table["echo"]["p50"]
    return {**table, "policy over echo, p50": round(ratio, 2)}


def summary(found: dict[str, list[Any]]) -> dict[str, Any]:
    """Return percentiles of the round trip [us], late and lost commands, share of a core."""
    p50, p95, p99, top = np.percentile(found["trips"], [50, 95, 99, 100]).round(0)
    return {
        "ticks": len(found["trips"]) + sum(found["late"]),
        "p50": p50,
        "p95": p95,
        "p99": p99,
        "max": top,
        "late": sum(found["late"]),
        "lost": sum(found["lost"]),
        "share of a core": round(float(np.mean(found["cpu"])), 3),
    }


def memory(driver: Driver, rate: float, policy: Path, config: Config) -> dict[str, float]:
    """Return the node's resident memory [MB] after a minute, and at the end."""
    minutes = config.memory_minutes
    with started("policy", rate, policy, config.executor) as pid:
        driver.wait_for_node(rate)
        driver.drive(rate, min(60.0, minutes * 6.0))
        before = resident(pid)
        driver.drive(rate, minutes * 60.0)
        return {"minutes": minutes, "rate": rate, "begin": before, "end": resident(pid)}


def gate_cost(path: Path, rate: float = 100.0, ticks: int = 1000) -> dict[str, float]:
    """Return the median time of a whole tick, of the graph and of the gate [us], paced."""
    controller = Controller(Policy(path), Settings())
    spent: dict[str, list[float]] = {"tick": [], "graph": [], "gate": []}

    def timed(name: str, function: Any) -> Any:
        def call(*given: Any) -> Any:
            begun = time.perf_counter()
            answer = function(*given)
            spent[name].append((time.perf_counter() - begun) * 1e6)
            return answer

        return call

    controller.gate.step = timed("gate", controller.gate.step)  # type: ignore[method-assign]
    controller.policy.run = timed("graph", controller.policy.run)  # type: ignore[method-assign]
    tick = timed("tick", controller.tick)
    scans, odometry = messages()
    for k in range(ticks):
        time.sleep(1.0 / rate)
        now = EPOCH + round(k / rate * 1e9)
        controller.push("/scan", now, scans[k % VARIANTS])
        controller.push("/odom", now, odometry[k % VARIANTS])
        tick(now + 1)
    return {name: round(float(np.median(values)), 1) for name, values in spent.items()}


def main(config: Config) -> None:
    """Time all rates, print and keep the figures."""
    os.environ["ROS_AUTOMATIC_DISCOVERY_RANGE"] = "LOCALHOST"
    os.environ["ROS_DOMAIN_ID"] = str(random.randrange(1, 101))
    os.environ["OMP_NUM_THREADS"] = "1"
    commit = subprocess.check_output(["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, text=True)
    figures: dict[str, Any] = {"commit": commit.strip(), "executor": config.executor}
    with tempfile.TemporaryDirectory() as folder:
        policies = {rate: Path(folder) / str(rate) for rate in config.rates}
        for rate, place in policies.items():
            place.mkdir()
            policies[rate] = write_policy(place, rate)
        figures["paced tick [us]"] = gate_cost(policies[config.rates[0]])
        print("paced tick [us]", json.dumps(figures["paced tick [us]"]), flush=True)
        rclpy.init()
        driver = Driver()
        for rate, policy in policies.items():
            figures[f"{rate:g} Hz"] = windows(driver, rate, policy, config)
            print(f"{rate:g} Hz", json.dumps(figures[f"{rate:g} Hz"]), flush=True)
        if config.memory_minutes:
            top = max(config.rates)
            figures["memory"] = memory(driver, top, policies[top], config)
            print("memory", json.dumps(figures["memory"]), flush=True)
    name = RESULTS.name if config.executor == "single" else f"node_{config.executor}.json"
    RESULTS.with_name(name).write_text(json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    given = tyro.cli(Config)
    if given.echo is not None:
        rclpy.init()
        be_echo(given.echo, make_executor(given.executor == "events")[0])
    else:
        main(given)
