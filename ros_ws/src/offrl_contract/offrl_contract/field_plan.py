"""Batch path: the fields of many messages at once, sliced out of their bytes as columns.

Where every string and sequence has the same length in two messages, every field has the same
offset. A plan walks one message, the template, and notes the offsets of the wanted fields and the
length words that it met. Messages of the same size whose length words are the template's are sliced
together; the words are compared, never assumed.

A path may lead through arrays of structures: `transforms[].transform.translation.x` names one field
in each entry, and its slots are `transforms[0].transform.translation.x` and so on.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from rosbags.interfaces import Nodetype
from rosbags.typesys.store import Typestore

Bytes = NDArray[np.uint8]
Starts = NDArray[np.int64]
Array = NDArray[np.float64]

_LONGEST_WALK = 4096  # structures or strings in one sequence; longer ones take the general path
_CDR_HEADER = 4  # bytes, the second of which says the byte order
_NARROW = 256  # bytes up to which an array counts as small
_BYTES = {"bool": "uint8", "byte": "uint8", "char": "uint8"}
_PADDING = 3  # bytes that a middleware may add to the end


class UnplannableError(ValueError):
    """A message that the walk cannot follow: malformed, or too involved."""


@dataclass(frozen=True)
class Slot:
    """Where one wanted field is, from the start of a message."""

    offset: int
    count: int
    dtype: np.dtype[Any]

    @property
    def width(self) -> int:
        """Size [bytes]."""
        return self.count * self.dtype.itemsize

    @cached_property
    def large(self) -> bool:
        """Whether it stays in single precision until it is reduced."""
        return self.width > _NARROW and self.dtype == np.float32


class Fields(NamedTuple):
    """The wanted fields of T messages of one layout."""

    columns: Mapping[str, Array]
    """(T, count) by path; where T is 1, large arrays may be views."""
    texts: Mapping[str, Sequence[str]]
    """Strings that the messages share, by path."""


class Layout:
    """Where things are in messages like the template."""

    def __init__(
        self,
        slots: Mapping[str, Slot],
        guards: list[tuple[int, bytes]],
        texts: Mapping[str, Sequence[str]],
    ) -> None:
        """Take where the wanted fields are, and what a message must share with the template."""
        self.slots = slots
        self.texts = texts
        """Strings that all these messages share, by path as asked for, in order."""
        ends = [at + len(content) for at, content in guards]
        ends += [slot.offset + slot.width for slot in slots.values()]
        self._width = max(ends, default=0)
        self._guards = [(at, at + len(content), content) for at, content in _merged(guards)]
        self._words = [word for at, _, content in self._guards for word in _words(at, content)]

    def fits(self, message: bytes | memoryview) -> bool:
        """Whether a message has the template's layout, given that it has its size."""
        return all(message[begin:end] == content for begin, end, content in self._guards)

    def read(self, message: bytes | memoryview) -> Fields:
        """Return the wanted fields of one message that fits."""
        columns: dict[str, Array] = {}
        with np.errstate(invalid="ignore"):
            for path, slot in self.slots.items():
                values = np.frombuffer(message, slot.dtype, slot.count, slot.offset)
                columns[path] = (values if slot.large else values.astype(np.float64)).reshape(1, -1)
        return Fields(columns, self.texts)

    def matches(self, buffer: Bytes, starts: Starts) -> NDArray[np.bool_]:
        """Whether the messages that start there have the template's layout (n,)."""
        fits = np.ones(len(starts), np.bool_)
        rows = _rows(buffer, starts, self._width)
        for at, word in self._words:
            fits &= rows[:, at : at + word.itemsize].view(word.dtype)[:, 0] == word
        return fits

    def columns(self, buffer: Bytes, starts: Starts) -> dict[str, Array]:
        """Return the values (n, count) of each wanted field; large arrays may be views."""
        rows = _rows(buffer, starts, self._width)
        columns: dict[str, Array] = {}
        for path, slot in self.slots.items():
            if slot.width == 0:
                columns[path] = np.empty((len(starts), 0))
                continue
            values = rows[:, slot.offset : slot.offset + slot.width].view(slot.dtype)
            if slot.large:
                columns[path] = values
                continue
            with np.errstate(invalid="ignore"):  # a signalling NaN is a NaN
                columns[path] = values.astype(np.float64)
        return columns


def _rows(buffer: Bytes, starts: Starts, width: int) -> Bytes:
    """Return `width` bytes from each start (n, width), a view where these are evenly spaced."""
    steps = np.diff(starts)
    if len(steps) and steps[0] > 0 and (steps == steps[0]).all():
        first, step = int(starts[0]), int(steps[0])
        shape = (len(starts), width)
        if first >= 0 and int(starts[-1]) + width <= len(buffer):
            return np.ndarray(shape, np.uint8, buffer, first, (step, 1))
    return gathered(buffer, starts, width)


def gathered(buffer: Bytes, starts: Starts, width: int) -> Bytes:
    """Return a copy of `width` bytes from each start (n, width), all of them inside the buffer."""
    if not width:
        return np.empty((len(starts), 0), np.uint8)
    # one item per row: numpy copies an item at once, a row of items item by item
    items = np.ndarray(len(buffer) - width + 1, f"V{width}", buffer, strides=(1,))  # all overlap
    return items[starts].view(np.uint8).reshape(len(starts), width)


def _merged(pieces: Iterable[tuple[int, bytes]]) -> list[tuple[int, bytes]]:
    """Join pieces (offset, content) of a message that follow one another."""
    merged: list[tuple[int, bytes]] = []
    for at, content in pieces:
        if merged and merged[-1][0] + len(merged[-1][1]) == at:
            at, content = merged[-1][0], merged.pop()[1] + content
        merged.append((at, content))
    return merged


def _words(at: int, content: bytes) -> Iterator[tuple[int, np.unsignedinteger[Any]]]:
    """Split a piece into words of 8, 4, 2 and 1 bytes, each compared over all messages at once."""
    done = 0
    for size in (8, 4, 2, 1):
        while len(content) - done >= size:
            yield at + done, np.frombuffer(content, f"u{size}", 1, done)[0]
            done += size


class FieldPlan:
    """Finds the wanted fields of one message type in bytes."""

    def __init__(
        self,
        type_name: str,
        wanted: Iterable[str],
        same: Iterable[str],
        store: Typestore,
        cdr: bool,
    ) -> None:
        """Plan for number fields `wanted`; the strings of `same` have to be the template's."""
        self._type = type_name
        self._wanted = frozenset(wanted)
        self._same = frozenset(same)
        self._store = store
        self._cdr = cdr

    def layout(self, message: Bytes) -> Layout:
        """Walk one message. Raises UnplannableError."""
        if len(message) < _CDR_HEADER * self._cdr:
            raise UnplannableError(f"has {len(message)} bytes")
        walk = _Walk(message, self._cdr, self._wanted, self._same, self._store)
        try:
            walk.structure(self._type, "", "")
        except (IndexError, ValueError) as error:
            raise UnplannableError(str(error)) from error
        if len(message) - walk.position > _PADDING * self._cdr:
            raise UnplannableError(f"ends at byte {walk.position} of {len(message)}")
        return Layout(walk.slots, walk.guards, walk.texts)


class _Walk:
    """One pass over a message, field by field."""

    def __init__(
        self,
        message: Bytes,
        cdr: bool,
        wanted: frozenset[str],
        same: frozenset[str],
        store: Typestore,
    ) -> None:
        self._message = message
        self._cdr = cdr
        self._wanted = wanted
        self._same = same
        self._definitions = store.fielddefs
        self._base = _CDR_HEADER * cdr
        little = not cdr or bool(message[1] & 1)
        self._order = "<" if little else ">"
        self.position = self._base
        self.slots: dict[str, Slot] = {}
        self.guards: list[tuple[int, bytes]] = []
        self.texts: dict[str, list[str]] = {path: [] for path in same}
        if cdr:
            self._guard(0, 2)

    def structure(self, type_name: str, path: str, key: str) -> None:
        """Walk the fields of a structure: `path` as it is asked for, `key` with the entries."""
        for name, kind in self._definitions[type_name][1]:
            self._field(kind, f"{path}.{name}" if path else name, f"{key}.{name}" if key else name)

    def _field(self, kind: Any, path: str, key: str) -> None:
        tag, what = kind
        if tag == Nodetype.NAME:
            self.structure(what, path, key)
        elif tag == Nodetype.BASE:
            self._one(what[0], path, key)
        else:
            inner, length = what
            count = length if tag == Nodetype.ARRAY else self._length_word()
            self._many(inner, count, path, key)

    def _one(self, name: str, path: str, key: str) -> None:
        if name == "string":
            self._string(path)
        else:
            self._numbers(name, 1, path, key)

    def _many(self, inner: Any, count: int, path: str, key: str) -> None:
        tag, what = inner
        if tag == Nodetype.BASE and what[0] != "string":
            self._numbers(what[0], count, path, key)
            return
        if count > _LONGEST_WALK:
            raise ValueError(f"{path} has {count} entries")
        for index in range(count):
            if tag == Nodetype.BASE:
                self._string(path)
            else:
                self.structure(what, f"{path}[]", f"{key}[{index}]")

    def _string(self, path: str) -> None:
        length = self._length_word()
        begin = self.position
        self._skip(length)
        if path in self._same:
            end = self.position - (self._cdr and length > 0)  # CDR counts the closing zero
            self.texts[path].append(self._guard(begin, end).decode())

    def _numbers(self, name: str, count: int, path: str, key: str) -> None:
        kind = _BYTES.get(name, name)
        if name == "byte" and not self._cdr:
            kind = "int8"  # ROS 1 has it signed
        dtype = np.dtype(f"{self._order}{np.dtype(kind).str[1:]}")
        if count:
            self._align(dtype.itemsize)
        if path in self._wanted:
            self.slots[key] = Slot(self.position, count, dtype)
        self._skip(count * dtype.itemsize)

    def _length_word(self) -> int:
        self._align(4)
        self._skip(4)
        word = self._guard(self.position - 4, self.position)
        return int.from_bytes(word, "little" if self._order == "<" else "big")

    def _guard(self, begin: int, end: int) -> bytes:
        content = self._message[begin:end].tobytes()
        if content:
            self.guards.append((begin, content))
        return content

    def _align(self, size: int) -> None:
        if self._cdr:
            self.position += -(self.position - self._base) % size

    def _skip(self, size: int) -> None:
        self.position += size
        if self.position > len(self._message):
            raise ValueError(f"has {len(self._message)} bytes, {self.position} are needed")
