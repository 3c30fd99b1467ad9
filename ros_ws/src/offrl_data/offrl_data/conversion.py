"""Bags to a dataset: each bag becomes a part, in a process of its own if asked; then they join."""

import json
import os
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from offrl_contract import InputError, Robot, __version__
from offrl_contract.counts import ValueCounts
from offrl_contract.definitions import definition_hashes, definition_texts
from offrl_contract.errors import nearest
from offrl_contract.sampling import action_names, observation_names

from offrl_data.bags import CLOCK_TOPIC, Bag, files_of, name_of
from offrl_data.dataset_writer import DatasetWriter, describe
from offrl_data.episodes import cut_episodes, on_ticks
from offrl_data.image_file import ImageFile
from offrl_data.message_definitions import MessageDefinitions
from offrl_data.output import DATASET, require_writable
from offrl_data.parts import parts_folder
from offrl_data.processes import in_processes
from offrl_data.series import BagSeries, TopicReport, all_topics, read_series
from offrl_data.sim_time import read_sim_time


@dataclass(frozen=True)
class BagReport:
    """What became of one bag."""

    bag: str
    xxh128: str
    """Identity of its storage files (`Bag.digest`)."""
    seconds: float
    ticks: int
    transitions: int
    episodes: int
    terminals: int
    dropped: dict[str, int]
    """Ticks that begin no transition, by their first reason."""
    clipped_commands: int
    """Commands in force at a tick that are outside the robot file's limits, clipped to them."""
    topics: list[TopicReport]
    notes: list[str]
    """What is odd and cost nothing."""
    losses: list[str]
    """What could not be read."""
    lost: int
    """Messages known to be lost."""

    def as_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return asdict(self)


def _ignore(_: float) -> None:
    """Take progress that nobody looks at."""


def convert_bags(
    paths: list[Path],
    robot: Robot,
    out: Path,
    definitions: MessageDefinitions | None = None,
    *,
    jobs: int = 1,
    strict: bool = False,
    resume: bool = False,
    sim_time: bool = False,
    advance: Callable[[float], None] = _ignore,
) -> list[BagReport]:
    """Convert bags into one dataset file, which appears only when all of them are done.

    The rows do not depend on `jobs`. A bag that cannot be opened, or lacks a topic, is left out
    with a word in the report; `strict` refuses it, and every loss. An interrupted conversion leaves
    its finished bags beside `out`, for `resume`. With `sim_time`, /clock times everything, as in a
    node with use_sim_time. Calls `advance` with the fraction of a bag done.

    Raises InputError for a topic that every bag lacks, definitions that differ between bags, a
    dataset without transitions, an `out` that belongs to a bag, and a term with
    `clock: publish` beside `sim_time`.
    """
    timed = [term.name for term in robot.read_terms() if robot.clock_of(term) == "publish"]
    if sim_time and timed:
        raise InputError(
            f"--sim-time: term '{timed[0]}' has clock: publish, which {CLOCK_TOPIC} does not "
            "count. Allowed: receive, header."
        )
    require_writable(out, (file for path in paths for file in files_of(path)), DATASET)
    task = _Task(robot, definitions or MessageDefinitions(), strict, sim_time)
    with parts_folder(out, resume) as folder:
        parts = [folder / f"{task.key(path)}.h5" for path in paths]
        reports = _convert_all(task, paths, parts, jobs, advance)
        _require_transitions(reports)
        whole = folder / "whole.h5"
        texts, hashes = _definitions(parts, reports)
        metadata = _metadata(robot, reports, texts, hashes, task.definitions)
        if len(parts) == 1:  # its rows are not copied once more
            os.replace(parts[0], whole)
            describe(whole, metadata)
        else:
            with DatasetWriter(whole, robot) as writer:
                for part in parts:
                    with h5py.File(part) as file:
                        writer.append_file(file)
                writer.finish(metadata)
        os.replace(whole, out)
    return reports


@dataclass(frozen=True)
class _Task:
    """What a process has to know to convert a bag."""

    robot: Robot
    definitions: MessageDefinitions
    strict: bool
    sim_time: bool

    def key(self, path: Path) -> str:
        """Return the identity of a bag as it lies there and of how it is converted."""
        files = sorted(path.iterdir()) if path.is_dir() else [path]
        found = [(file.name, file.stat()) for file in files if file.exists()]
        states = [(name, state.st_size, state.st_mtime_ns) for name, state in found]
        about = (str(path.absolute()), states, self._settings)
        return sha256(repr(about).encode()).hexdigest()[:16]

    @cached_property
    def _settings(self) -> str:
        """Changes with all that decides, beside the bag, what becomes of it."""
        robot = (self.robot.digest(), self.robot.python_sources())
        settings = (self.definitions.identity, self.strict, self.sim_time, __version__)
        return sha256(repr((robot, settings)).encode()).hexdigest()

    def run(self, path: Path, part: Path, advance: Callable[[float], None]) -> BagReport:
        """Convert one bag to a part; one that cannot be used becomes an empty part."""
        with DatasetWriter(part, self.robot) as writer, ExitStack() as stack:
            try:
                bag = stack.enter_context(Bag(path))
                notes = self._follow_clock(bag) if self.sim_time else []
            except InputError as error:
                if self.strict:
                    raise
                report, decoded = _skipped(name_of(path), "", [], [str(error)]), None
            else:
                about = (self.robot, self.definitions, writer, part)
                report, decoded = _convert_bag(bag, *about, advance)
                report.notes[:0] = notes
                if self.strict and report.losses:
                    raise InputError(f"{path}: --strict: {'; '.join(report.losses)}")
            found = (decoded.definitions, decoded.hashes) if decoded else ({}, {})
            read = {"definitions": found[0], "definition_hashes": found[1]}
            writer.finish({"report": report.as_dict(), **read})
        return report

    def _follow_clock(self, bag: Bag) -> list[str]:
        """Time a bag by /clock; return a note about it. Raises InputError."""
        clock = read_sim_time(bag, self.definitions)
        bag.follow(clock.at)
        return [clock.summary]


def _convert_bag(
    bag: Bag,
    robot: Robot,
    definitions: MessageDefinitions,
    writer: DatasetWriter,
    part: Path,
    advance: Callable[[float], None],
) -> tuple[BagReport, BagSeries | None]:
    """Convert one bag. Raises InputError as `read_series` does."""
    missing = [topic for topic in all_topics(robot) if topic not in bag.topics]
    if missing:
        notes = [*bag.notes, f"skipped: no topic {', '.join(missing)}"]
        return _skipped(bag.name, bag.digest(), notes, bag.losses.lines), None
    total = sum(max(0, bag.topics[topic].promised) for topic in all_topics(robot))
    decoded = read_series(bag, robot, definitions, lambda n: advance(n / total if total else 0.0))
    ticks = on_ticks(robot, decoded)
    with ImageFile(robot.images, part) as images:
        images.read(bag, ticks, definitions, all_topics(robot))
        cut = cut_episodes(robot, ticks, bag.name)
        for episode, (first, last) in zip(cut.episodes, cut.spans, strict=True):
            writer.append(episode)
            for image in robot.images:
                for column, pixels in images.columns(image, ticks, first, last):
                    writer.append_images(column, pixels)
    losses = bag.losses
    stamps = decoded.stamps
    report = BagReport(
        bag=bag.name,
        xxh128=bag.digest(),
        seconds=float(stamps[-1] - stamps[0]) / 1e9 if len(stamps) else 0.0,
        ticks=len(ticks.times) + ticks.paused,
        transitions=writer.transitions,
        episodes=len(cut.episodes),
        terminals=sum(episode.terminal for episode in cut.episodes),
        dropped=dict(cut.dropped.most_common()),
        clipped_commands=_outside_limits(robot, decoded),
        topics=decoded.topics,
        notes=[*bag.notes, *decoded.remarks, *_logged_ranges(robot, decoded)],
        losses=losses.lines,
        lost=losses.messages,
    )
    return report, decoded


def _convert_all(
    task: _Task, paths: list[Path], parts: list[Path], jobs: int, advance: Callable[[float], None]
) -> list[BagReport]:
    """Convert every bag whose part is not there yet; return all reports in the order of paths."""
    todo = [index for index, part in enumerate(parts) if not part.exists()]
    advance(float(len(parts) - len(todo)))
    lacking = _LackingTopics(task, paths)
    if jobs == 1 or len(todo) < 2:
        for index in todo:
            lacking.check(task.run(paths[index], parts[index], advance))
    else:
        arguments = [(paths[index], parts[index], _ignore) for index in todo]
        for report in in_processes(task.run, arguments, jobs):
            lacking.check(report)
            advance(1.0)
    return [_report_of(part) for part in parts]


def _definitions(
    parts: list[Path], reports: list[BagReport]
) -> tuple[dict[str, str], dict[str, str]]:
    """Return definition texts and hashes by type.

    Raises InputError where those of two bags differ.
    """
    texts: dict[str, str] = {}
    hashes: dict[str, tuple[str, str]] = {}
    for part, report in zip(parts, reports, strict=True):
        with h5py.File(part) as file:
            attributes = file["metadata"].attrs
            for type_name, found in json.loads(attributes["definition_hashes"]).items():
                before = hashes.setdefault(type_name, (found, report.bag))
                if before[0] != found:
                    raise InputError(
                        f"{report.bag}: {type_name} is defined otherwise than in {before[1]}"
                    )
            texts = json.loads(attributes["definitions"]) | texts
    return texts, {type_name: found for type_name, (found, _) in hashes.items()}


def _report_of(part: Path) -> BagReport:
    with h5py.File(part) as file:
        report = json.loads(file["metadata"].attrs["report"])
    topics = [TopicReport(**topic) for topic in report.pop("topics")]
    for topic in topics:  # of a part that an earlier version began, too
        topic.values.update({k: asdict(ValueCounts(**v)) for k, v in topic.values.items()})
    return BagReport(topics=topics, **report)


def _outside_limits(robot: Robot, decoded: BagSeries) -> int:
    outside = 0
    for term in robot.action:
        low, high = np.array(term.limits).T
        values = decoded.series[term.name].values
        outside += int(((values < low) | (values > high)).any(axis=1).sum())
    return outside


def _logged_ranges(robot: Robot, decoded: BagSeries) -> list[str]:
    """Return a sentence for each entry of a command that leaves its limits: how far it went."""
    said = []
    for term in robot.action:
        for field, (low, high), all_values in zip(
            term.field, term.limits, decoded.series[term.name].values.T, strict=True
        ):
            values = all_values[np.isfinite(all_values)]
            if len(values) and (values.min() < low or values.max() > high):
                said.append(
                    f"{term.name}.{field}: logged from {values.min():.3g} to {values.max():.3g}, "
                    f"limits {low:g} to {high:g}"
                )
    return said


def _skipped(name: str, digest: str, notes: list[str], losses: list[str]) -> BagReport:
    return BagReport(name, digest, 0.0, 0, 0, 0, 0, {}, 0, [], notes, losses, 0)


class _LackingTopics:
    """Refuses a topic that no bag has, as soon as the first bag lacks it."""

    def __init__(self, task: _Task, paths: list[Path]) -> None:
        self._robot = task.robot
        self._paths = paths
        self._checked = False

    def check(self, report: BagReport) -> None:
        """Raise InputError with the nearest name for a topic that no bag has."""
        if self._checked or not any(note.startswith("skipped: no topic") for note in report.notes):
            return
        self._checked = True
        present: set[str] = set()
        for path in self._paths:
            try:
                with Bag(path) as bag:
                    present |= set(bag.topics)
            except InputError:
                continue
        for topic in all_topics(self._robot):
            if topic not in present:
                count = len(self._paths)
                where = report.bag if count == 1 else f"any of the {count} bags"
                raise InputError(f"{topic}: no such topic in {where}.{nearest(topic, present)}")


def _require_transitions(reports: list[BagReport]) -> None:
    if any(report.transitions for report in reports):
        return
    reasons: Counter[str] = Counter()
    for report in reports:
        reasons.update(report.dropped)
        reasons.update(report.losses)
        reasons.update(report.notes)
        reasons.update(f"no message on {t.topic}" for t in report.topics if not t.messages)
    found = "; ".join(f"{reason} ({count})" for reason, count in reasons.most_common(5))
    raise InputError(f"no transition in {len(reports)} bags: {found or 'they hold no messages'}")


def _metadata(
    robot: Robot,
    reports: list[BagReport],
    texts: dict[str, str],
    hashes: dict[str, str],
    definitions: MessageDefinitions,
) -> dict[str, Any]:
    """Return what the dataset file carries beside its rows."""
    absent = set(robot.topics().values()) - set(texts)
    if absent:
        default = definitions.ros2
        known = absent & set(default.fielddefs)
        texts |= definition_texts(default, known)
        hashes |= definition_hashes(default, known)
    return {
        "report": [report.as_dict() for report in reports],
        "definitions": texts,
        "definition_hashes": hashes,
        "observation_names": observation_names(robot),
        "action_names": action_names(robot),
    }
