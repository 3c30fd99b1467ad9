"""The fields of messages of one type: sliced out by a layout that is known, or the general way."""

from collections.abc import Collection, Sequence
from typing import Protocol

import numpy as np
from rosbags.typesys.store import Typestore

from offrl_contract.field_plan import FieldPlan, Fields, Layout, UnplannableError
from offrl_contract.reader import Message, MessageReader, Wire

_KEPT = 256
"""Layouts remembered, by the size of their messages."""


class Picker(Protocol):
    """What knows its fields: a reader of a term, or of transforms."""

    @property
    def paths(self) -> Sequence[str]:
        """Number fields that it reads."""
        ...

    @property
    def same(self) -> Sequence[str]:
        """Text fields that messages of one layout share."""
        ...

    def fields(self, message: Message) -> Fields:
        """Pick them from a message."""
        ...


class FieldReader:
    """Reads what some readers want out of messages, from a bag or from a live topic."""

    def __init__(
        self, type_name: str, readers: Collection[Picker], store: Typestore, wire: Wire = "cdr"
    ) -> None:
        self.general = MessageReader(type_name, store, wire)
        self._readers = readers
        paths = {path for reader in readers for path in reader.paths}
        same = {path for reader in readers for path in reader.same}
        self._plan = FieldPlan(type_name, paths, same, store, wire == "cdr")
        self._layouts: dict[int, Layout] = {}

    def layout(self, raw: bytes | memoryview) -> Layout:
        """Return the layout of a message: the last one of its size if it fits.

        Raises UnplannableError.
        """
        known = self._layouts.get(len(raw))
        if known is None or not known.fits(raw):
            known = self._plan.layout(np.frombuffer(raw, np.uint8))
            if len(self._layouts) > _KEPT:
                self._layouts.clear()
            self._layouts[len(raw)] = known
        return known

    def read(self, content: bytes | memoryview | Message) -> Fields:
        """Return the fields of one message (1, count), in bytes or deserialised.

        Raises MalformedMessageError.
        """
        if not isinstance(content, (bytes, memoryview)):
            return self._pick(content)
        try:
            return self.layout(content).read(content)
        except UnplannableError:
            return self.read_generally(content)

    def read_generally(self, raw: bytes | memoryview) -> Fields:
        """Return the fields of one message by way of `rosbags`. Raises MalformedMessageError."""
        return self._pick(self.general.read(raw))

    def _pick(self, message: Message) -> Fields:
        picked = [reader.fields(message) for reader in self._readers]
        return Fields(
            {path: column for fields in picked for path, column in fields.columns.items()},
            {path: texts for fields in picked for path, texts in fields.texts.items()},
        )
