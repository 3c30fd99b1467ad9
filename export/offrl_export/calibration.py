"""Gate calibration: thresholds from the maxima of whole held-out episodes (split conformal).

Of n held-out episodes the ceil((n + 1)(1 - alpha))-th smallest maximum is a threshold that a new
exchangeable episode exceeds with probability at most alpha. Several detectors (each score, and
the CUSUM of each) share one alpha: the maxima of each are put on one scale (logarithm, then mean
0 and deviation 1 on reference episodes), and the quantile is taken of the greatest over the
detectors. The guarantee is then joint, without the loss of splitting alpha in advance; the
logarithm keeps the heavy tail of one detector from raising the thresholds of all.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray
from offrl_contract import InputError
from offrl_policy.gate import (
    Cusum,
    FalseAlarms,
    GateCalibration,
    Reliability,
    ScoreCalibration,
)
from scipy.stats import binomtest

Array = NDArray[np.float64]

SLACK = 0.5
"""CUSUM reference value k [standard deviations]: most sensitive to a shift of twice this."""
MIN_WINDOW = 30.0
"""Shortest window that a long log may be cut into [s]."""
ASSUMPTION = (
    "The guarantee holds for episodes exchangeable with the held-out ones: same robot, same place, "
    "same kind of task. It is an average over episodes, not a promise for each."
)
WINDOWS = (
    " Here an episode is a window of a longer log. Windows of few logs are like one another, less "
    "like those of other days, which may alarm more often."
)
"""Added to the assumption where logs were cut."""
_ALPHAS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.5)
_TINY = 1e-9
_LEAST_SPREAD = 0.01
_UNLIMITED = 1e18
# The gate alarms at a threshold, the quantile promises it above one; a rounding error is less.
_ABOVE = 1.0 + 1e-6


@dataclass(frozen=True)
class Scale:
    """Puts the maxima of different detectors (n, d) on one scale."""

    unit: Array
    """(d,) mean of the maxima."""
    mean: Array
    """(d,) of log(1 + maximum / unit)."""
    std: Array
    """(d,) of log(1 + maximum / unit)."""

    @classmethod
    def fit(cls, maxima: Array) -> "Scale":
        """Take the scale from the maxima of reference episodes (n, d)."""
        unit = np.maximum(maxima.mean(0), _TINY)
        logs = np.log1p(maxima / unit)
        return cls(unit, logs.mean(0), np.maximum(logs.std(0), _LEAST_SPREAD))

    def height(self, maxima: Array) -> Array:
        """Return maxima (n, d) as deviations from what is usual."""
        height: Array = (np.log1p(maxima / self.unit) - self.mean) / self.std
        return height

    def value(self, height: float) -> Array:
        """Return the value (d,) of each detector just above a height."""
        value = self.unit * np.expm1(self.mean + height * self.std)
        return np.maximum(value, _TINY) * _ABOVE


def conformal_rank(count: int, alpha: float) -> int:
    """Return which of `count` sorted maxima is the threshold (1 is the smallest)."""
    return math.ceil((count + 1) * (1.0 - alpha) - 1e-9)


def cut_windows(episodes: Sequence[Array], length: int) -> list[Array]:
    """Cut episodes (T, k) into windows of `length` ticks; what is left over is dropped."""
    return [
        episode[begin:end]
        for episode in episodes
        for begin, end in pairwise(range(0, len(episode) + 1, length))
    ]


def calibrate(
    reference: Sequence[Array],
    held_out: Sequence[Array],
    names: Sequence[str],
    alpha: float,
    rate: float,
    say: Callable[[str], None],
) -> GateCalibration:
    """Calibrate on scores per tick (T, k) of episodes.

    `reference` gives the scale of each detector, `held_out` the threshold; they must be different
    episodes. Raises InputError where there are too few held-out episodes for alpha.
    """
    ticks = np.concatenate(list(reference))
    means, stds = ticks.mean(0), np.maximum(ticks.std(0), _TINY)
    blank = _blank(names, means, stds, alpha)
    judged = _with_sums(held_out, blank)
    window = None
    if conformal_rank(len(judged), alpha) > len(judged):
        # Only now, as the gate's CUSUM goes on from one window to the next.
        windows = cut_windows(judged, math.ceil(MIN_WINDOW * rate))
        if len(windows) > len(judged):
            say(f"{len(judged)} held-out episodes: cut into windows of {MIN_WINDOW:g} s")
            judged, window = windows, MIN_WINDOW
    count = len(judged)
    if conformal_rank(count, alpha) > count:
        needed = math.ceil(1.0 / alpha - 1.0 - 1e-9)
        enough = math.ceil(1e4 / (count + 1)) / 1e4
        least = "" if not count else f", or use --alpha {enough:g} or more"
        raise InputError(
            f"gate: alpha {alpha:g} needs {needed} held-out episodes, there are {count}: "
            f"{needed - count} are missing. Record more, train with a larger --held-out{least}"
        )
    scale = Scale.fit(_maxima(_with_sums(reference, blank)))
    heights = scale.height(_maxima(judged)).max(axis=1)  # (n,) in order of recording
    thresholds = scale.value(np.sort(heights)[conformal_rank(count, alpha) - 1])  # (2k,)
    normal = np.concatenate(judged)  # (N, 2k)
    scores = tuple(
        known.model_copy(
            update={
                "threshold": float(thresholds[i]),
                "cusum_threshold": float(thresholds[len(names) + i]),
                "quantiles": {
                    f"{q:g}": float(np.quantile(normal[:, i], q)) for q in (0.5, 0.9, 0.99, 1.0)
                },
            }
        )
        for i, known in enumerate(blank.scores)
    )
    hours = len(normal) / rate / 3600.0
    return blank.model_copy(
        update={
            "episodes": count,
            "window": window,
            "scores": scores,
            "false_alarms": _false_alarms(heights, alpha, hours),
            "reliability": _reliability(heights),
            "assumption": ASSUMPTION + WINDOWS * (window is not None),
        }
    )


def _blank(names: Sequence[str], means: Array, stds: Array, alpha: float) -> GateCalibration:
    """Return a calibration that knows what is normal, but no threshold yet."""
    scores = tuple(
        ScoreCalibration(
            name=name,
            mean=float(mean),
            std=float(std),
            threshold=_UNLIMITED,
            cusum_threshold=_UNLIMITED,
            quantiles={},
        )
        for name, mean, std in zip(names, means, stds, strict=True)
    )
    none = FalseAlarms(episodes=0, alarms=0, rate=0.0, interval=(0.0, 1.0), hours=0.0, per_hour=0.0)
    return GateCalibration(
        alpha=alpha,
        episodes=0,
        window=None,
        slack=SLACK,
        scores=scores,
        false_alarms=none,
        assumption="",
    )


def _with_sums(episodes: Sequence[Array], calibration: GateCalibration) -> list[Array]:
    """Put beside the scores (T, k) of each episode their CUSUM, by the gate's own: (T, 2k)."""
    rows = []
    for episode in episodes:
        cusum = Cusum(calibration)
        sums = np.array([cusum.update(tick) for tick in episode.tolist()])
        rows.append(np.concatenate([episode, sums], axis=1))
    return rows


def _maxima(episodes: Sequence[Array]) -> Array:
    """Return the largest of each detector (n, d) in episodes (T, d)."""
    return np.array([episode.max(0) for episode in episodes])


def _false_alarms(heights: Array, alpha: float, hours: float) -> FalseAlarms:
    count, alarms = len(heights), _alarms(heights, alpha)
    return FalseAlarms(
        episodes=count,
        alarms=alarms,
        rate=alarms / count,
        interval=_interval(alarms, count),
        hours=hours,
        per_hour=alarms / hours,
    )


def _reliability(heights: Array) -> tuple[Reliability, ...]:
    """Count the alarms at every alpha that half of the episodes allow."""
    count, half = len(heights), len(heights) // 2
    return tuple(
        Reliability(
            alpha=alpha,
            rate=_alarms(heights, alpha) / count,
            interval=_interval(_alarms(heights, alpha), count),
        )
        for alpha in _ALPHAS
        if half and conformal_rank(half, alpha) <= half
    )


def _alarms(heights: Array, alpha: float) -> int:
    """Judge each half of the episodes (n,) by the threshold that the other half gives.

    Halves, as each episode judged by all others has n alpha alarms whatever the data.
    """
    first, second = np.split(heights, [len(heights) // 2])
    alarms = 0
    for judged, others in ((first, second), (second, first)):
        if len(others):
            rank = min(conformal_rank(len(others), alpha), len(others))
            alarms += int((judged > np.sort(others)[rank - 1]).sum())
    return alarms


def _interval(alarms: int, count: int) -> tuple[float, float]:
    """Return the Clopper-Pearson 95 % interval of a rate."""
    interval = binomtest(alarms, count).proportion_ci(0.95, method="exact")
    return float(interval.low), float(interval.high)
