"""A controller without ROS, fed as the node feeds it."""

from typing import Any

import numpy as np
from offrl_policy.controller import Controller, Decision
from support import STORE, encode, odometry, scan

SECOND = 1_000_000_000
TICK = SECOND // 20
SCAN = "sensor_msgs/msg/LaserScan"
ODOMETRY = "nav_msgs/msg/Odometry"


class Rig:
    """A controller fed with messages at each tick, as the node does it."""

    def __init__(self, controller: Controller) -> None:
        self.controller = controller
        self.now = 10 * SECOND

    def tick(
        self, x: float = 0.2, z: float = 0.2, ranges: list[float] | None = None, feed: bool = True
    ) -> Decision:
        self.now += TICK
        if feed:
            self.feed(x, z, ranges)
        self.controller.clock_jumped_back(self.now)
        decision = self.controller.tick(self.now)
        sent = {"/cmd_vel": twist(decision.command)}
        self.controller.sent(self.now + 1, decision.command, sent)
        return decision

    def feed(self, x: float = 0.2, z: float = 0.2, ranges: list[float] | None = None) -> None:
        """Send both sensors' messages."""
        self.controller.push("/scan", self.now - 2, encode(scan(ranges or [1.0] * 8), SCAN))
        self.controller.push("/odom", self.now - 1, encode(odometry(x, z), ODOMETRY))

    def ticks(self, count: int, **options: Any) -> list[Decision]:
        return [self.tick(**options) for _ in range(count)]


def twist(command: np.ndarray) -> object:
    """A command as a message."""
    vector = STORE.types["geometry_msgs/msg/Vector3"]
    return STORE.types["geometry_msgs/msg/Twist"](
        vector(float(command[0]), 0.0, 0.0), vector(0.0, 0.0, float(command[1]))
    )
