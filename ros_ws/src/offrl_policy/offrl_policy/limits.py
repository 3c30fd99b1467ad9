"""Limits on the command: finite, inside the range, no faster than the robot file allows."""

import numpy as np
from numpy.typing import NDArray
from offrl_contract import Robot

Array = NDArray[np.float64]


class Limiter:
    """Clamps a command, then limits its rate of change from the last one sent."""

    def __init__(self, robot: Robot) -> None:
        self._low, self._high = np.array(robot.limits).T
        rate = np.array(robot.max_rate)
        limited = np.isfinite(rate)
        self._rate = np.where(limited, rate, 0.0)
        self._free = np.where(limited, 0.0, np.inf)  # no limit times no time is not a number
        self._most = 2.0 / robot.rate
        self.last: Array = np.array(robot.safe_action)
        """The command that was sent last (a,)."""

    def inside(self, command: Array) -> Array:
        """Return the command (a,) nearest to `command` inside the range."""
        return np.clip(command, self._low, self._high)

    def follow(self, command: Array) -> None:
        """Take over the command that another driver has in force (a,)."""
        if np.isfinite(command).all():
            self.last = self.inside(command)

    def step(self, target: Array, elapsed: float) -> Array:
        """Return the command (a,) nearest to `target` that the limits allow after `elapsed` [s].

        Raises ValueError for a target that is not finite, before any state changes.
        """
        if not np.isfinite(target).all():
            raise ValueError("command is not finite")
        reach = self._free + self._rate * min(max(elapsed, 0.0), self._most)
        self.last = np.clip(self.inside(target), self.last - reach, self.last + reach)
        return self.last
