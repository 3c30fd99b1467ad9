"""The live end of the contract: messages are pushed as they arrive, a tick reads them.

A tick runs the very functions of `sampling` on the few samples that it needs, so that a robot and a
bag give the same rows. Nothing is decoded before a tick asks for it: under a flood of messages only
the newest is.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from rosbags.typesys.store import Typestore

from offrl_contract.buffers import Buffer, Entry, Payload
from offrl_contract.errors import InputError
from offrl_contract.frames import NO_TREE, Tree
from offrl_contract.reader import MalformedMessageError, Message, MessageReader, TermReader
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
    Sample,
    Series,
    nanoseconds,
    observation_vector,
    sample_actions,
    sample_observation,
    sample_term,
)
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


class Live:
    """Holds the latest messages of a robot's topics and gives the observation at a tick."""

    def __init__(self, robot: Robot, store: Typestore, signals: bool = False) -> None:
        """Compile the readers. Raises InputError where a field is not in its definition."""
        self.robot = robot
        wanted = [term for term in robot.read_terms() if signals or not isinstance(term, Signal)]
        self._terms: dict[str, ObservationTerm | Signal | ActionTerm] = {
            term.name: term for term in (*wanted, *robot.action)
        }
        self._readers = {name: TermReader(term, store) for name, term in self._terms.items()}
        self._messages = {
            topic: MessageReader(type_name, store)
            for topic, type_name in robot.topics(signals).items()
        }
        for reader in self._messages.values():  # so that the first tick is no slower
            reader.prepare()
        framed = any(map(self._frame, self._terms))
        self._transforms = LiveTransforms(store) if framed else None
        self._keys = {name: self._key(term) for name, term in self._terms.items()}
        self._check_headers()
        self._observed = [term.name for term in robot.observation if term.source != "action"]
        if len(self._observed) < len(robot.observation):
            self._observed += [term.name for term in robot.action]
        longest = max((term.history for term in robot.observation), default=1)
        self._window = (longest + 1) * robot.period
        self.reset()

    def reset(self) -> None:
        """Forget everything but static transforms, as after a jump of the clock."""
        if self._transforms:
            self._transforms.reset()
        self._buffers: dict[tuple[str, Clock], Buffer[Payload]] = {
            key: Buffer() for key in self._keys.values()
        }

    @property
    def buffered(self) -> int:
        """Messages held now, over all topics."""
        return sum(len(buffer.entries) for buffer in self._buffers.values())

    def reader(self, name: str) -> TermReader:
        """Return the compiled reader of a term."""
        return self._readers[name]

    def push(
        self, topic: str, stamp: int, content: bytes | Message, published: int | None = None
    ) -> None:
        """Take a message, as CDR bytes or deserialised, received at `stamp` [ns].

        `published` [ns] is when it was sent: at once, where it is not given. Raises
        MalformedMessageError where a header clock is asked for and the bytes are too short, and for
        a message of /tf or /tf_static that cannot be decoded.
        """
        if self._transforms and topic in TRANSFORM_TOPICS:
            message = self._message(topic, content)
            self._transforms.push(topic, stamp, message, self._window)
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
        series = {name: self._series(name, tick) for name in self._observed}
        terms = sample_observation(self.robot, series, ticks, self._tree(tick))
        faults = tuple(
            self._fault(name, each, tick) for name, each in terms.items() if each.faults[0]
        )
        return Observation(observation_vector(terms)[0], terms, faults)

    def actions(self, tick: int) -> Sample:
        """Return the command in force at a tick [ns], (1, a)."""
        series = {term.name: self._series(term.name, tick) for term in self.robot.action}
        return sample_actions(self.robot, series, np.array([tick], dtype=np.int64))

    def signals(self, tick: int) -> dict[str, Sample]:
        """Return each signal at a tick [ns]."""
        ticks = np.array([tick], dtype=np.int64)
        tree = self._tree(tick)
        return {
            term.name: sample_term(
                self.robot, term, {term.name: self._series(term.name, tick)}, ticks, tree
            )
            for term in self.robot.signals
        }

    def _key(self, term: ObservationTerm | Signal | ActionTerm) -> tuple[str, Clock]:
        """Commands are timed by reception: they take effect when they arrive."""
        clock = "receive" if isinstance(term, ActionTerm) else self.robot.clock_of(term)
        return term.topic, clock

    def _check_headers(self) -> None:
        for name, (topic, clock) in self._keys.items():
            if clock == "header" and not self._messages[topic].has_header:
                raise InputError(
                    f"term '{name}': clock: header, but {self._messages[topic].type_name} "
                    "does not begin with a header. Use clock: receive."
                )

    def _header_stamp(self, topic: str, content: bytes | Message) -> int:
        if isinstance(content, (bytes, memoryview)):
            return self._messages[topic].header_stamp(content)
        return int(content.header.stamp.sec) * 10**9 + int(content.header.stamp.nanosec)

    def _message(self, topic: str, content: bytes | Message) -> Message:
        raw = isinstance(content, (bytes, memoryview))
        return self._messages[topic].read(content) if raw else content

    def _steps(self, tick: int) -> list[int]:
        """Return the ticks that a term's history can look back to [ns]."""
        back = range(self._window // self.robot.period)
        return [tick - step * self.robot.period for step in back]

    def _tree(self, tick: int) -> Tree:
        return self._transforms.tree(self._steps(tick)) if self._transforms else NO_TREE

    def _series(self, name: str, tick: int) -> Series:
        """Decode just the samples of a term that the tick, with its history, can pick."""
        topic, clock = self._keys[name]
        chosen = self._buffers[topic, clock].needed(self._steps(tick))
        values = np.full((len(chosen), self._readers[name].width), np.nan)
        for row, entry in enumerate(chosen):
            values[row] = self._decode(name, topic, entry.payload)
        stamps = np.array([entry.stamp for entry in chosen], dtype=np.int64)
        received = None
        if clock != "receive":
            received = np.array([entry.received for entry in chosen], dtype=np.int64)
        framed = self._readers[name].framed
        frames = np.array([entry.payload.frame for entry in chosen], np.str_) if framed else None
        return Series(stamps, values, received, frames)

    def _decode(self, name: str, topic: str, payload: Payload) -> NDArray[np.float64]:
        reader = self._readers[name]
        if name not in payload.values:
            try:
                payload.content = self._message(topic, payload.content)
                payload.values[name] = reader.values(payload.content)
                if reader.framed:
                    payload.frame = reader.frame_id(reader.texts(payload.content))
            except MalformedMessageError as error:
                payload.problems[name] = str(error)
                payload.values[name] = np.full(reader.width, np.nan)
        return payload.values[name]

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
        bad = np.flatnonzero(~np.isfinite(at_tick.values[0]))
        return TermFault(name, kind, self._problem(name, tick) or f"{name}_{bad[0]}: not finite")

    def _problem(self, name: str, tick: int) -> str:
        """Return why the latest unusable message of a term's history is so; "" for its values."""
        if name not in self._keys:
            return ""
        term = self._terms[name]
        history = term.history if isinstance(term, ObservationTerm) else 1
        held = self._buffers[self._keys[name]].needed(self._steps(tick)[:history])
        problems = (entry.payload.problems.get(name) for entry in reversed(held))
        return next(filter(None, problems), "")

    def _usable_pose(self, name: str, tick: int) -> Entry[Payload] | None:
        """Return the message of a term with `frame`, unless it is too old itself."""
        term = self._terms.get(name)
        if not isinstance(term, Term) or not self._frame(name):
            return None
        held = self._buffers[self._keys[name]].newest(tick)
        return held if held and tick - held.stamp <= nanoseconds(term.max_age) else None

    def _frame(self, name: str) -> str:
        """Return the frame in which a term is expressed; "" for most terms."""
        term = self._terms.get(name)
        return term.frame if isinstance(term, Term) else ""
