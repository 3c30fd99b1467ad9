"""What a log says of a base, parameter by parameter, and what it cannot say.

What the response model leaves out (tyres, a servo's own delay) biases its fit. So the same fit is
made to a replay in the task's physics under the estimate, whose truth is known, and the difference
is taken off: indirect inference (Gourieroux, Monfort, Renault, Journal of Applied Econometrics 8,
1993).
"""

import math
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from offrl_contract import InputError

from offrl_sim.fit.fitting import HIGH, NOMINAL, Fit, Fitting
from offrl_sim.fit.friction import Friction, estimate_friction
from offrl_sim.fit.log import Floats
from offrl_sim.fit.problem import LENGTH, REST, Base, Windows
from offrl_sim.fit.replay import NAMES, simulate
from offrl_sim.physics import STEPS_PER_SECOND, DrivingPhysics
from offrl_sim.profile import Conditions, SimProfile

CHANNELS = ("speed", "yaw rate")
"""What is measured, as `Windows.motion` has it [m/s], [rad/s]."""
SHARP = {"action_latency": 0.05, "speed_gain": 0.2, "steering_gain": 0.2, "speed_lag": 0.1}
"""Widest 95 % interval of a parameter that counts as identified."""
EXPLAINED = 0.5
"""Share of a channel's variance that the replay has to explain, for it to tell a parameter."""
PROPORTIONAL = 1.25
"""Largest factor between the gains of large and small commands for one to stand for both."""
_SLOPE_ROWS = 50
REPLAYED = 40
"""Windows that are replayed in the task's physics."""
GRAIN = np.array([1.0 / STEPS_PER_SECOND, 0.005, 0.005, 1.0 / STEPS_PER_SECOND])
"""What the simulator itself tells apart, (4,): intervals are wider by this on either side."""
_LEAST = np.array([0.0, 0.2, 0.2, 0.0])
_TOLD_BY = {
    "action_latency": (0, 1),
    "speed_gain": (0,),
    "steering_gain": (1,),
    "speed_lag": (0,),
}


@dataclass(frozen=True)
class Estimate:
    """One parameter of a profile."""

    name: str
    value: float
    low: float
    """Lower end of the 95 % interval."""
    high: float
    nominal: float
    reason: str
    """Why the log does not identify it; empty where it does."""


@dataclass(frozen=True)
class Residual:
    """How well a channel is replayed, outliers included."""

    channel: str
    rms: float
    """Under the estimate."""
    nominal: float
    """RMS under the nominal parameters."""
    explained: float
    """Share of the variance."""
    falls: float
    """Gain of large commands per gain of small ones: 1 where the base is proportional."""


@dataclass(frozen=True)
class Result:
    """Estimates, and how well they replay the log."""

    estimates: list[Estimate]
    residuals: list[Residual]
    windows: int
    notes: list[str]

    @property
    def seconds(self) -> float:
        """Time that was compared [s]."""
        return self.windows * LENGTH

    @property
    def profile(self) -> dict[str, float]:
        """What is identified, as keys of a profile."""
        return {each.name: each.value for each in self.estimates if not each.reason}


def conditions(parameters: Floats, friction: float = 1.0) -> Conditions:
    """Return an episode's conditions under parameters (4,)."""
    values = dict(zip(NAMES, np.clip(parameters, _LEAST, HIGH).tolist(), strict=True))
    profile = SimProfile.model_validate({**values, "friction": friction})
    return profile.draw(np.random.default_rng(0))


def estimate(
    base: Base, windows: Windows, physics: DrivingPhysics, rng: np.random.Generator
) -> Result:
    """Estimate delay, gains, lag and friction from windows of a log.

    Raises InputError where the robot was commanded but never moved.
    """
    channels = np.array([windows.motion[..., k][windows.known].std() > 1e-6 for k in (0, 1)])
    if not channels.any():
        raise InputError("the odometry never changes while commands do: nothing to fit")
    fitting = Fitting(base, windows, channels)
    fitted = fitting.settle(windows.motion)
    residuals = _residuals(fitting, windows, fitted)
    bias, ground = np.zeros(len(NAMES)), None
    told = [each.explained >= EXPLAINED for each in residuals]
    if any(told):
        bias = _bias(base, windows, physics, fitting, fitted, conditions(fitted.parameters))
    if len(told) == len(CHANNELS) and all(told):
        given = conditions(fitted.parameters - bias)
        ground = estimate_friction(
            base, windows, physics, given, fitted.parameters, fitted.deviations, rng
        )
        given = conditions(fitted.parameters - bias, ground.value if ground.slides else 1.0)
        bias = _bias(base, windows, physics, fitting, fitted, given)
    value = np.clip(fitted.parameters - bias, _LEAST, HIGH)
    ends = np.quantile(fitting.replicates(fitted, rng) - bias, (0.025, 0.975), axis=0)
    low, high = np.clip(ends, _LEAST, HIGH)  # widened after that: at an end of the range, too
    low, high = np.clip(low - GRAIN, _LEAST, HIGH), np.clip(high + GRAIN, _LEAST, HIGH)
    estimates = [
        Estimate(name, float(value[k]), float(low[k]), float(high[k]), float(NOMINAL[k]), "")
        for k, name in enumerate(NAMES)
    ]
    judged = [replace(each, reason=_reason(each, channels, residuals)) for each in estimates]
    return Result([*judged, _of_friction(ground)], residuals, len(windows), [])


def _of_friction(ground: Friction | None) -> Estimate:
    if ground is None:
        reason = "the commands do not explain speed and yaw rate"
        return Estimate("friction", 1.0, 0.0, math.inf, 1.0, reason)
    reason = "" if ground.slides else "the base does not slide in this log"
    return Estimate("friction", ground.value, ground.low, ground.high, 1.0, reason)


def _bias(
    base: Base,
    windows: Windows,
    physics: DrivingPhysics,
    fitting: Fitting,
    fitted: Fit,
    given: Conditions,
) -> Floats:
    """Return what the fit makes of the task's physics under conditions, less the truth (4,)."""
    rows = np.linspace(0, len(windows) - 1, min(len(windows), REPLAYED)).round().astype(int)
    some = windows.only(rows)
    truth = np.array([getattr(given, name) for name in NAMES])
    simulated = simulate(base, some, physics, given)
    echo = Fitting(base, some, fitting.channels)
    bias: Floats = echo.fit(simulated, fitted.parameters, fitted.deviations).parameters - truth
    return bias


def _residuals(fitting: Fitting, windows: Windows, fitted: Fit) -> list[Residual]:
    nominal = fitting.left_over(windows.motion, NOMINAL)
    found = []
    for k in np.flatnonzero(fitting.channels).tolist():
        known = windows.known
        motion, left = windows.motion[..., k][known], fitted.left_over[..., k][known]
        falls = _falls(motion, motion - left, REST[k])
        variance = max(float(motion.var()), 1e-9)
        found.append(
            Residual(
                CHANNELS[k],
                float(np.sqrt((left**2).mean())),
                float(np.sqrt((nominal[..., k][known] ** 2).mean())),
                max(1.0 - float((left**2).mean()) / variance, 0.0),
                falls,
            )
        )
    return found


def _falls(motion: Floats, replayed: Floats, rest: float) -> float:
    """Return the slope of motion against its replay where this is large, per that where small."""
    size = np.abs(replayed)
    moving = size > rest
    if np.count_nonzero(moving) < _SLOPE_ROWS:
        return 1.0
    middle = size[moving].max() / 2.0
    slopes = []
    for part in (moving & (size <= middle), moving & (size > middle)):
        if np.count_nonzero(part) < _SLOPE_ROWS:
            return 1.0
        slopes.append(float(motion[part] @ replayed[part] / (replayed[part] @ replayed[part])))
    return slopes[1] / slopes[0] if slopes[0] > 0.0 else 1.0


def _reason(each: Estimate, channels: NDArray[np.bool_], residuals: list[Residual]) -> str:
    """Say why a parameter is not identified; nothing where it is."""
    told_by = [CHANNELS[k] for k in _TOLD_BY[each.name] if channels[k]]
    if not told_by:
        return f"the log has no {CHANNELS[_TOLD_BY[each.name][0]]}"
    telling = [residual for residual in residuals if residual.channel in told_by]
    best = max(telling, key=lambda residual: residual.explained)
    if best.explained < EXPLAINED:
        return f"the commands explain {best.explained:.0%} of the {best.channel}"
    if each.name.endswith("_gain") and not 1.0 / PROPORTIONAL < best.falls < PROPORTIONAL:
        return f"large commands have {best.falls:.2f} times the gain of small ones"
    if each.value > 0.98 * HIGH[NAMES.index(each.name)]:
        return "at the edge of the range searched"
    if each.high - each.low > SHARP[each.name]:
        return f"wider than {SHARP[each.name]:g}: the commands hardly tell it"
    return ""
