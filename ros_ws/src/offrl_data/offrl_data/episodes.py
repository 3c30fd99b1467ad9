"""From time series to episodes: samples on the grid of ticks, cut where a tick cannot be used."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray
from offrl_contract import Robot
from offrl_contract.rewards import rewards_and_terminals
from offrl_contract.robot import EpisodeTopic
from offrl_contract.sampling import (
    Fault,
    Sample,
    Series,
    action_of_tick,
    episode_ticks,
    nanoseconds,
    observation_vector,
    rises,
    sample,
    sample_term,
    usable_runs,
)

from offrl_data.dataset import Episode
from offrl_data.series import EPISODE, PATH, BagSeries

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
    inside: Mask
    """(T,) whether the log says that an episode runs."""
    stretch: Times
    """(T,) number of the stretch between starts and stops."""
    images: dict[str, Sample]
    """Which message of its topic each image term shows (T, 1)."""


@dataclass(frozen=True)
class Cut:
    """The episodes of a bag."""

    episodes: list[Episode]
    spans: list[tuple[int, int]]
    """Ticks [first, last] of each: one more than it has transitions."""
    dropped: Counter[str]
    """Ticks that begin no transition, by their first reason."""


def on_ticks(robot: Robot, decoded: BagSeries) -> Ticks:
    """Sample a bag on its grid, which begins when every observation term has a sample.

    The series of the observation are used up, so that they and the samples need not both be held.
    """
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
    events = {
        key: _events(series[EPISODE + key], each)
        for key, each in robot.episode.topics.items()
        if key != "running"
    }
    running = series[f"{EPISODE}running"] if robot.episode.running else None
    inside, stretch = episode_ticks(running, events.get("start"), events.get("stop"), times)
    path = None
    if PATH in series:
        held = sample(series[PATH], times, nanoseconds(robot.episode.gap))
        path = held.values.astype(np.float32)
    action = action_of_tick(robot, series, times)
    observation: dict[str, Sample] = {}
    for term in robot.observation:
        observation[term.name] = sample_term(robot, term, series, times, decoded.tree)
        series.pop(term.name, None)
    return Ticks(
        times=times,
        paused=paused,
        observation=observation,
        signals={s.name: sample_term(robot, s, series, times, decoded.tree) for s in robot.signals},
        action=action,
        path=path,
        inside=inside,
        stretch=stretch,
        images={
            image.name: sample(series[image.name], times, nanoseconds(image.max_age))
            for image in robot.images
        },
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


def cut_episodes(robot: Robot, ticks: Ticks, source: str) -> Cut:
    """Cut transitions into episodes at breaks and terminals; drop those that are too short."""
    reasons = _reasons(robot, ticks)
    rewards, terminals = _outcomes(robot, ticks, np.flatnonzero(reasons == ""))
    reasons[(reasons == "") & ~np.isfinite(rewards)] = "reward or terminal: not finite"
    vectors = observation_vector(ticks.observation)
    episodes, spans = [], []
    for start, stop in _spans(reasons == "", terminals, robot.episode.max_length):
        if stop - start < robot.episode.min_length:
            reasons[start:stop] = f"episode under {robot.episode.min_length} ticks"
            continue
        spans.append((start, stop))
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
    return Cut(episodes, spans, dropped)


def _reasons(robot: Robot, ticks: Ticks) -> NDArray[np.object_]:
    """Return why a tick begins no transition, "" where it does."""
    reasons = np.full(len(ticks.times), "", dtype=object)
    blank = reasons == ""
    for name, each in (ticks.observation | ticks.signals | ticks.images).items():
        for fault, words in _FAULT_WORDS.items():
            hit = blank & (each.faults == fault)
            if hit.any():
                reasons[hit] = f"{name}: {words}"
                blank &= ~hit
    reasons[blank & ~ticks.inside] = "outside of an episode"
    usable = reasons == ""
    for fault, words in _FAULT_WORDS.items():
        reasons[(reasons == "") & (ticks.action.faults == fault)] = f"command: {words}"
    followed = np.zeros(len(usable), np.bool_)
    followed[:-1] = usable[1:] & (np.diff(ticks.times) == robot.period)
    followed[:-1] &= np.diff(ticks.stretch) == 0
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
        terms = {name: terms[name] for name in robot.scored_terms}
        now = {name: each.values[usable] for name, each in terms.items()}
        then = {name: each.values[usable + 1] for name, each in terms.items()}
        with np.errstate(over="ignore"):  # beyond single precision is not finite
            rewards[usable], terminals[usable] = rewards_and_terminals(
                robot, now, then, ticks.action.values[usable]
            )
    return rewards, terminals


def _events(messages: Series, topic: EpisodeTopic) -> Times:
    """Return the stamps (n,) [ns] of events: where the field rises from 0, or all."""
    return messages.stamps[rises(messages)] if topic.field else messages.stamps


def _spans(usable: Mask, terminals: Mask, max_length: int | None) -> Iterator[tuple[int, int]]:
    """Yield [start, stop) of each run of usable transitions, ending after every terminal."""
    for start, stop in usable_runs(usable):
        ends = start + 1 + np.flatnonzero(terminals[start:stop])
        bounds = [start, *ends.tolist(), stop]
        for begin, end in pairwise(bounds):
            for first in range(begin, end, max_length or len(usable)):
                yield first, min(end, first + (max_length or len(usable)))
