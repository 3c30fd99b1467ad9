"""Causal sampling: the newest sample at or before each tick, alike for a bag and a live robot.

Time is an argument: integer nanoseconds, from any clock. At tick t_k a term is its newest sample
with stamp <= t_k that has arrived by then; older than its max_age makes the tick invalid. The
action of tick k is the command in force over [t_k, t_{k+1}): the newest command at or before
t_{k+1}, held at most `hold`. Of samples with one stamp, the last to arrive counts.
"""

from collections.abc import Iterator, Mapping
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from offrl_contract.frames import NO_TREE, Tree, sample_pose
from offrl_contract.robot import ActionTerm, ObservationTerm, Robot, Signal
from offrl_contract.series import (
    Fault,
    Floats,
    Held,
    Sample,
    Series,
    Times,
    nanoseconds,
    newest,
    sample,
)
from offrl_contract.transforms import clipped

__all__ = [
    "Fault",
    "Floats",
    "Held",
    "Sample",
    "Series",
    "Times",
    "nanoseconds",
    "sample",
]


def sample_actions(robot: Robot, series: Mapping[str, Held], ticks: Times) -> Sample:
    """Return the commands in force when the ticks begin (T, a), clipped to their limits."""
    held = _join(
        [sample(series[term.name], ticks, nanoseconds(term.hold)) for term in robot.action]
    )
    low, high = np.array(robot.limits).T
    return replace(held, values=np.clip(held.values, low, high))


def sample_term(
    robot: Robot,
    term: ObservationTerm | Signal,
    series: Mapping[str, Held],
    ticks: Times,
    tree: Tree = NO_TREE,
) -> Sample:
    """Return one term (T, w) with its history, the oldest first.

    `tree` holds the transforms by child frame, for a term with `frame`.
    """
    history = term.history if isinstance(term, ObservationTerm) else 1
    steps = [ticks - back * robot.period for back in reversed(range(history))]
    if isinstance(term, ObservationTerm) and term.source == "action":
        return _join([sample_actions(robot, series, at) for at in steps])
    if term.frame:
        return _join([_sample_in_frame(term, series[term.name], at, tree) for at in steps])
    age = nanoseconds(term.max_age)
    return _join([sample(series[term.name], at, age) for at in steps])


def _sample_in_frame(
    term: ObservationTerm | Signal, series: Held, ticks: Times, tree: Tree
) -> Sample:
    assert isinstance(series, Series)
    ages = nanoseconds(term.max_age), nanoseconds(term.frame_max_age)
    found = sample_pose(series, ticks, term.frame, tree, *ages)
    return replace(found, values=clipped(term, found.values))


def sample_observation(
    robot: Robot, series: Mapping[str, Held], ticks: Times, tree: Tree = NO_TREE
) -> dict[str, Sample]:
    """Return every observation term at the ticks, in the order of the vector."""
    return {term.name: sample_term(robot, term, series, ticks, tree) for term in robot.observation}


def observation_vector(samples: Mapping[str, Sample]) -> NDArray[np.float32]:
    """Join observation terms to vectors (T, o) in single precision, SI units."""
    with np.errstate(over="ignore"):  # such values have a fault
        return np.concatenate(
            [each.values for each in samples.values()], axis=1, dtype=np.float32, casting="unsafe"
        )


def action_of_tick(robot: Robot, series: Mapping[str, Held], ticks: Times) -> Sample:
    """Return the action of each tick (T, a): the command in force when the next one begins."""
    return sample_actions(robot, series, ticks + robot.period)


def episode_ticks(
    running: Series | None, starts: Times | None, stops: Times | None, ticks: Times
) -> tuple[NDArray[np.bool_], Times]:
    """Return which ticks (T,) lie inside of an episode, and which stretch each belongs to (T,).

    `running` (n, 1) is not 0 while an episode runs, `starts` and `stops` (n,) [ns] are sorted. Of a
    start and a stop at one instant the start counts. Two ticks of different stretches are never of
    one episode.
    """
    inside = np.ones(len(ticks), np.bool_)
    stretch = np.zeros(len(ticks), np.int64)
    begins = None if running is None else running.stamps[rises(running)]
    for events in (starts, stops, begins):
        if events is not None:
            stretch += np.searchsorted(events, ticks, side="right")
    if starts is not None:
        begun = _latest(starts, ticks)
        inside &= begun >= _latest(stops if stops is not None else starts[:0], ticks)
        inside &= begun > _NEVER
    if running is not None:
        index = newest(running, ticks)
        inside &= np.append(_is_on(running), False)[index]
    return inside, stretch


def rises(switch: Series) -> NDArray[np.bool_]:
    """Return which messages (n,) of a switch (n, 1) turn it on, from 0 or for the first time."""
    on = _is_on(switch)
    rising: NDArray[np.bool_] = on & ~np.append(False, on)[:-1]
    return rising


def _is_on(switch: Series) -> NDArray[np.bool_]:
    """Return where a switch (n, 1) is on; a message that is not finite turns it off."""
    value = switch.values[:, 0]
    on: NDArray[np.bool_] = np.isfinite(value) & (value != 0)
    return on


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
