"""One bag's topics as time series of the robot file's terms."""

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from offrl_contract import InputError, Robot
from offrl_contract.definitions import definition_hashes, definition_texts
from offrl_contract.field_plan import FieldPlan, Layout, UnplannableError
from offrl_contract.reader import (
    MalformedMessageError,
    Message,
    MessageReader,
    TermReader,
    Wire,
)
from offrl_contract.robot import ActionTerm, ObservationTerm, Signal
from offrl_contract.sampling import Series
from rosbags.typesys.store import Typestore

from offrl_data.bags import Bag, Topic, longest_gap
from offrl_data.blocks import Block

MAX_CLOCK_OFFSET = 1.0
"""A header clock further from the receive clock than this is refused [s]."""

_STAMP = ("header.stamp.sec", "header.stamp.nanosec")
_LAYOUTS = 64
"""Layouts tried per block; messages of yet another one take the general path."""

Times = NDArray[np.int64]
Rows = NDArray[np.int64]
Floats = NDArray[np.float64]
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


class _Column:
    """One topic while it is read: stamps of its messages and values of its terms."""

    def __init__(
        self, topic: Topic, terms: dict[str, TermReader], store: Typestore, wire: Wire
    ) -> None:
        self.topic = topic
        self.terms = terms
        self.reader = MessageReader(topic.type_name, store, wire)
        self.malformed = 0
        wanted = {path for term in terms.values() for path in term.paths}
        same = {path for term in terms.values() for path in term.same}
        if self.reader.has_header:
            wanted |= set(_STAMP)
        self._plan = FieldPlan(topic.type_name, wanted, same, store, wire == "cdr")
        self._layouts: dict[int, tuple[Layout, Sequence[str]]] = {}
        self._received: list[Times] = []
        self._headers: list[Times] = []
        self._values: dict[str, list[Floats]] = {name: [] for name in terms}

    @property
    def received(self) -> Times:
        """Receive stamps (n,) [ns], in the order of the file."""
        return np.concatenate([np.zeros(0, np.int64), *self._received])

    @property
    def headers(self) -> Times:
        """Header stamps (n,) [ns]; the receive stamp where a message is malformed."""
        return np.concatenate([np.zeros(0, np.int64), *self._headers])

    def values(self, name: str) -> Floats:
        """Values (n, d) of a term; NaN where a message is malformed."""
        return np.concatenate([np.empty((0, self.terms[name].term.parts)), *self._values[name]])

    def take(self, block: Block) -> None:
        """Decode a block: messages of equal layout together, what is left one by one."""
        count = len(block.starts)
        headers = block.received.copy()
        values = {name: np.full((count, t.term.parts), np.nan) for name, t in self.terms.items()}
        into = _Decoded(headers, values)
        left = np.arange(count)
        for _ in range(_LAYOUTS):
            if not len(left):
                break
            left = self._take_layout(block, left, into)
        for row in left.tolist():
            self._take_one(block.message(row), row, into)
        self._received.append(block.received)
        self._headers.append(headers)
        for name, each in values.items():
            self._values[name].append(each)

    def _take_layout(self, block: Block, left: Rows, into: "_Decoded") -> Rows:
        """Decode all messages laid out as the first of `left`; return what is left then."""
        first, size = int(left[0]), int(block.sizes[left[0]])
        try:
            layout, names = self._layout_of(block, first)
        except UnplannableError:
            self._take_one(block.message(first), first, into)
            return left[1:]
        same = left[block.sizes[left] == size]
        rows = same[layout.matches(block.buffer, block.starts[same])]
        columns = layout.columns(block.buffer, block.starts[rows])
        if self.reader.has_header:
            seconds, fraction = (columns[path][:, 0].astype(np.int64) for path in _STAMP)
            into.headers[rows] = seconds * 1_000_000_000 + fraction
        bad = False
        for name, term in self.terms.items():
            try:
                into.put(name, rows, term, term.assemble(columns, names))
            except MalformedMessageError:
                bad = True
        self.malformed += len(rows) * bad
        return left[:0] if len(rows) == len(left) else np.setdiff1d(left, rows, assume_unique=True)

    def _layout_of(self, block: Block, row: int) -> tuple[Layout, Sequence[str]]:
        """Return the layout of a message and its joint names; the last of this size if it fits."""
        size = int(block.sizes[row])
        start = block.starts[row : row + 1]
        if size not in self._layouts or not self._layouts[size][0].matches(block.buffer, start)[0]:
            raw = block.message(row)
            layout = self._plan.layout(np.frombuffer(raw, np.uint8))
            selects = any(term.same for term in self.terms.values())
            self._layouts[size] = (layout, self.reader.read(raw).name if selects else ())
        return self._layouts[size]

    def _take_one(self, raw: bytes, row: int, into: "_Decoded") -> None:
        """Decode one message by the general path."""
        try:
            if self.reader.has_header:
                into.headers[row] = self.reader.header_stamp(raw)
            message: Message = self.reader.read(raw)
        except MalformedMessageError:
            self.malformed += 1
            return
        bad = False
        for name, term in self.terms.items():
            try:
                into.put(name, np.array([row]), term, term.extract(message)[None])
            except MalformedMessageError:
                bad = True
        self.malformed += bad


@dataclass(frozen=True)
class _Decoded:
    """What a block holds, filled in piece by piece."""

    headers: Times
    values: dict[str, Floats]

    def put(self, name: str, rows: Rows, term: TermReader, raw: Floats) -> None:
        """Set rows of a term; what cannot be transformed stays NaN, and no tick will use it."""
        with contextlib.suppress(MalformedMessageError):
            self.values[name][rows] = term.finish(raw)


def read_series(
    bag: Bag, robot: Robot, default: Typestore, advance: Callable[[int], None]
) -> BagSeries:
    """Decode the topics that a robot file needs. Calls `advance` with the messages read.

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
        columns[name] = _Column(topic, readers, store, bag.wire)
        if bag.wire == "cdr":
            definitions |= definition_texts(store, [type_name])
            hashes |= definition_hashes(store, [type_name])
    for name, block in bag.blocks([column.topic for column in columns.values()]):
        columns[name].take(block)
        advance(len(block.starts))
    series = {
        name: _series(robot, bag, column, name, reader)
        for column in columns.values()
        for name, reader in column.terms.items()
    }
    stamps = np.sort(np.concatenate([column.received for column in columns.values()]))
    reports = [_report(column) for column in columns.values()]
    return BagSeries(series, stamps, reports, definitions, hashes)


def _series(robot: Robot, bag: Bag, column: _Column, name: str, reader: TermReader) -> Series:
    term = reader.term
    if isinstance(term, ActionTerm) or robot.clock_of(term) == "receive":
        stamps = column.received
    else:
        stamps = _header_clock(bag, column, name)
    order = np.argsort(stamps, kind="stable")
    return Series(stamps[order], column.values(name)[order])


def _header_clock(bag: Bag, column: _Column, name: str) -> Times:
    """Return header stamps, refusing a clock that cannot time a policy."""
    where = f"{bag.name}: {column.topic.name}: term '{name}' asks for clock: header, but"
    remedy = "Use clock: receive."
    if not column.reader.has_header:
        raise InputError(f"{where} {column.topic.type_name} has no header. {remedy}")
    headers = column.headers
    if len(headers) < 2:
        return headers
    if (headers == headers[0]).all():
        raise InputError(f"{where} all {len(headers)} stamps are {headers[0] / 1e9:.3f}. {remedy}")
    backwards = int((np.diff(headers) < 0).sum())
    if backwards:
        raise InputError(f"{where} it goes backwards {backwards} times. {remedy}")
    offset = float(np.median(headers - column.received)) / 1e9
    if abs(offset) > MAX_CLOCK_OFFSET:
        raise InputError(f"{where} it is {offset:+.3f} s from the receive clock. {remedy}")
    return headers


def _report(column: _Column) -> TopicReport:
    stamps = np.sort(column.received)
    offset = None
    if column.reader.has_header and len(stamps):
        offset = float(np.median(column.headers - column.received)) / 1e9
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
