"""Messages of one topic in groups of equal layout, whose fields are columns; others alone."""

from collections.abc import Collection, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from offrl_contract.field_plan import Fields, UnplannableError
from offrl_contract.field_reader import FieldReader, Picker
from offrl_contract.reader import MalformedMessageError
from rosbags.typesys.store import Typestore

from offrl_data.bags import Topic
from offrl_data.storage.base import Batch

_LAYOUTS = 64
"""Layouts tried per batch; messages of yet another one take the general path."""

Rows = NDArray[np.int64]


@dataclass(frozen=True)
class Group:
    """Messages that are read together."""

    rows: Rows
    """(n,) of the batch."""
    fields: Fields | None
    """None for one that cannot be deserialised."""


class GroupReader:
    """Splits batches into groups."""

    def __init__(self, topic: Topic, readers: Collection[Picker], store: Typestore) -> None:
        """Plan for what some readers want of the topic's messages."""
        self._fields = FieldReader(topic.type_name, readers, store, topic.wire)
        self.has_header = self._fields.general.has_header

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
            layout = self._fields.layout(batch.message(first))
        except UnplannableError:
            return self._alone(batch, first)
        same = left[batch.sizes[left] == size]
        rows = same[layout.matches(batch.buffer, batch.starts[same])]
        columns = layout.columns(batch.buffer, batch.starts[rows])
        return Group(rows, Fields(columns, layout.texts))

    def _alone(self, batch: Batch, row: int) -> Group:
        try:
            fields = self._fields.read_generally(batch.message(row))
        except MalformedMessageError:
            fields = None
        return Group(np.array([row]), fields)
