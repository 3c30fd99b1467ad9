"""One bag's topics as time series of the robot file's terms, read by the general path."""

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from offrl_contract import InputError, Robot
from offrl_contract.definitions import definition_hashes, definition_texts
from offrl_contract.reader import MalformedMessageError, Message, MessageReader, TermReader
from offrl_contract.robot import ActionTerm, ObservationTerm, Signal
from offrl_contract.sampling import Series
from rosbags.typesys.store import Typestore

from offrl_data.bags import Bag, Topic, longest_gap

MAX_CLOCK_OFFSET = 1.0
"""A header clock further from the receive clock than this is refused [s]."""

Times = NDArray[np.int64]
AnyTerm = ObservationTerm | Signal | ActionTerm


@dataclass(frozen=True)
class TopicReport:
    """What was found on one topic."""

    topic: str
    type_name: str
    messages: int
    rate: float
    """Median rate [Hz]."""
    longest_gap: float
    """[s]"""
    malformed: int
    """Messages that could not be read, or not as the robot file says."""
    header_offset: float | None
    """Median of header stamp minus receive stamp [s]; None without headers."""


@dataclass(frozen=True)
class BagSeries:
    """A bag, decoded."""

    series: dict[str, Series]
    """By term name."""
    stamps: Times
    """Receive stamps of all messages of these topics [ns], sorted."""
    topics: list[TopicReport]
    definitions: dict[str, str] = field(default_factory=dict)
    """Definition text by type, of a ROS 2 bag."""
    hashes: dict[str, str] = field(default_factory=dict)
    """RIHS01 hash by type, of a ROS 2 bag."""


@dataclass
class _Column:
    """What is gathered of one topic while reading."""

    topic: Topic
    reader: MessageReader
    terms: dict[str, TermReader]
    received: list[int] = field(default_factory=list)
    headers: list[int] = field(default_factory=list)
    raw: dict[str, list[NDArray[np.float64] | None]] = field(default_factory=dict)
    malformed: int = 0

    def take(self, stamp: int, raw: bytes) -> None:
        """Decode one message into each of the topic's terms; a malformed one leaves None."""
        self.received.append(stamp)
        message: Message = None
        try:
            self.headers.append(self.reader.header_stamp(raw) if self.reader.has_header else 0)
            message = self.reader.read(raw)
        except MalformedMessageError:
            self.headers += [stamp] * (len(self.received) - len(self.headers))
        bad = message is None
        for name, term in self.terms.items():
            value = None
            if message is not None:
                try:
                    value = term.extract(message)
                except MalformedMessageError:
                    bad = True
            self.raw.setdefault(name, []).append(value)
        self.malformed += bad


def read_series(
    bag: Bag, robot: Robot, default: Typestore, advance: Callable[[], None]
) -> BagSeries:
    """Decode the topics that a robot file needs. Calls `advance` once per message.

    Raises InputError for a missing topic, another type, an unknown field, an unusable clock.
    """
    columns: dict[str, _Column] = {}
    definitions: dict[str, str] = {}
    hashes: dict[str, str] = {}
    terms: list[AnyTerm] = [*robot.read_terms(), *robot.action]
    for name, type_name in robot.topics().items():
        topic = bag.topic(name, type_name)
        store = bag.definitions(topic, default)
        readers = {t.name: TermReader(t, store) for t in terms if t.topic == name}
        columns[name] = _Column(topic, MessageReader(type_name, store, bag.wire), readers)
        if bag.wire == "cdr":
            definitions |= definition_texts(store, [type_name])
            hashes |= definition_hashes(store, [type_name])
    for name, stamp, raw in bag.messages([column.topic for column in columns.values()]):
        columns[name].take(stamp, raw)
        advance()
    series = {
        name: _series(robot, bag, column, name, reader)
        for column in columns.values()
        for name, reader in column.terms.items()
    }
    stamps = np.sort(np.concatenate([np.array(c.received, np.int64) for c in columns.values()]))
    reports = [_report(column) for column in columns.values()]
    return BagSeries(series, stamps, reports, definitions, hashes)


def _series(robot: Robot, bag: Bag, column: _Column, name: str, reader: TermReader) -> Series:
    term = reader.term
    if isinstance(term, ActionTerm) or robot.clock_of(term) == "receive":
        stamps = np.array(column.received, np.int64)
    else:
        stamps = _header_clock(bag, column, name)
    order = np.argsort(stamps, kind="stable")
    return Series(stamps[order], _finish(reader, column.raw.get(name, []))[order])


def _finish(reader: TermReader, raw: list[NDArray[np.float64] | None]) -> NDArray[np.float64]:
    """Transform all messages of equal shape at once; what is malformed stays NaN."""
    values = np.full((len(raw), reader.term.parts), np.nan)
    groups: dict[tuple[int, ...], list[int]] = {}
    for index, each in enumerate(raw):
        if each is not None:
            groups.setdefault(each.shape, []).append(index)
    for rows in groups.values():
        try:
            values[rows] = reader.finish(
                np.stack([each for i in rows if (each := raw[i]) is not None])
            )
        except MalformedMessageError:
            continue  # counted as not finite where a tick needs it
    return values


def _header_clock(bag: Bag, column: _Column, name: str) -> Times:
    """Return header stamps, refusing a clock that cannot time a policy."""
    where = f"{bag.name}: {column.topic.name}: term '{name}' asks for clock: header, but"
    remedy = "Use clock: receive."
    if not column.reader.has_header:
        raise InputError(f"{where} {column.topic.type_name} has no header. {remedy}")
    headers = np.array(column.headers, np.int64)
    if len(headers) < 2:
        return headers
    if (headers == headers[0]).all():
        raise InputError(f"{where} all {len(headers)} stamps are {headers[0] / 1e9:.3f}. {remedy}")
    backwards = int((np.diff(headers) < 0).sum())
    if backwards:
        raise InputError(f"{where} it goes backwards {backwards} times. {remedy}")
    offset = float(np.median(headers - np.array(column.received, np.int64))) / 1e9
    if abs(offset) > MAX_CLOCK_OFFSET:
        raise InputError(f"{where} it is {offset:+.3f} s from the receive clock. {remedy}")
    return headers


def _report(column: _Column) -> TopicReport:
    stamps = np.array(column.received, np.int64)
    offset = None
    if column.reader.has_header and len(stamps):
        offset = float(np.median(np.array(column.headers, np.int64) - stamps)) / 1e9
    spacing = float(np.median(np.diff(stamps))) / 1e9 if len(stamps) > 1 else 0.0
    return TopicReport(
        topic=column.topic.name,
        type_name=column.topic.type_name,
        messages=len(stamps),
        rate=1.0 / spacing if spacing else 0.0,
        longest_gap=longest_gap(stamps),
        malformed=column.malformed,
        header_offset=offset,
    )
