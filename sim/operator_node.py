"""The demo's operator: a ROS 2 node that watches the drives, disturbs them and resets the gate."""

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import rclpy
from diagnostic_msgs.msg import DiagnosticStatus
from numpy.typing import NDArray
from offrl_contract import InputError
from offrl_sim.diffdrive.world import World
from rclpy.context import Context
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rosgraph_msgs.msg import Clock
from std_msgs.msg import String
from std_srvs.srv import Trigger

DISTURB_AFTER = 2.0
"""How long an episode is left alone before it is disturbed [s]."""
STANDING = 0.05
"""Below this speed the robot stands [m/s]."""
_PATIENCE = 120.0


@dataclass(frozen=True)
class Drive:
    """One episode as the simulator scored it, with what the gate said meanwhile."""

    report: dict[str, Any]
    """See the topic /sim/episode in the simulator's README."""
    changes: list[tuple[int, str]] = field(default_factory=list)
    """Ticks at which the gate changed its state [ns], and the state."""

    @property
    def path(self) -> NDArray[np.float64]:
        """Positions (T + 1, 2) [m]."""
        return np.array(self.report["path"])

    @property
    def world(self) -> World:
        """Where it drove."""
        world = self.report["world"]
        obstacles = np.array(world["obstacles"]).reshape(-1, 3)
        return World(obstacles, (), tuple(world["start"]), tuple(world["goal"]))

    @property
    def states(self) -> list[str]:
        """The gate's state in each tick (T,)."""
        ticks = self.report["start"] + np.arange(len(self.path) - 1) * self.report["period"]
        return [self.state_at(int(tick)) for tick in ticks]

    def state_at(self, now: int) -> str:
        """Return the state in force at a time [ns]."""
        return next((state for tick, state in reversed(self.changes) if tick <= now), "STOP")

    def first(self, state: str, after: int = 0) -> int | None:
        """Return the index of the first tick in a state, or None."""
        return next((k for k, s in enumerate(self.states) if k >= after and s == state), None)

    @property
    def disturbed_at(self) -> int | None:
        """Index of the tick in which the disturbance began, or None."""
        if not self.report["disturbances"]:
            return None
        since = self.report["disturbances"][0]["start"] - self.report["start"]
        return int(since // self.report["period"])

    @property
    def falls_back(self) -> bool:
        """Whether the gate fell back once the policy drove, not only until it did."""
        return self.first("FALLBACK", self.first("NOMINAL") or 0) is not None

    def seconds_to_stop(self) -> tuple[float, float] | None:
        """Time from the disturbance to FALLBACK, and to standing still from then on [s]."""
        begun = self.disturbed_at
        stopped = self.first("FALLBACK", begun or 0)
        if begun is None or stopped is None:
            return None
        period = self.report["period"] / 1e9
        speed = np.hypot(*np.diff(self.path, axis=0).T) / period  # (T,)
        moving = np.flatnonzero(speed >= STANDING)
        stands = max(stopped, int(moving[-1]) + 1 if len(moving) else 0)
        return (stopped - begun) * period, (stands - begun) * period


class Operator(Node):
    """Watches the gate and the simulator, disturbs episodes, and resets the gate between them."""

    def __init__(self, context: Context) -> None:
        super().__init__("operator", context=context)
        self._spinner = SingleThreadedExecutor(context=context)
        self._spinner.add_node(self)
        self._changes: list[tuple[int, str]] = []
        self._drives: list[Drive] = []
        self._now = 0
        self._disturbance = ""
        self._disturb_at: int | None = None
        self.create_subscription(DiagnosticStatus, "/policy/gate", self._on_gate, 50)
        self.create_subscription(String, "/sim/episode", self._on_episode, 50)
        self.create_subscription(Clock, "/clock", self._on_clock, 10)
        self._disturb = self.create_publisher(String, "/sim/disturb", 10)
        self._reset = self.create_client(Trigger, "/policy/reset")

    def wait_for_policy(self) -> None:
        """Wait until the policy node is up. Raises InputError after a while."""
        deadline = time.monotonic() + _PATIENCE
        while not (self._reset.service_is_ready() and self.count_publishers("/policy/gate")):
            self._spinner.spin_once(timeout_sec=0.2)
            if time.monotonic() > deadline:
                raise InputError(f"no policy node within {_PATIENCE:g} s; see the logs")

    def watch(self, episodes: int, disturbance: str, on_drive: Callable[[], None]) -> list[Drive]:
        """Wait for as many episodes, each disturbed if asked. Raises InputError after silence."""
        self._drives, self._disturbance, self._disturb_at = [], disturbance, None
        heard, count = time.monotonic(), 0
        while len(self._drives) < episodes:
            self._spinner.spin_once(timeout_sec=0.2)
            if len(self._drives) > count:
                heard, count = time.monotonic(), len(self._drives)
                on_drive()
            elif time.monotonic() - heard > _PATIENCE:
                raise InputError(f"no episode ended within {_PATIENCE:g} s; see the logs")
        return self._drives

    def _on_gate(self, status: DiagnosticStatus) -> None:
        values = {pair.key: pair.value for pair in status.values}
        state, tick = values["state"], int(values["tick [ns]"])
        if self._changes and self._changes[-1][1] == state:
            return
        self._changes.append((tick, state))
        if state == "STOP" and self._reset.service_is_ready():
            self._reset.call_async(Trigger.Request())  # between episodes, as an operator would
        began = state == "NOMINAL" and any(before == "STOP" for _, before in self._changes)
        if began and self._disturb_at is None:  # after a FALLBACK, once its dwell time is over
            self._disturb_at = tick + round(DISTURB_AFTER * 1e9)

    def _on_clock(self, clock: Clock) -> None:
        self._now = clock.clock.sec * 10**9 + clock.clock.nanosec
        if self._disturbance and self._disturb_at is not None and self._now >= self._disturb_at:
            self._disturb.publish(String(data=self._disturbance))
            self._disturb_at = 2**62  # once an episode

    def _on_episode(self, message: String) -> None:
        report = json.loads(message.data)
        self._drives.append(Drive(report, list(self._changes)))
        self._changes = self._changes[-1:]
        self._disturb_at = None


@contextmanager
def operator() -> Iterator[Operator]:
    """Join ROS 2 as the operator, and leave it."""
    context = Context()
    rclpy.init(context=context)
    node = Operator(context)
    try:
        yield node
    finally:
        node.destroy_node()
        rclpy.try_shutdown(context=context)
