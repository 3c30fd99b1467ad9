"""How a base answers commands: ramped within its limits, then with the profile's gain and lag."""

from collections.abc import Sequence
from typing import Literal

from offrl_sim.physics import STEPS_PER_SECOND
from offrl_sim.profile import Conditions

Role = Literal["speed", "turning", "steering", "other"]
"""What a number of a command sets: forward speed [m/s], turning rate [rad/s] of driven wheels,
steering angle [rad] of a servo. Gain and lag leave the others as they are."""


def gains(roles: Sequence[Role], speed: float, steering: float) -> list[float]:
    """Return the factor of each number of a command (a,)."""
    factors = {"speed": speed, "turning": steering, "steering": steering, "other": 1.0}
    return [factors[role] for role in roles]


def lags(roles: Sequence[Role], driving: float) -> list[float]:
    """Return the time constant of each number of a command (a,) [s]: what wheels drive has one."""
    return [driving if role in ("speed", "turning") else 0.0 for role in roles]


def kept(lag: float) -> float:
    """Return the share of a difference that is left after one physics step (backward Euler)."""
    return lag / (lag + 1.0 / STEPS_PER_SECOND)


class Response:
    """What the motors are told at each physics step while a command is in force."""

    def __init__(
        self, roles: Sequence[Role], max_rate: Sequence[float], safe: Sequence[float]
    ) -> None:
        """Take what each number of a command sets, its largest change per second, its safe value.

        Without roles neither gain nor lag applies.
        """
        self._roles = roles or ["other"] * len(safe)
        self._reach = [rate / STEPS_PER_SECOND for rate in max_rate]
        self._safe = list(safe)

    def begin(self, given: Conditions) -> None:
        """Stand under the safe command."""
        self._gains = gains(self._roles, given.speed_gain, given.steering_gain)
        self._kept = [kept(lag) for lag in lags(self._roles, given.speed_lag)]
        self.ramped = self.motors = self._safe

    def step(self, target: list[float]) -> bool:
        """Set `motors` (a,) to what they are told from now on; return whether that is new."""
        self.ramped = [
            min(max(to, now - reach), now + reach)
            for to, now, reach in zip(target, self.ramped, self._reach, strict=True)
        ]
        goals = [gain * each for gain, each in zip(self._gains, self.ramped, strict=True)]
        before = self.motors
        self.motors = [
            goal + keep * (now - goal)
            for goal, keep, now in zip(goals, self._kept, before, strict=True)
        ]
        return self.motors != before
