"""Friction of the ground, by replays in the task's physics.

Only a base that slides tells it: the windows that ask most of the ground are replayed over a grid
of frictions, then over a finer one round the best. Where the base never slides, friction has a
lower bound and no more.
"""

import math
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from offrl_sim.fit.log import Floats
from offrl_sim.fit.problem import Base, Windows
from offrl_sim.fit.replay import respond, simulate
from offrl_sim.physics import DrivingPhysics
from offrl_sim.profile import Conditions

COARSE = np.array([0.2, 0.35, 0.5, 0.7, 1.0, 1.4, 2.0])
"""Frictions of the first replays; at the last no base here slides."""
FINE = 4
"""Frictions of the second ones, between the neighbours of the best."""
DEMANDING = 10
"""Windows that are replayed: those with the largest accelerations."""
_REPLICATES = 1000
_GRAIN = 1.1  # factor by which an interval is wider: gains, found first, take part of a slide
_LEAST_GAIN = 0.02  # in cost, for a ground on which the base slides


@dataclass(frozen=True)
class Friction:
    """What a log says of the ground."""

    value: float
    low: float
    high: float
    slides: bool
    """Whether a ground that always holds replays the log significantly worse."""


def estimate_friction(
    base: Base,
    windows: Windows,
    physics: DrivingPhysics,
    given: Conditions,
    parameters: Floats,
    deviations: Floats,
    rng: np.random.Generator,
) -> Friction:
    """Estimate friction at given parameters (4,) and deviations (2,) of the response model.

    `given` are the conditions of those parameters, but for the friction.
    """
    some = windows.only(_demanding(base, windows, parameters))

    def costs(frictions: Floats) -> Floats:
        replays = [
            simulate(base, some, physics, replace(given, friction=each))
            for each in frictions.tolist()
        ]
        return np.stack([_cost(some, each, deviations) for each in replays])

    coarse = costs(COARSE)  # (F, W)
    best = int(np.clip(coarse.sum(axis=1).argmin(), 1, len(COARSE) - 2))
    fine = np.geomspace(COARSE[best - 1], COARSE[best + 1], FINE + 2)[1:-1]
    frictions = np.concatenate([COARSE, fine])
    order = np.argsort(frictions)
    return _judged(frictions[order], np.concatenate([coarse, costs(fine)])[order], rng)


def _judged(frictions: Floats, costs: Floats, rng: np.random.Generator) -> Friction:
    """Judge the costs (F, W) of windows at frictions (F,), increasing, by a bootstrap."""
    count = costs.shape[1]
    drawn = rng.multinomial(count, np.full(count, 1.0 / count), _REPLICATES)
    replicates = drawn @ costs.T  # (R, F)
    low, high = np.quantile([_lowest(frictions, each) for each in replicates], (0.025, 0.975))
    total = costs.sum(axis=1)
    worse = replicates - replicates[:, -1:]  # than on a ground that holds
    slides = np.quantile(worse[:, total.argmin()], 0.975) < -_LEAST_GAIN * total[-1]
    if slides and high < frictions[-2]:
        return Friction(_lowest(frictions, total), float(low) / _GRAIN, float(high) * _GRAIN, True)
    as_good = np.quantile(worse, 0.025, axis=0) <= _LEAST_GAIN * total[-1]
    least = float(frictions[as_good.argmax()])
    return Friction(max(1.0, least), least, math.inf, False)


def _demanding(base: Base, windows: Windows, parameters: Floats) -> NDArray[np.int64]:
    """Return which windows ask for the largest accelerations."""
    asked = respond(base, windows, parameters[None])[0]  # (W, M, 2)
    sideways = np.abs(asked[..., 0] * asked[..., 1]) * windows.known
    some = np.argsort(-np.quantile(sideways, 0.9, axis=1), kind="stable")[:DEMANDING]
    return np.sort(some)


def _cost(windows: Windows, replayed: Floats, deviations: Floats) -> Floats:
    """Return how badly a replay (W, M, 2) fits each window (W,), as the response model's fit."""
    left = (windows.motion - replayed) / deviations
    each = 2.0 * (np.sqrt(1.0 + (left / 2.0) ** 2) - 1.0)
    cost: Floats = (each * windows.known[..., None]).sum(axis=(1, 2))
    return cost


def _lowest(frictions: Floats, cost: Floats) -> float:
    """Return where a parabola through the least cost (F,) and its neighbours is lowest."""
    at = int(np.clip(cost.argmin(), 1, len(cost) - 2))
    near = slice(at - 1, at + 2)
    curve = np.polyfit(np.log(frictions[near]), cost[near], 2)
    if curve[0] <= 0.0:
        return float(frictions[cost.argmin()])
    lowest = np.clip(-curve[1] / (2.0 * curve[0]), *np.log(frictions[[at - 1, at + 1]]))
    return float(np.exp(lowest))
