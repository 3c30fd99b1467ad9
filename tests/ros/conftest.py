"""A policy node in a process of its own, and a small ROS node that talks to it over DDS."""

import importlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from support import encode, odometry, scan, write_policy

rclpy = pytest.importorskip("rclpy", reason="rclpy is not installed: pip install 'offrl[ros]'")

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus  # noqa: E402
from geometry_msgs.msg import Twist  # noqa: E402
from rclpy.executors import SingleThreadedExecutor  # noqa: E402
from rclpy.node import Node  # noqa: E402
from rclpy.qos import qos_profile_sensor_data  # noqa: E402
from sensor_msgs.msg import JointState  # noqa: E402
from std_msgs.msg import Float32MultiArray  # noqa: E402

START_SECONDS = 20.0
RESEND_SECONDS = 4.0


@pytest.fixture
def policy(tmp_path: Path) -> Path:
    """A policy file whose network always answers the same."""
    return write_policy(tmp_path / "policy.onnx")


def log(tmp_path: Path) -> str:
    """Return what the node has logged."""
    return (tmp_path / "node.log").read_text()


class Probe(Node):
    """Publishes sensors and hears everything that the policy node says."""

    def __init__(self) -> None:
        super().__init__("probe")
        self.executor_ = SingleThreadedExecutor()
        self.executor_.add_node(self)
        self.commands: list[tuple[float, Twist]] = []
        self.gates: list[DiagnosticStatus] = []
        self.diagnostics: list[DiagnosticArray] = []
        self.uncertainties: list[list[float]] = []
        self.observations: list[JointState] = []
        self._listen(Twist, "/cmd_vel", lambda m: self.commands.append((time.monotonic(), m)))
        self._listen(DiagnosticStatus, "/policy/gate", self.gates.append)
        self._listen(DiagnosticArray, "/diagnostics", self.diagnostics.append)
        self._listen(JointState, "/policy/observation", self.observations.append)
        self._listen(
            Float32MultiArray,
            "/policy/uncertainty",
            lambda m: self.uncertainties.append(list(m.data)),
        )
        self._sensors: dict[str, Any] = {}
        self._callers: dict[str, Any] = {}

    def _listen(self, kind: Any, topic: str, callback: Callable[[Any], object]) -> None:
        self.create_subscription(kind, topic, callback, 100)

    @property
    def state(self) -> str:
        """The gate's last state."""
        return self.gates[-1].values[0].value if self.gates else ""

    @property
    def reason(self) -> str:
        """The gate's last reason."""
        return self.gates[-1].values[1].value if self.gates else ""

    def send(self, topic: str, message: Any, type_name: str) -> None:
        """Publish a rosbags message, or its bytes, as a ROS message of a type."""
        if topic not in self._sensors:
            package, _, name = type_name.split("/")
            kind = getattr(importlib.import_module(f"{package}.msg"), name)
            self._sensors[topic] = self.create_publisher(kind, topic, qos_profile_sensor_data)
        raw = message if isinstance(message, bytes) else encode(message, type_name)
        self._sensors[topic].publish(raw)

    def heard_by(self, topic: str) -> bool:
        """Whether anyone listens to a topic of this node."""
        return topic in self._sensors and self._sensors[topic].get_subscription_count() > 0

    def spin(self, seconds: float) -> None:
        """Handle what arrives for some time."""
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            self.executor_.spin_once(timeout_sec=left)

    def feed(self, seconds: float, x: float = 0.2, z: float = 0.2, rate: float = 40.0) -> None:
        """Publish both sensors at a rate."""
        for _ in range(round(seconds * rate)):
            begun = time.monotonic()
            self.send("/scan", scan([1.0] * 8), "sensor_msgs/msg/LaserScan")
            self.send("/odom", odometry(x, z), "nav_msgs/msg/Odometry")
            self.spin(max(0.0, 1.0 / rate - (time.monotonic() - begun)))

    def wait_for(self, condition: Callable[[], bool], what: str, feed: bool = True) -> None:
        """Feed or just listen until a condition holds; fail after START_SECONDS."""
        end = time.monotonic() + START_SECONDS
        while not condition():
            assert time.monotonic() < end, f"waited in vain for {what}; {self.state} {self.reason}"
            self.feed(0.1) if feed else self.spin(0.1)

    def call(self, kind: Any, name: str, **fields: Any) -> Any:
        """Call a service and return its answer."""
        if name not in self._callers:
            self._callers[name] = self.create_client(kind, name)
            assert self._callers[name].wait_for_service(timeout_sec=START_SECONDS), name
            # rmw_fastrtps drops an answer to a client that the server has not discovered yet
            self.spin(0.5)
        caller = self._callers[name]
        future = caller.call_async(kind.Request(**fields))
        again = time.monotonic() + RESEND_SECONDS
        end = time.monotonic() + START_SECONDS
        while not future.done():
            assert time.monotonic() < end, f"{name} does not answer"
            if time.monotonic() > again:  # the last test's node was still known, and is gone
                future = caller.call_async(kind.Request(**fields))
                again += RESEND_SECONDS
            self.executor_.spin_once(timeout_sec=0.05)
        return future.result()


@pytest.fixture
def probe(ros: None) -> Iterator[Probe]:  # noqa: ARG001
    node = Probe()
    yield node
    node.destroy_node()


NodeStarter = Callable[..., subprocess.Popen[str]]


@pytest.fixture
def start_node(tmp_path: Path) -> Iterator[NodeStarter]:
    """Start the policy node as a process; end it with the test."""
    started: list[subprocess.Popen[str]] = []

    def start(policy: Path, *, autostart: bool = True, **parameters: Any) -> subprocess.Popen[str]:
        values = {"policy": policy, "autostart": autostart} | parameters
        arguments = [
            part for name, value in values.items() for part in ("-p", f"{name}:={text(value)}")
        ]
        log = (tmp_path / "node.log").open("w")
        command = [sys.executable, "-m", "offrl_policy.node", "--ros-args", *arguments]
        process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, text=True)
        started.append(process)
        return process

    yield start
    for process in started:
        if process.poll() is None:
            os.kill(process.pid, signal.SIGINT)
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def text(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
