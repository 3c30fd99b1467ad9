"""Causal sampling: the newest sample at or before each tick, alike for a bag and a live robot.

Time is an argument: integer nanoseconds, from any clock. At tick t_k a term is its newest sample
with stamp <= t_k that has arrived by then; older than its max_age makes the tick invalid. The
action of tick k is the command in force over [t_k, t_{k+1}): the newest command at or before
t_{k+1}, held at most `hold`. Of samples with one stamp, the last to arrive counts.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

from offrl_contract.robot import ActionTerm, ObservationTerm, Robot, Signal

Floats = NDArray[np.float64]
Times = NDArray[np.int64]
Faults = NDArray[np.uint8]


_LARGEST = float(np.finfo(np.float32).max)


class Fault(IntEnum):
    """Why a term is not usable at a tick."""

    NONE = 0
    MISSING = 1
    """No sample yet."""
    STALE = 2
    """The newest sample is older than max_age."""
    NOT_FINITE = 3
    """NaN, inf or beyond single precision, or a message that could not be decoded."""


@dataclass(frozen=True)
class Series:
    """Samples of one term, in order of time."""

    stamps: Times
    """(n,) [ns], not decreasing."""
    values: Floats
    """(n, d); NaN rows where a message was malformed."""
    received: Times | None = None
    """(n,) [ns] when each arrived, where the stamps are of another clock: not known before."""


@dataclass(frozen=True)
class Sample:
    """One term at T ticks."""

    values: Floats
    """(T, w)."""
    faults: Faults
    """(T,) Fault codes."""
    ages: Times
    """(T,) [ns] of the newest sample used; -1 where there is none."""


def nanoseconds(seconds: float) -> int:
    """Return a duration in whole nanoseconds."""
    return round(seconds * 1e9)


def newest(series: Series, ticks: Times) -> Times:
    """Return the index (T,) of the sample that holds at each tick; -1 where there is none."""
    if series.received is None:
        return np.searchsorted(series.stamps, ticks, side="right") - 1
    known = np.maximum(series.stamps, series.received)
    order = np.argsort(known, kind="stable")
    latest = np.concatenate([[-1], np.maximum.accumulate(order)])  # of all that are known so far
    index: Times = latest[np.searchsorted(known[order], ticks, side="right")]
    return index


def sample(series: Series, ticks: Times, max_age: int) -> Sample:
    """Hold a series causally at ticks (T,) [ns]; samples older than max_age [ns] are stale."""
    if not len(series.stamps):
        empty = np.full((len(ticks), series.values.shape[1]), np.nan)
        return Sample(empty, np.full(len(ticks), Fault.MISSING, np.uint8), np.full(len(ticks), -1))
    index = newest(series, ticks)
    missing = index < 0
    values = series.values[index]
    ages = np.where(missing, -1, ticks - series.stamps[index])
    faults = np.zeros(len(ticks), np.uint8)
    faults[~(np.abs(values) <= _LARGEST).all(axis=1)] = Fault.NOT_FINITE
    faults[ages > max_age] = Fault.STALE
    faults[missing] = Fault.MISSING
    return Sample(values, faults, ages)


def sample_actions(robot: Robot, series: Mapping[str, Series], ticks: Times) -> Sample:
    """Return the commands in force when the ticks begin (T, a), clipped to their limits."""
    held = _join(
        [sample(series[term.name], ticks, nanoseconds(term.hold)) for term in robot.action]
    )
    low, high = np.array(robot.limits).T
    return replace(held, values=np.clip(held.values, low, high))


def sample_term(
    robot: Robot, term: ObservationTerm | Signal, series: Mapping[str, Series], ticks: Times
) -> Sample:
    """Return one term (T, w) with its history, the oldest first."""
    history = term.history if isinstance(term, ObservationTerm) else 1
    steps = [ticks - back * robot.period for back in reversed(range(history))]
    if isinstance(term, ObservationTerm) and term.source == "action":
        return _join([sample_actions(robot, series, at) for at in steps])
    age = nanoseconds(term.max_age)
    return _join([sample(series[term.name], at, age) for at in steps])


def sample_observation(
    robot: Robot, series: Mapping[str, Series], ticks: Times
) -> dict[str, Sample]:
    """Return every observation term at the ticks, in the order of the vector."""
    return {term.name: sample_term(robot, term, series, ticks) for term in robot.observation}


def observation_vector(samples: Mapping[str, Sample]) -> NDArray[np.float32]:
    """Join observation terms to vectors (T, o) in single precision, SI units."""
    with np.errstate(over="ignore"):  # such values have a fault
        return np.concatenate(
            [each.values for each in samples.values()], axis=1, dtype=np.float32, casting="unsafe"
        )


def action_of_tick(robot: Robot, series: Mapping[str, Series], ticks: Times) -> Sample:
    """Return the action of each tick (T, a): the command in force when the next one begins."""
    return sample_actions(robot, series, ticks + robot.period)


def episode_ticks(
    running: Series | None, starts: Times | None, stops: Times | None, ticks: Times
) -> tuple[NDArray[np.bool_], Times]:
    """Return which ticks (T,) lie inside of an episode, and which stretch each belongs to (T,).

    `running` (n, 1) is not 0 while an episode runs; `starts` and `stops` (n,) [ns] are sorted. Of a
    start and a stop at one instant the start counts. Two ticks of different stretches are never of
    one episode.
    """
    inside = np.ones(len(ticks), np.bool_)
    stretch = np.zeros(len(ticks), np.int64)
    for events in (starts, stops):
        if events is not None:
            stretch += np.searchsorted(events, ticks, side="right")
    if starts is not None:
        begun = _latest(starts, ticks)
        inside &= begun >= _latest(stops if stops is not None else starts[:0], ticks)
        inside &= begun > _NEVER
    if running is not None:
        index = newest(running, ticks)
        on = np.concatenate([running.values[:, 0] != 0, [False]])
        inside &= on[index]
    return inside, stretch


_NEVER = np.iinfo(np.int64).min


def _latest(events: Times, ticks: Times) -> Times:
    """Return the newest event at or before each tick (T,) [ns]."""
    latest: Times = np.concatenate([[_NEVER], events])[np.searchsorted(events, ticks, side="right")]
    return latest


def usable_runs(usable: NDArray[np.bool_]) -> Iterator[tuple[int, int]]:
    """Yield [start, stop) of each run of usable ticks."""
    edges = np.diff(np.concatenate([[0], usable.astype(np.int8), [0]]))
    yield from zip(
        np.flatnonzero(edges == 1).tolist(), np.flatnonzero(edges == -1).tolist(), strict=True
    )


def _join(samples: list[Sample]) -> Sample:
    """Put samples side by side; the first fault and the greatest age stand for all."""
    if len(samples) == 1:
        return samples[0]
    faults = samples[0].faults
    for each in samples[1:]:
        faults = np.where(faults == Fault.NONE, each.faults, faults)
    ages = np.stack([each.ages for each in samples])
    ages = np.where((ages < 0).any(axis=0), -1, ages.max(axis=0))
    return Sample(np.concatenate([each.values for each in samples], axis=1), faults, ages)


def observation_names(robot: Robot) -> list[str]:
    """Return a name per entry of the observation vector, such as scan_0."""
    return [f"{t.name}_{part}" for t in robot.observation for part in range(robot.width(t))]


def action_names(robot: Robot) -> list[str]:
    """Return a name per entry of the action vector, such as cmd.linear.x."""
    return [f"{term.name}.{field}" for term in robot.action for field in term.field]


def split_action(robot: Robot, action: Floats) -> Iterator[tuple[ActionTerm, Floats]]:
    """Yield each action term with its part of an action vector (..., a)."""
    start = 0
    for term in robot.action:
        yield term, action[..., start : start + term.parts]
        start += term.parts
