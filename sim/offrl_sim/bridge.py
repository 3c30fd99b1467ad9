"""The simulation behind real ROS 2 topics, for a policy node that cannot tell the difference.

Run it with `python -m offrl_sim.bridge --ros-args -p seed:=7`; the README lists topics and
parameters.
"""

import json
import signal
import sys
import time
from operator import attrgetter
from pathlib import Path
from typing import Any, get_args

import numpy as np
import rclpy
from offrl_contract import InputError, load_robot
from offrl_contract.errors import nearest
from offrl_contract.message_class import message_class
from rclpy.exceptions import ParameterException
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.signals import SignalHandlerOptions
from rosgraph_msgs.msg import Clock
from std_msgs.msg import Int64, String

from offrl_sim import messages
from offrl_sim.profile import load_profile
from offrl_sim.session import Session
from offrl_sim.simulation import DisturbanceKind
from offrl_sim.tasks import find_task

_LONGEST_END = 5  # [s] Fast DDS may spin for ever when a peer leaves as we do (Fast-DDS#6513)
_LATE = 0.05  # [s] behind the wall clock at which simulated time gives way


class SimBridge(Node):
    """Publishes what the simulated robot measures and drives it by its command topic."""

    def __init__(self) -> None:
        """Declare the parameters and open the topics. Raises InputError."""
        super().__init__("offrl_sim")
        factor = self.declare_parameter("real_time_factor", 1.0).value
        seed = self.declare_parameter("seed", 0).value
        self._left: int = self.declare_parameter("episodes", 0).value
        task = find_task(self.declare_parameter("task", "DiffDriveNav").value)
        robot = load_robot(self.declare_parameter("robot", "").value or task.robot)
        profile = self.declare_parameter("profile", "").value
        if not 0.0 < factor <= 100.0:
            raise InputError(f"real_time_factor: {factor} must be above 0 and at most 100")
        self._factor: float = factor
        self._session = Session(task, robot, seed, load_profile(Path(profile) if profile else None))
        simulation = self._session.simulation
        self._command_topic = simulation.command_topic
        self._command_values = attrgetter(*simulation.command_fields)
        self._types = simulation.published
        self._clock = self.create_publisher(Clock, "/clock", 10)
        self._sensors: dict[str, Any] = {
            topic: self.create_publisher(message_class(kind), topic, 10)
            for topic, kind in self._types.items()
        }
        self._episodes = self.create_publisher(String, "/sim/episode", 50)
        command = message_class(simulation.types[self._command_topic])
        self.create_subscription(command, self._command_topic, self._on_command, 1)
        self.create_subscription(Int64, "/sim/reset", self._on_reset, 10)
        self.create_subscription(String, "/sim/disturb", self._on_disturb, 10)
        self.finished = False
        """Whether the parameter `episodes` was given and that many are over."""

    def close(self) -> None:
        """Release the simulation and the node."""
        self._session.close()
        self.destroy_node()

    def advance(self) -> float:
        """Simulate and publish one slice; return how long it may take [s]."""
        before = self._session.now
        deliveries, report = self._session.advance()
        self._publish_clock()
        for delivery in deliveries:
            kind = self._types[delivery.topic]
            content = messages.definitions().serialize_cdr(delivery.message, kind)
            self._sensors[delivery.topic].publish(bytes(content))
        if report is not None:
            self._episodes.publish(String(data=json.dumps(report.as_dict())))
            self._left -= 1
            self.finished = self._left == 0
        return (self._session.now - before) / 1e9 / self._factor

    def _publish_clock(self) -> None:
        clock = Clock()
        clock.clock.sec, clock.clock.nanosec = divmod(self._session.now, 10**9)
        self._clock.publish(clock)

    def _on_command(self, command: Any) -> None:
        action = np.array(self._command_values(command))
        if not self._session.command(action):
            self.get_logger().warning(f"{self._command_topic}: {action.tolist()} is not finite")

    def _on_reset(self, seed: Int64) -> None:
        try:
            self._session.begin(seed.data)
        except InputError as error:
            self.get_logger().warning(f"/sim/reset: {error}")

    def _on_disturb(self, kind: String) -> None:
        kinds: tuple[DisturbanceKind, ...] = get_args(DisturbanceKind)
        for known in kinds:
            if kind.data == known:
                return self._session.disturb(known)
        self.get_logger().warning(
            f"/sim/disturb: no disturbance '{kind.data}'.{nearest(kind.data, kinds)}"
        )
        return None


def run(bridge: SimBridge, stopped: list[int]) -> None:
    """Run until a signal is in `stopped`, the context is shut down or the episodes are over.

    Each slice is followed by callbacks, so that commands are heard even when the machine is too
    slow for the real-time factor; then simulated time falls behind instead of rushing to catch up.
    """
    executor = SingleThreadedExecutor()
    executor.add_node(bridge)
    due = time.monotonic()
    while not stopped and rclpy.ok() and not bridge.finished:
        due = max(due + bridge.advance(), time.monotonic() - _LATE)
        executor.spin_once(timeout_sec=0.0)
        while not stopped and (left := due - time.monotonic()) > 0.0:
            executor.spin_once(timeout_sec=left)
    executor.shutdown()


def main() -> int:
    """Serve until SIGINT, SIGTERM or the last episode; return 0, or 2 for bad parameters."""
    stopped: list[int] = []
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda received, _: stopped.append(received))
    rclpy.init(signal_handler_options=SignalHandlerOptions.NO)
    try:
        bridge = SimBridge()
        run(bridge, stopped)
        signal.alarm(_LONGEST_END)
        bridge.close()
    except (InputError, ParameterException) as error:
        sys.stderr.write(f"error: {error}\n")
        return 2
    finally:
        rclpy.shutdown()
    return 0


if __name__ == "__main__":
    sys.exit(main())
