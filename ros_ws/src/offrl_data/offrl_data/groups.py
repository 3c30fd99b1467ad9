"""Messages of one topic in groups of equal layout, whose fields are columns; others alone."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from offrl_contract.field_plan import FieldPlan, Layout, UnplannableError
from offrl_contract.reader import MalformedMessageError, Message, MessageReader
from rosbags.typesys.store import Typestore

from offrl_data.bags import Topic
from offrl_data.storage.base import Batch

_LAYOUTS = 64
"""Layouts tried per batch; messages of yet another one take the general path."""
_KEPT = 256
"""Layouts remembered from batch to batch."""

Rows = NDArray[np.int64]


class Columns(NamedTuple):
    """The fields of messages of one layout."""

    values: dict[str, NDArray[np.float64]]
    """(n, count) by path."""
    texts: Mapping[str, Sequence[str]]
    """Strings that they share, by path."""


@dataclass(frozen=True)
class Group:
    """Messages that are read together."""

    rows: Rows
    """(n,) of the batch."""
    columns: Columns | None
    """None for one that took the general path."""
    message: Message | None
    """The deserialised one; None where it is malformed, or there are columns."""


class GroupReader:
    """Splits batches into groups."""

    def __init__(self, topic: Topic, paths: set[str], same: set[str], store: Typestore) -> None:
        """Plan for number fields `paths` and for strings `same` that a group shares."""
        self.general = MessageReader(topic.type_name, store, topic.wire)
        self._plan = FieldPlan(topic.type_name, paths, same, store, topic.wire == "cdr")
        self._layouts: dict[int, Layout] = {}

    def read(self, batch: Batch) -> Iterator[Group]:
        """Yield all messages of a batch in groups."""
        left = np.arange(len(batch.starts))
        for _ in range(_LAYOUTS):
            if not len(left):
                break
            group = self._first(batch, left)
            yield group
            left = np.setdiff1d(left, group.rows, True) if len(group.rows) < len(left) else left[:0]
        for row in left.tolist():
            yield self._alone(batch, row)

    def _first(self, batch: Batch, left: Rows) -> Group:
        """Return all messages that are laid out as the first of `left`."""
        first, size = int(left[0]), int(batch.sizes[left[0]])
        try:
            layout = self._layout_of(batch, first)
        except UnplannableError:
            return self._alone(batch, first)
        same = left[batch.sizes[left] == size]
        rows = same[layout.matches(batch.buffer, batch.starts[same])]
        values = layout.columns(batch.buffer, batch.starts[rows])
        return Group(rows, Columns(values, layout.texts), None)

    def _layout_of(self, batch: Batch, row: int) -> Layout:
        """Return the layout of a message: the last one of its size if it fits.

        Raises UnplannableError.
        """
        size = int(batch.sizes[row])
        known = self._layouts.get(size)
        if known is None or not known.matches(batch.buffer, batch.starts[row : row + 1])[0]:
            known = self._plan.layout(np.frombuffer(batch.message(row), np.uint8))
            if len(self._layouts) > _KEPT:
                self._layouts.clear()
            self._layouts[size] = known
        return known

    def _alone(self, batch: Batch, row: int) -> Group:
        try:
            message = self.general.read(batch.message(row))
        except MalformedMessageError:
            message = None
        return Group(np.array([row]), None, message)
