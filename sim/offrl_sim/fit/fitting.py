"""Estimates of delay, gains and lag, with intervals.

The response model (`replay.respond`) is fitted to the log by robust least squares, from the best
point of a grid. Intervals are those of a bootstrap over windows, of one Gauss-Newton step each.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from offrl_sim.fit.log import Floats
from offrl_sim.fit.problem import Base, Windows
from offrl_sim.fit.replay import respond

NOMINAL = np.array([0.0, 1.0, 1.0, 0.0])
LOW = np.array([-0.05, 0.2, 0.2, 0.0])
"""Least parameters of the search; a delay below 0 is one of the model, taken off later."""
HIGH = np.array([0.6, 2.0, 2.0, 1.0])
"""Largest ones."""
_STEPS = np.array([0.004, 0.01, 0.01, 0.004])  # of the derivatives
_SCALES = np.array([0.05, 0.1, 0.1, 0.1])
_GRID_DELAYS = np.arange(0.0, 0.51, 0.05)
_GRID_LAGS = (0.0, 0.1, 0.25, 0.5)
_GRID_WINDOWS = 40
_FLOOR = (0.002, 0.005)  # [m/s], [rad/s] least deviation of a measurement
_ROUNDS = 3  # of fitting and judging the deviations
_REPLICATES = 2000


@dataclass(frozen=True)
class Fit:
    """Parameters of the response model that replay some motion best."""

    parameters: Floats
    """(4,)"""
    free: NDArray[np.bool_]
    """(4,) which were searched."""
    deviations: Floats
    """(2,) of what is left over, speed [m/s] and yaw rate [rad/s], outliers aside."""
    left_over: Floats
    """(W, M, 2) measured less replayed."""


class Fitting:
    """Fits the response model to windows of motion."""

    def __init__(self, base: Base, windows: Windows, channels: NDArray[np.bool_]) -> None:
        """Take the windows, and which of speed and yaw rate (2,) are measured at all."""
        self._base = base
        self._windows = windows
        self.channels = channels
        self._known = windows.known[..., None] & channels
        self.free = np.array([True, bool(channels[0]), bool(channels[1]), True])

    def start(self, motion: Floats, deviations: Floats) -> Floats:
        """Return the best parameters (4,) of a grid of delays and lags, at nominal gains."""
        rows = np.linspace(0, len(self._windows) - 1, _GRID_WINDOWS).round().astype(int)
        rows = np.unique(rows)
        grid = np.array([(d, 1.0, 1.0, lag) for d in _GRID_DELAYS for lag in _GRID_LAGS])
        replayed = respond(self._base, self._windows.only(rows), grid)
        count = replayed.shape[-2]
        error = (motion[rows, :count] - replayed) * self._known[rows, :count] / deviations
        cost = np.log1p(error**2).sum(axis=(1, 2, 3))
        best: Floats = grid[cost.argmin()]
        return best

    def fit(self, motion: Floats, start: Floats, deviations: Floats) -> Fit:
        """Fit to motion (W, M, 2) from a start (4,), at given deviations (2,)."""
        from scipy.optimize import least_squares  # slow to import, and `record` needs none of it

        free = self.free

        def whole(parameters: Floats) -> Floats:
            full = start.copy()
            full[free] = parameters
            return full

        def residual(parameters: Floats) -> Floats:
            left: Floats = self.left_over(motion, whole(parameters)) / deviations
            return left[self._known]

        def jacobian(parameters: Floats) -> Floats:
            return (
                -self.derivatives(whole(parameters))[self._known][:, free]
                / np.broadcast_to(deviations, self._known.shape)[self._known][:, None]
            )

        found = least_squares(
            residual,
            np.clip(start[free], LOW[free], HIGH[free]),
            jacobian,
            bounds=(LOW[free], HIGH[free]),
            x_scale=_SCALES[free],
            loss="soft_l1",
            f_scale=2.0,
            xtol=1e-6,
            ftol=1e-7,
            max_nfev=40,
        )
        parameters = whole(found.x)
        return Fit(parameters, free, deviations, self.left_over(motion, parameters))

    def left_over(self, motion: Floats, parameters: Floats) -> Floats:
        """Return measured less replayed (W, M, 2), 0 where nothing is measured."""
        left: Floats = motion - respond(self._base, self._windows, parameters[None])[0]
        return np.where(self._known, left, 0.0)

    def derivatives(self, parameters: Floats) -> Floats:
        """Return how the replay changes with each parameter (W, M, 2, 4)."""
        ahead = np.minimum(parameters + _STEPS, HIGH)
        behind = np.maximum(parameters - _STEPS, LOW)
        sides = np.concatenate(
            [np.where(np.eye(4) > 0, each, parameters) for each in (ahead, behind)]
        )
        replayed = respond(self._base, self._windows, sides)
        width = (ahead - behind)[:, None, None, None]
        return np.moveaxis((replayed[:4] - replayed[4:]) / width, 0, -1)

    def known_deviations(self, left: Floats) -> Floats:
        """Return the robust deviation of each channel (2,)."""
        found = []
        for channel, floor in enumerate(_FLOOR):
            values = np.abs(left[..., channel][self._known[..., channel]])
            found.append(max(1.4826 * float(np.median(values)), floor) if len(values) else 1.0)
        return np.array(found)

    def settle(self, motion: Floats) -> Fit:
        """Fit to a log: from the grid, judging the deviations by what is left over."""
        deviations = np.array([0.1, 0.2])
        fitted = self.fit(motion, self.start(motion, deviations), deviations)
        for _ in range(_ROUNDS - 1):
            deviations = self.known_deviations(fitted.left_over)
            fitted = self.fit(motion, fitted.parameters, deviations)
        return fitted

    def replicates(self, fitted: Fit, rng: np.random.Generator) -> Floats:
        """Return parameters (REPLICATES, 4) of bootstrapped windows, of one Gauss-Newton step."""
        free = fitted.free
        jacobian = self.derivatives(fitted.parameters)[..., free] / fitted.deviations[:, None]
        left = fitted.left_over / fitted.deviations
        weights = self._known / np.sqrt(1.0 + (left / 2.0) ** 2)
        curvature = np.einsum("wmcp,wmc,wmcq->wpq", jacobian, weights, jacobian, optimize=True)
        slope = np.einsum("wmcp,wmc,wmc->wp", jacobian, weights, left, optimize=True)
        count = len(slope)
        drawn = rng.multinomial(count, np.full(count, 1.0 / count), _REPLICATES).astype(float)
        ridge = 1e-9 * np.eye(slope.shape[1]) * np.trace(curvature.sum(axis=0))
        hessians = np.einsum("rw,wpq->rpq", drawn, curvature) + ridge
        steps = np.linalg.solve(hessians, (drawn @ slope)[..., None])[..., 0]
        # of few windows, a bootstrap knows too little spread
        steps *= np.sqrt(count / (count - 1.0))
        replicates = np.tile(fitted.parameters, (_REPLICATES, 1))
        replicates[:, free] += steps
        return np.asarray(replicates)
