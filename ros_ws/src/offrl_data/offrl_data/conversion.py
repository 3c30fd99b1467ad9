"""Bags to a dataset: sample every bag at the control rate, cut episodes, report every tick."""

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from offrl_contract import InputError, Robot
from offrl_contract.definitions import (
    definition_hashes,
    definition_texts,
    from_texts,
    noetic_definitions,
)
from offrl_contract.errors import nearest
from offrl_contract.rewards import rewards_and_terminals
from offrl_contract.sampling import (
    Fault,
    Sample,
    action_names,
    action_of_tick,
    nanoseconds,
    observation_names,
    observation_vector,
    sample_observation,
    sample_term,
    usable_runs,
)
from rosbags.typesys.store import Typestore

from offrl_data.bags import Bag
from offrl_data.dataset import Episode
from offrl_data.dataset_writer import DatasetWriter
from offrl_data.series import BagSeries, TopicReport, read_series

Mask = NDArray[np.bool_]
_FAULT_WORDS = {
    Fault.MISSING: "no message yet",
    Fault.STALE: "stale",
    Fault.NOT_FINITE: "not finite",
}


@dataclass(frozen=True)
class BagReport:
    """What became of one bag."""

    bag: str
    sha256: str
    seconds: float
    ticks: int
    transitions: int
    episodes: int
    terminals: int
    dropped: dict[str, int]
    """Ticks that begin no transition, by their first reason."""
    clipped_commands: int
    """Command messages outside the robot file's limits, clipped to them."""
    topics: list[TopicReport]
    notes: list[str]

    def as_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return asdict(self)


@dataclass(frozen=True)
class _Ticks:
    """A bag on the grid of its ticks."""

    times: NDArray[np.int64]
    observation: dict[str, Sample]
    signals: dict[str, Sample]
    action: Sample
    in_gap: Mask


def convert_bag(
    bag: Bag, robot: Robot, default: Typestore, advance: Callable[[int], None]
) -> tuple[list[Episode], BagReport, BagSeries]:
    """Convert one bag. Raises InputError as `read_series` does."""
    store = noetic_definitions() if bag.wire == "ros1" else default
    decoded = read_series(bag, robot, store, advance)
    ticks = _on_ticks(robot, decoded)
    episodes, reasons = _episodes(robot, ticks, bag.name)
    dropped = Counter(reasons[reasons != ""].tolist())
    report = BagReport(
        bag=bag.name,
        sha256=bag.digest(),
        seconds=_duration(decoded.stamps),
        ticks=len(ticks.times),
        transitions=int((reasons == "").sum()),
        episodes=len(episodes),
        terminals=sum(episode.terminal for episode in episodes),
        dropped=dict(dropped.most_common()),
        clipped_commands=_outside_limits(robot, decoded),
        topics=decoded.topics,
        notes=bag.notes,
    )
    return episodes, report, decoded


def convert_bags(
    paths: list[Path],
    robot: Robot,
    out: Path,
    default: Typestore,
    advance: Callable[[int], None],
    started: Callable[[str, int], None],
) -> list[BagReport]:
    """Convert bags into one dataset file, which appears only when all of them are done.

    A topic that one bag lacks costs that bag, with a note. Raises InputError for a topic that
    every bag lacks, definitions that differ between bags, and a dataset without transitions.
    """
    reports: list[BagReport] = []
    definitions: dict[str, str] = {}
    hashes: dict[str, tuple[str, str]] = {}
    with DatasetWriter(out, robot) as writer:
        for path in paths:
            with Bag(path) as bag:
                missing = [topic for topic in robot.topics() if topic not in bag.topics]
                if missing:
                    _require_elsewhere(missing, paths, bag)
                    reports.append(_skipped(bag, missing))
                    continue
                started(bag.name, sum(bag.topics[topic].count for topic in robot.topics()))
                episodes, report, decoded = convert_bag(bag, robot, default, advance)
            for type_name, found in decoded.hashes.items():
                before = hashes.setdefault(type_name, (found, report.bag))
                if before[0] != found:
                    raise InputError(
                        f"{report.bag}: {type_name} is defined otherwise than in {before[1]}"
                    )
            definitions = decoded.definitions | definitions
            for episode in episodes:
                writer.append(episode)
            reports.append(report)
        _require_transitions(reports)
        writer.finish(_metadata(robot, reports, definitions, default))
    return reports


def _on_ticks(robot: Robot, decoded: BagSeries) -> _Ticks:
    """Sample a bag on its grid, which begins when every observation term has a sample."""
    series = decoded.series
    names = [term.name for term in robot.observation if term.source == "topic"]
    times = np.zeros(0, np.int64)
    if all(len(series[name].stamps) for name in names) and len(decoded.stamps):
        begin = max(int(series[name].stamps[0]) for name in names)
        times = np.arange(begin, int(decoded.stamps[-1]) + 1, robot.period, dtype=np.int64)
    stamps = decoded.stamps
    pauses = np.flatnonzero(np.diff(stamps) > nanoseconds(robot.episode.gap))
    in_gap = np.zeros(len(times), np.bool_)
    for pause in pauses:
        in_gap |= (times > stamps[pause]) & (times < stamps[pause + 1])
    return _Ticks(
        times=times,
        observation=sample_observation(robot, series, times),
        signals={s.name: sample_term(robot, s, series, times) for s in robot.signals},
        action=action_of_tick(robot, series, times),
        in_gap=in_gap,
    )


def _reasons(robot: Robot, ticks: _Ticks) -> NDArray[np.object_]:
    """Return why a tick begins no transition, "" where it does."""
    reasons = np.full(len(ticks.times), "", dtype=object)
    blank = reasons == ""
    for name, each in (ticks.observation | ticks.signals).items():
        for fault, words in _FAULT_WORDS.items():
            reasons[blank & (each.faults == fault)] = f"{name}: {words}"
            blank = reasons == ""
    reasons[blank & ticks.in_gap] = f"pause longer than {robot.episode.gap:g} s"
    usable = reasons == ""
    for fault, words in _FAULT_WORDS.items():
        reasons[(reasons == "") & (ticks.action.faults == fault)] = f"command: {words}"
    followed = np.zeros(len(usable), np.bool_)
    followed[:-1] = usable[1:]
    reasons[(reasons == "") & ~followed] = "last before a break"
    return reasons


def _episodes(
    robot: Robot, ticks: _Ticks, source: str
) -> tuple[list[Episode], NDArray[np.object_]]:
    """Cut transitions into episodes at breaks and terminals; drop those that are too short."""
    reasons = _reasons(robot, ticks)
    usable = np.flatnonzero(reasons == "")
    vectors = observation_vector(ticks.observation)
    terms = ticks.observation | ticks.signals
    rewards = np.zeros(len(ticks.times))
    terminals = np.zeros(len(ticks.times), np.bool_)
    if len(usable):
        now = {name: each.values[usable] for name, each in terms.items()}
        then = {name: each.values[usable + 1] for name, each in terms.items()}
        rewards[usable], terminals[usable] = rewards_and_terminals(
            robot, now, then, ticks.action.values[usable]
        )
    reasons[(reasons == "") & ~np.isfinite(rewards)] = "reward: not finite"
    episodes = []
    for start, stop in _spans(reasons == "", terminals):
        if stop - start < robot.episode.min_length:
            reasons[start:stop] = f"episode under {robot.episode.min_length} ticks"
            continue
        episodes.append(
            Episode(
                observations=vectors[start : stop + 1],
                actions=ticks.action.values[start:stop].astype(np.float32),
                rewards=rewards[start:stop].astype(np.float32),
                terminal=bool(terminals[stop - 1]),
                source=source,
            )
        )
    return episodes, reasons


def _spans(usable: Mask, terminals: Mask) -> Iterator[tuple[int, int]]:
    """Yield [start, stop) of each run of usable transitions, ending after every terminal."""
    for start, stop in usable_runs(usable):
        ends = start + 1 + np.flatnonzero(terminals[start:stop])
        bounds = [start, *ends.tolist(), stop]
        for begin, end in pairwise(bounds):
            if end > begin:
                yield begin, end


def _outside_limits(robot: Robot, decoded: BagSeries) -> int:
    outside = 0
    for term in robot.action:
        low, high = np.array(term.limits).T
        values = decoded.series[term.name].values
        outside += int(((values < low) | (values > high)).any(axis=1).sum())
    return outside


def _duration(stamps: NDArray[np.int64]) -> float:
    return float(stamps[-1] - stamps[0]) / 1e9 if len(stamps) else 0.0


def _skipped(bag: Bag, missing: list[str]) -> BagReport:
    note = f"skipped: no topic {', '.join(missing)}"
    return BagReport(bag.name, bag.digest(), 0.0, 0, 0, 0, 0, {}, 0, [], [*bag.notes, note])


def _require_elsewhere(missing: list[str], paths: list[Path], first: Bag) -> None:
    """Raise InputError with the nearest name for a topic that no bag has."""
    present: set[str] = set()
    for path in paths:
        with Bag(path) as bag:
            present |= set(bag.topics)
    for topic in missing:
        if topic not in present:
            where = first.name if len(paths) == 1 else f"any of the {len(paths)} bags"
            raise InputError(f"{topic}: no such topic in {where}.{nearest(topic, present)}")


def _require_transitions(reports: list[BagReport]) -> None:
    if any(report.transitions for report in reports):
        return
    reasons: Counter[str] = Counter()
    for report in reports:
        reasons.update(report.dropped)
        reasons.update(report.notes)
    found = "; ".join(f"{reason} ({count})" for reason, count in reasons.most_common(5))
    raise InputError(f"no transition in {len(reports)} bags: {found or 'they hold no messages'}")


def _metadata(
    robot: Robot, reports: list[BagReport], definitions: dict[str, str], default: Typestore
) -> dict[str, Any]:
    """Return what the dataset file carries beside its rows."""
    needed = sorted(set(robot.topics().values()))
    absent = [name for name in needed if name not in definitions and name in default.fielddefs]
    texts = definitions | definition_texts(default, absent)
    store = from_texts(texts, "dataset")
    return {
        "report": [report.as_dict() for report in reports],
        "definitions": texts,
        "definition_hashes": definition_hashes(store, texts),
        "observation_names": observation_names(robot),
        "action_names": action_names(robot),
    }
