"""The live end of the contract: messages are pushed as they arrive, a tick reads them.

A tick runs the very functions of `sampling` on the few samples that it needs, so that a robot and a
bag give the same rows. Nothing is decoded before a tick asks for it: under a flood of messages only
the newest is.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from rosbags.typesys.store import Typestore

from offrl_contract.buffers import Buffer, Entry, Payload
from offrl_contract.errors import InputError
from offrl_contract.field_plan import Fields
from offrl_contract.field_reader import FieldReader
from offrl_contract.frames import NO_TREE, Tree
from offrl_contract.reader import MalformedMessageError, Message, TermReader
from offrl_contract.robot import (
    CLOCKS,
    TRANSFORM_TOPICS,
    ActionTerm,
    Clock,
    ObservationTerm,
    Robot,
    Signal,
    Term,
)
from offrl_contract.sampling import (
    Fault,
    Floats,
    Held,
    Sample,
    Series,
    Times,
    nanoseconds,
    observation_vector,
    sample_actions,
    sample_observation,
    sample_term,
)
from offrl_contract.series import usable
from offrl_contract.tf import LiveTransforms


@dataclass(frozen=True)
class TermFault:
    """A term that is not usable now."""

    term: str
    kind: Fault
    text: str


@dataclass(frozen=True)
class Observation:
    """What a tick sees."""

    vector: NDArray[np.float32]
    """(o,), SI units."""
    terms: dict[str, Sample]
    """Each observation term at this tick (1, w)."""
    faults: tuple[TermFault, ...]
    """Empty where the vector may be used."""


class _LiveTerm:
    """The latest messages of a term."""

    def __init__(self, reader: TermReader, fields: FieldReader, buffer: Buffer[Payload]) -> None:
        self.reader = reader
        self.buffer = buffer
        self._fields = fields
        self._name = reader.term.name
        self._nothing = np.full(reader.width, np.nan)

    def hold(self, ticks: Times) -> tuple[Floats, Times]:
        """Return values (T, w) and ages (T,) [ns] at ticks, decoding just these messages."""
        times = ticks.tolist()
        held = [self.buffer.newest(tick) for tick in times]
        values = [self._decode(entry.payload) if entry else self._nothing for entry in held]
        ages = [t - entry.taken if entry else -1 for t, entry in zip(times, held, strict=True)]
        return np.array(values), np.array(ages)

    def poses(self, ticks: list[int]) -> Series:
        """Return the poses that ticks [ns] can pick, and the frame of each."""
        chosen = self.buffer.needed(ticks)
        values = np.full((len(chosen), self.reader.width), np.nan)
        for row, entry in enumerate(chosen):
            values[row] = self._decode(entry.payload)
        return Series(
            np.array([entry.stamp for entry in chosen], dtype=np.int64),
            values,
            np.array([entry.received for entry in chosen], dtype=np.int64),
            np.array([entry.payload.frame for entry in chosen], np.str_),
        )

    def _decode(self, payload: Payload) -> Floats:
        if self._name not in payload.values:
            try:
                if not isinstance(payload.content, Fields):
                    payload.content = self._fields.read(payload.content)
                payload.values[self._name] = self.reader.values(payload.content)
                payload.frame = self.reader.frame_id(payload.content) or payload.frame
            except MalformedMessageError as error:
                payload.problems[self._name] = str(error)
                payload.values[self._name] = self._nothing
        return payload.values[self._name]


class Live:
    """Holds the latest messages of a robot's topics and gives the observation at a tick."""

    def __init__(self, robot: Robot, store: Typestore, signals: bool = False) -> None:
        """Compile the readers. Raises InputError where a field is not in its definition."""
        self.robot = robot
        wanted = [term for term in robot.read_terms() if signals or not isinstance(term, Signal)]
        self._terms: dict[str, ObservationTerm | Signal | ActionTerm] = {
            term.name: term for term in (*wanted, *robot.action)
        }
        readers = {name: TermReader(term, store) for name, term in self._terms.items()}
        self._fields = {
            topic: FieldReader(
                type_name, [each for each in readers.values() if each.term.topic == topic], store
            )
            for topic, type_name in robot.topics(signals).items()
        }
        for fields in self._fields.values():  # so that the first tick is no slower
            fields.general.prepare()
        framed = any(map(self._frame, self._terms))
        self._transforms = LiveTransforms(store) if framed else None
        keys = {name: self._key(term) for name, term in self._terms.items()}
        self._check_headers(keys)
        self._buffers: dict[tuple[str, Clock], Buffer[Payload]] = {
            key: Buffer() for key in keys.values()
        }
        self._live = {
            name: _LiveTerm(readers[name], self._fields[key[0]], self._buffers[key])
            for name, key in keys.items()
        }
        self._observed = [term.name for term in robot.observation if term.source != "action"]
        if len(self._observed) < len(robot.observation):
            self._observed += [term.name for term in robot.action]
        longest = max((term.history for term in robot.observation), default=1)
        self._window = (longest + 1) * robot.period

    def reset(self) -> None:
        """Forget everything but static transforms, as after a jump of the clock."""
        if self._transforms:
            self._transforms.reset()
        for buffer in self._buffers.values():
            buffer.entries.clear()

    @property
    def buffered(self) -> int:
        """Messages held now, over all topics."""
        return sum(len(buffer.entries) for buffer in self._buffers.values())

    def reader(self, name: str) -> TermReader:
        """Return the compiled reader of a term."""
        return self._live[name].reader

    def push(
        self, topic: str, stamp: int, content: bytes | Message, published: int | None = None
    ) -> None:
        """Take a message, as CDR bytes or deserialised, received at `stamp` [ns].

        `published` [ns] is when it was sent: at once, where it is not given. Raises
        MalformedMessageError where a header clock is asked for and the bytes are too short, and for
        a message of /tf or /tf_static that cannot be decoded.
        """
        if self._transforms and topic in TRANSFORM_TOPICS:
            self._transforms.push(topic, stamp, content, self._window)
        payload = Payload(content)
        for clock in CLOCKS:
            buffer = self._buffers.get((topic, clock))
            if buffer is None:
                continue
            at = stamp
            if clock == "publish" and published is not None:
                at = published
            elif clock == "header":
                at = self._header_stamp(topic, content)
            buffer.push(Entry(at, stamp, payload), self._window)

    def observe(self, tick: int) -> Observation:
        """Return the observation at a tick [ns]."""
        ticks = np.array([tick], dtype=np.int64)
        series = self._held(self._observed, tick)
        terms = sample_observation(self.robot, series, ticks, self._tree(tick))
        faults = tuple(
            self._fault(name, each, tick) for name, each in terms.items() if each.faults[0]
        )
        return Observation(observation_vector(terms)[0], terms, faults)

    def taken(self, name: str, tick: int) -> int:
        """Return when the newest sample of a term was taken [ns]; it must have one at the tick."""
        entry = self._live[name].buffer.newest(tick)
        assert entry is not None
        return entry.taken

    def actions(self, tick: int) -> Sample:
        """Return the command in force at a tick [ns], (1, a)."""
        series = self._held([term.name for term in self.robot.action], tick)
        return sample_actions(self.robot, series, np.array([tick], dtype=np.int64))

    def signals(self, tick: int) -> dict[str, Sample]:
        """Return each signal at a tick [ns]."""
        ticks = np.array([tick], dtype=np.int64)
        tree = self._tree(tick)
        return {
            term.name: sample_term(self.robot, term, self._held([term.name], tick), ticks, tree)
            for term in self.robot.signals
        }

    def _key(self, term: ObservationTerm | Signal | ActionTerm) -> tuple[str, Clock]:
        """Commands are timed by reception: they take effect when they arrive."""
        clock = "receive" if isinstance(term, ActionTerm) else self.robot.clock_of(term)
        return term.topic, clock

    def _check_headers(self, keys: Mapping[str, tuple[str, Clock]]) -> None:
        for name, (topic, clock) in keys.items():
            if clock == "header" and not self._fields[topic].general.has_header:
                raise InputError(
                    f"term '{name}': clock: header, but {self._terms[name].type} "
                    "does not begin with a header. Use clock: receive."
                )

    def _header_stamp(self, topic: str, content: bytes | Message) -> int:
        if isinstance(content, (bytes, memoryview)):
            return self._fields[topic].general.header_stamp(content)
        return int(content.header.stamp.sec) * 10**9 + int(content.header.stamp.nanosec)

    def _steps(self, tick: int) -> list[int]:
        """Return the ticks that a term's history can look back to [ns]."""
        back = range(self._window // self.robot.period)
        return [tick - step * self.robot.period for step in back]

    def _tree(self, tick: int) -> Tree:
        return self._transforms.tree(self._steps(tick)) if self._transforms else NO_TREE

    def _held(self, names: list[str], tick: int) -> dict[str, Held]:
        """Return what holds the samples of terms; poses are those that the tick can pick."""
        steps = self._steps(tick) if self._transforms else []
        return {
            name: self._live[name].poses(steps) if self._frame(name) else self._live[name]
            for name in names
        }

    def _fault(self, name: str, at_tick: Sample, tick: int) -> TermFault:
        """Put a fault into words."""
        kind = Fault(at_tick.faults[0])
        pose = self._usable_pose(name, tick)  # where there is one, a transform is at fault
        if kind == Fault.MISSING:
            frames = f"from '{pose.payload.frame}' to '{self._frame(name)}'" if pose else ""
            what = f"transform {frames}" if pose else "message"
            return TermFault(name, kind, f"{name}: no {what} yet")
        if kind == Fault.STALE:
            what = f"{name}: transform" if pose else f"{name}:"
            return TermFault(name, kind, f"{what} {at_tick.ages[0] / 1e9:.2f} s old")
        bad = np.flatnonzero(~usable(at_tick.values[0]))
        which = f"{name}_{bad[0]}" if len(bad) else name  # commands are within their limits by now
        return TermFault(name, kind, self._problem(name, tick) or f"{which}: not finite")

    def _problem(self, name: str, tick: int) -> str:
        """Return why the latest unusable message of a term's history is so; "" for its values."""
        if name not in self._live:
            return ""
        term = self._terms[name]
        history = term.history if isinstance(term, ObservationTerm) else 1
        held = self._live[name].buffer.needed(self._steps(tick)[:history])
        problems = (entry.payload.problems.get(name) for entry in reversed(held))
        return next(filter(None, problems), "")

    def _usable_pose(self, name: str, tick: int) -> Entry[Payload] | None:
        """Return the message of a term with `frame`, unless it is too old itself."""
        term = self._terms.get(name)
        if not isinstance(term, Term) or not self._frame(name):
            return None
        held = self._live[name].buffer.newest(tick)
        return held if held and tick - held.taken <= nanoseconds(term.max_age) else None

    def _frame(self, name: str) -> str:
        """Return the frame in which a term is expressed; "" for most terms."""
        term = self._terms.get(name)
        return term.frame if isinstance(term, Term) else ""
