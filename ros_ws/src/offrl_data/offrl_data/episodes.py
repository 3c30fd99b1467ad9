"""From time series to episodes: samples on the grid of ticks, cut where a tick cannot be used."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray
from offrl_contract import Robot
from offrl_contract.rewards import rewards_and_terminals
from offrl_contract.sampling import (
    Fault,
    Sample,
    action_of_tick,
    nanoseconds,
    observation_vector,
    sample,
    sample_observation,
    sample_term,
    usable_runs,
)

from offrl_data.dataset import Episode
from offrl_data.series import PATH, BagSeries

Mask = NDArray[np.bool_]
Times = NDArray[np.int64]
_FAULT_WORDS = {
    Fault.MISSING: "no message yet",
    Fault.STALE: "stale",
    Fault.NOT_FINITE: "not finite",
}


@dataclass(frozen=True)
class Ticks:
    """A bag on the grid of its ticks."""

    times: Times
    """(T,) [ns]; none inside of pauses."""
    paused: int
    """Ticks that fall into pauses."""
    observation: dict[str, Sample]
    signals: dict[str, Sample]
    action: Sample
    path: NDArray[np.float32] | None
    """(T, 2) where the robot was [m]."""


def on_ticks(robot: Robot, decoded: BagSeries) -> Ticks:
    """Sample a bag on its grid, which begins when every observation term has a sample."""
    series = decoded.series
    names = [term.name for term in robot.observation if term.source == "topic"]
    times, paused = np.zeros(0, np.int64), 0
    if all(len(series[name].stamps) for name in names) and len(decoded.stamps):
        begin = max(int(series[name].stamps[0]) for name in names)
        gap = nanoseconds(robot.episode.gap)
        times, paused = _grid(
            decoded.stamps - decoded.phase, begin - decoded.phase, robot.period, gap
        )
        times += decoded.phase
    path = None
    if PATH in series:
        held = sample(series[PATH], times, nanoseconds(robot.episode.gap))
        path = held.values.astype(np.float32)
    return Ticks(
        times=times,
        paused=paused,
        observation=sample_observation(robot, series, times),
        signals={s.name: sample_term(robot, s, series, times) for s in robot.signals},
        action=action_of_tick(robot, series, times),
        path=path,
    )


def _grid(stamps: Times, begin: int, period: int, gap: int) -> tuple[Times, int]:
    """Return the ticks from `begin` [ns] on while messages come, and how many fall into pauses.

    `stamps` (n,) are those of all messages [ns], sorted; a pause is longer than `gap` [ns]. All
    times count from some tick.
    """
    pauses = np.flatnonzero(np.diff(stamps) > gap)
    starts = np.maximum(np.append(stamps[:1], stamps[pauses + 1]), begin)
    ends = np.append(stamps[pauses], stamps[-1:])
    first = -(-starts // period)
    after = ends // period + 1
    running = after > first
    spans = zip(first[running].tolist(), after[running].tolist(), strict=True)
    times = [np.arange(a, b, dtype=np.int64) * period for a, b in spans]
    if not times:
        return np.zeros(0, np.int64), 0
    ticks = np.concatenate(times)
    return ticks, int((ticks[-1] - ticks[0]) // period + 1 - len(ticks))


def cut_episodes(robot: Robot, ticks: Ticks, source: str) -> tuple[list[Episode], Counter[str]]:
    """Cut transitions into episodes at breaks and terminals; drop those that are too short.

    Returns them with the number of ticks that begin no transition, by their first reason.
    """
    reasons = _reasons(robot, ticks)
    rewards, terminals = _outcomes(robot, ticks, np.flatnonzero(reasons == ""))
    reasons[(reasons == "") & ~np.isfinite(rewards)] = "reward: not finite"
    vectors = observation_vector(ticks.observation)
    episodes = []
    for start, stop in _spans(reasons == "", terminals):
        if stop - start < robot.episode.min_length:
            reasons[start:stop] = f"episode under {robot.episode.min_length} ticks"
            continue
        episodes.append(
            Episode(
                observations=vectors[start : stop + 1],
                actions=ticks.action.values[start:stop].astype(np.float32),
                rewards=rewards[start:stop],
                terminal=bool(terminals[stop - 1]),
                source=source,
                stamp=int(ticks.times[start]),
                path=None if ticks.path is None else ticks.path[start:stop],
            )
        )
    dropped = Counter(reasons[reasons != ""].tolist())
    if ticks.paused:
        dropped[f"pause longer than {robot.episode.gap:g} s"] += ticks.paused
    return episodes, dropped


def _reasons(robot: Robot, ticks: Ticks) -> NDArray[np.object_]:
    """Return why a tick begins no transition, "" where it does."""
    reasons = np.full(len(ticks.times), "", dtype=object)
    blank = reasons == ""
    for name, each in (ticks.observation | ticks.signals).items():
        for fault, words in _FAULT_WORDS.items():
            reasons[blank & (each.faults == fault)] = f"{name}: {words}"
            blank = reasons == ""
    usable = reasons == ""
    for fault, words in _FAULT_WORDS.items():
        reasons[(reasons == "") & (ticks.action.faults == fault)] = f"command: {words}"
    followed = np.zeros(len(usable), np.bool_)
    followed[:-1] = usable[1:] & (np.diff(ticks.times) == robot.period)
    reasons[(reasons == "") & ~followed] = "last before a break"
    return reasons


def _outcomes(
    robot: Robot, ticks: Ticks, usable: NDArray[np.int64]
) -> tuple[NDArray[np.float32], Mask]:
    """Return the rewards and terminals (T,) of transitions that begin at usable ticks."""
    rewards = np.zeros(len(ticks.times), np.float32)
    terminals = np.zeros(len(ticks.times), np.bool_)
    if len(usable):
        terms = ticks.observation | ticks.signals
        now = {name: each.values[usable] for name, each in terms.items()}
        then = {name: each.values[usable + 1] for name, each in terms.items()}
        with np.errstate(over="ignore"):  # beyond single precision is not finite
            rewards[usable], terminals[usable] = rewards_and_terminals(
                robot, now, then, ticks.action.values[usable]
            )
    return rewards, terminals


def _spans(usable: Mask, terminals: Mask) -> Iterator[tuple[int, int]]:
    """Yield [start, stop) of each run of usable transitions, ending after every terminal."""
    for start, stop in usable_runs(usable):
        ends = start + 1 + np.flatnonzero(terminals[start:stop])
        bounds = [start, *ends.tolist(), stop]
        for begin, end in pairwise(bounds):
            if end > begin:
                yield begin, end
