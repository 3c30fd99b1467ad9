"""Values of terms out of batches of messages: equal layouts together, what is left one by one."""

import contextlib
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from offrl_contract.field_plan import FieldPlan, Layout, UnplannableError
from offrl_contract.reader import MalformedMessageError, Message, MessageReader, TermReader
from rosbags.typesys.store import Typestore

from offrl_data.bags import Topic
from offrl_data.storage.base import Batch, rows_at

_LAYOUTS = 64
"""Layouts tried per batch; messages of yet another one take the general path."""
_KEPT = 256
"""Layouts remembered from batch to batch."""
_STAMP_AT = 4  # after the CDR header, or after the sequence number of ROS 1 [bytes]
_STAMP_END = 12

Times = NDArray[np.int64]
Rows = NDArray[np.int64]
Floats = NDArray[np.float64]


class Decoder:
    """Decodes the messages of one topic into the values of its terms."""

    def __init__(self, topic: Topic, terms: Mapping[str, TermReader], store: Typestore) -> None:
        """Plan the reading of terms by name."""
        self.topic = topic.name
        self.type_name = topic.type_name
        self.terms = terms
        self.malformed = 0
        self.wire = topic.wire
        self._reader = MessageReader(topic.type_name, store, self.wire)
        self.has_header = self._reader.has_header
        wanted = {path for term in terms.values() for path in term.paths}
        same = {path for term in terms.values() for path in term.same}
        self._plan = FieldPlan(topic.type_name, wanted, same, store, self.wire == "cdr")
        self._layouts: dict[int, tuple[Layout, Sequence[str]]] = {}

    def header_stamps(self, batch: Batch, otherwise: Times) -> Times:
        """Return header stamps (n,) [ns]; `otherwise` where there is none or the bytes end."""
        stamps = otherwise.copy()
        if not self.has_header:
            return stamps
        whole = np.flatnonzero(batch.sizes >= _STAMP_END)
        if not len(whole):
            return stamps
        heads = rows_at(batch.buffer, batch.starts[whole], _STAMP_END)
        words = np.ascontiguousarray(heads[:, _STAMP_AT:])
        if self.wire == "ros1":
            stamps[whole] = _nanoseconds(words, "<u4")
            return stamps
        little = (heads[:, 1] & 1).astype(np.bool_)
        stamps[whole] = np.where(little, _nanoseconds(words, "<i4"), _nanoseconds(words, ">i4"))
        return stamps

    def decode(self, batch: Batch) -> dict[str, Floats]:
        """Return the values (n, parts) of each term; NaN where a message is malformed."""
        count = len(batch.starts)
        values = {name: np.full((count, t.term.parts), np.nan) for name, t in self.terms.items()}
        left = np.arange(count)
        for _ in range(_LAYOUTS):
            if not len(left):
                break
            left = self._take_layout(batch, left, values)
        for row in left.tolist():
            self._take_one(batch.message(row), row, values)
        return values

    def _take_layout(self, batch: Batch, left: Rows, values: dict[str, Floats]) -> Rows:
        """Decode all messages laid out as the first of `left`; return what is left then."""
        first, size = int(left[0]), int(batch.sizes[left[0]])
        try:
            layout, names = self._layout_of(batch, first)
        except UnplannableError:
            self._take_one(batch.message(first), first, values)
            return left[1:]
        same = left[batch.sizes[left] == size]
        rows = same[layout.matches(batch.buffer, batch.starts[same])]
        columns = layout.columns(batch.buffer, batch.starts[rows])
        bad = False
        for name, term in self.terms.items():
            try:
                _put(values[name], rows, term, term.assemble(columns, names))
            except MalformedMessageError:
                bad = True
        self.malformed += len(rows) * bad
        return left[:0] if len(rows) == len(left) else np.setdiff1d(left, rows, assume_unique=True)

    def _layout_of(self, batch: Batch, row: int) -> tuple[Layout, Sequence[str]]:
        """Return the layout of a message and its joint names; the last of this size if it fits.

        Raises UnplannableError.
        """
        size = int(batch.sizes[row])
        start = batch.starts[row : row + 1]
        if size not in self._layouts or not self._layouts[size][0].matches(batch.buffer, start)[0]:
            raw = batch.message(row)
            layout = self._plan.layout(np.frombuffer(raw, np.uint8))
            names: Sequence[str] = ()
            if any(term.same for term in self.terms.values()):
                try:
                    names = self._reader.read(raw).name
                except MalformedMessageError as error:
                    raise UnplannableError(str(error)) from error
            if len(self._layouts) > _KEPT:
                self._layouts.clear()
            self._layouts[size] = (layout, names)
        return self._layouts[size]

    def _take_one(self, raw: bytes, row: int, values: dict[str, Floats]) -> None:
        """Decode one message by the general path."""
        try:
            message: Message = self._reader.read(raw)
        except MalformedMessageError:
            self.malformed += 1
            return
        bad = False
        for name, term in self.terms.items():
            try:
                _put(values[name], np.array([row]), term, term.extract(message)[None])
            except MalformedMessageError:
                bad = True
        self.malformed += bad


def _put(values: Floats, rows: Rows, term: TermReader, raw: Floats) -> None:
    """Set rows of a term; what cannot be transformed stays NaN, and no tick will use it."""
    with contextlib.suppress(MalformedMessageError):
        values[rows] = term.finish(raw)


def _nanoseconds(words: NDArray[np.uint8], seconds: str) -> Times:
    """Read (n, 8) bytes as seconds and nanoseconds."""
    order = seconds[0]
    whole = words[:, :4].copy().view(seconds)[:, 0].astype(np.int64)
    fraction = words[:, 4:].copy().view(f"{order}u4")[:, 0].astype(np.int64)
    return whole * 1_000_000_000 + fraction
