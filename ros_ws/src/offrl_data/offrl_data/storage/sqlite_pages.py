"""Rows of a SQLite table out of the pages of its file, as columns.

Ten times faster than a query per row, and pages that are damaged cost only their own rows. Source:
the SQLite file format, https://sqlite.org/fileformat2.html, sections 1.3, 1.6 and 2.1.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from offrl_data.storage.base import Bytes, Ints, rows_at

_MAGIC = b"SQLite format 3\x00"
_LEAF, _INTERIOR = 0x0D, 0x05
_DEEPEST = 20  # levels of a tree
_SLACK = 64  # behind the last page, where a damaged cell may read on [bytes]
_BYTES = 1 << 21  # of pages that are parsed at once
_LARGEST = 1 << 30  # of one row [bytes]
_WIDTHS = np.array([0, 1, 2, 3, 4, 6, 8, 8, 0, 0])  # of serial types 0 to 9 [bytes]
_BLOB = 12  # least serial type of a blob


class PagesError(ValueError):
    """A file whose pages cannot be read this way."""


@dataclass(frozen=True)
class PageRows:
    """Rows (key, integer, integer, blob) of some pages, in the order of their keys."""

    first: Ints
    """(n,) the first integer."""
    second: Ints
    """(n,) the second integer."""
    buffer: Bytes
    starts: Ints
    """(n,) where each blob begins in the buffer."""
    sizes: Ints
    """(n,) [bytes]"""
    damaged: int
    """Rows left out."""


class SqlitePages:
    """The pages of a SQLite file that nobody writes to."""

    def __init__(self, path: Path) -> None:
        """Open a file. Raises PagesError where its header is not that of SQLite."""
        self._file = path.open("rb", buffering=0)
        head = self._file.read(100)
        size = int.from_bytes(head[16:18], "big")
        self.size = 1 << 16 if size == 1 else size
        if head[:16] != _MAGIC or self.size < 512 or self.size & (self.size - 1):
            self._file.close()
            raise PagesError("no SQLite header")
        self._usable = self.size - head[20]
        self._count = path.stat().st_size // self.size

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def leaves(self, root: int) -> tuple[Ints, int]:
        """Return the leaf pages of a table in the order of its keys, and how many are lost.

        Raises PagesError where the root is no page of a table.
        """
        pages, lost = np.array([root], np.int64), 0
        for _ in range(_DEEPEST):
            kinds = np.array([self._kind(page) for page in pages[:1].tolist()])
            if not len(pages) or kinds[0] == _LEAF:
                return pages, lost
            children: list[Ints] = []
            for page in pages.tolist():
                found = self._children(page)
                lost += found is None
                children += [] if found is None else [found]
            if not children:
                raise PagesError(f"page {root} is not the root of a table")
            pages = np.concatenate(children)
            there = (pages > 0) & (pages <= self._count)
            lost += int((~there).sum())
            pages = pages[there]
            if len(np.unique(pages)) != len(pages):
                raise PagesError("pages of the table are in a circle")
        raise PagesError("the tree of the table is too deep")

    def rows(self, leaves: Ints) -> Iterator[PageRows]:
        """Yield the rows of leaf pages, many at a time."""
        at_once = max(1, _BYTES // self.size)
        for begin in range(0, len(leaves), at_once):
            pages = leaves[begin : begin + at_once]
            yield self._parse(np.frombuffer(self._read_pages(pages), np.uint8), pages)

    def _kind(self, page: int) -> int:
        head = self._read(page, 1)
        return head[100 if page == 1 else 0] if len(head) == self.size else 0

    def _children(self, page: int) -> Ints | None:
        """Return the child pages of an interior page; None where it is none."""
        content = self._read(page, 1)
        base = 100 if page == 1 else 0
        if len(content) < self.size or content[base] != _INTERIOR:
            return None
        count = int.from_bytes(content[base + 3 : base + 5], "big")
        if base + 12 + 2 * count > self.size:
            return None
        at = np.frombuffer(content, ">u2", count, base + 12).astype(np.int64)
        if count and at.max() + 4 > self.size:
            return None
        left = rows_at(np.frombuffer(content, np.uint8), at, 4).view(">u4")[:, 0]
        right = int.from_bytes(content[base + 8 : base + 12], "big")
        return np.append(left.astype(np.int64), right)

    def _parse(self, buffer: Bytes, pages: Ints) -> PageRows:
        """Parse the cells of leaf pages that lie one after another, section 1.6."""
        page, cell, damaged = self._cells(buffer, pages)
        size, at = _varint(buffer, cell)
        _, payload = _varint(buffer, at)
        width, at = _varint(buffer, payload)
        kinds = []
        for _ in range(4):  # of the key (NULL, it is the row id), two integers, a blob
            kind, at = _varint(buffer, np.minimum(at, len(buffer) - _SLACK))
            kinds.append(kind)
        fixed = width + _WIDTHS[np.clip(kinds[1], 0, 9)] + _WIDTHS[np.clip(kinds[2], 0, 9)]
        blob = (kinds[3] - _BLOB) // 2
        local = self._local(size)
        sound = (kinds[0] == 0) & (kinds[1] < 10) & (kinds[2] < 10) & (kinds[3] >= _BLOB)
        sound &= (kinds[3] % 2 == 0) & (size < _LARGEST) & (fixed + blob == size)
        sound &= (fixed <= local) & (payload + local <= page + self.size)
        damaged += int((~sound).sum())
        rows = np.flatnonzero(sound)
        body = (payload + width)[rows]
        first = _integers(buffer, body, kinds[1][rows])
        second = _integers(buffer, body + _WIDTHS[kinds[1][rows]], kinds[2][rows])
        starts, sizes, inside = (payload + fixed)[rows], blob[rows], (local - fixed)[rows]
        if (inside == sizes).all():
            return PageRows(first, second, buffer, starts, sizes, damaged)
        buffer, starts, whole = self._gather(buffer, starts, sizes, inside)
        damaged += int((~whole).sum())
        return PageRows(first[whole], second[whole], buffer, starts[whole], sizes[whole], damaged)

    def _cells(self, buffer: Bytes, pages: Ints) -> tuple[Ints, Ints, int]:
        """Return where the page of each cell begins, where the cell does, and how many are lost."""
        base = np.arange(len(pages)) * self.size
        head = base + np.where(pages == 1, 100, 0)
        counts = (buffer[head + 3].astype(np.int64) << 8) | buffer[head + 4]
        whole = (buffer[head] == _LEAF) & (head - base + 8 + 2 * counts <= self.size)
        counts = np.where(whole, counts, 0)
        page = np.repeat(base, counts)
        index = np.arange(len(page)) - np.repeat(np.cumsum(counts) - counts, counts)
        pointer = np.repeat(head, counts) + 8 + 2 * index
        offset = (buffer[pointer].astype(np.int64) << 8) | buffer[pointer + 1]
        there = offset < self.size
        lost = int((~whole).sum() + (~there).sum())
        return page[there], (page + offset)[there], lost

    def _gather(
        self, buffer: Bytes, starts: Ints, sizes: Ints, inside: Ints
    ) -> tuple[Bytes, Ints, NDArray[np.bool_]]:
        """Lay blobs that spill into other pages behind the buffer.

        `inside` (n,) is how much of each lies in its page [bytes]. Returns the buffer, the starts,
        and which blobs (n,) are whole.
        """
        whole = np.ones(len(starts), np.bool_)
        parts = [buffer.tobytes()]
        end = len(buffer)
        for row in np.flatnonzero(inside < sizes).tolist():
            cut = int(starts[row] + inside[row])
            link = int.from_bytes(buffer[cut : cut + 4].tobytes(), "big")
            more = self._chain(link, int(sizes[row] - inside[row]))
            if more is None:
                whole[row] = False
                continue
            parts += [buffer[starts[row] : cut].tobytes(), more]
            starts[row] = end
            end += int(sizes[row])
        return np.frombuffer(b"".join(parts), np.uint8), starts, whole

    def _local(self, size: Ints) -> Ints:
        """Return how much of a payload lies in its own page, section 1.6."""
        least = (self._usable - 12) * 32 // 255 - 23
        most = self._usable - 35
        spill = least + (size - least) % (self._usable - 4)
        return np.where(size <= most, size, np.where(spill <= most, spill, least))

    def _chain(self, page: int, size: int) -> bytes | None:
        """Return `size` bytes from a chain of overflow pages; None where it is broken."""
        each = self._usable - 4
        parts: list[bytes] = []
        while size > 0:
            if not 0 < page <= self._count:
                return None
            wanted = -(-size // each)  # pages mostly follow one another
            content = self._read(page, wanted)
            table = np.frombuffer(content, np.uint8, len(content) // self.size * self.size)
            table = table.reshape(-1, self.size)
            if not len(table):
                return None
            following = np.ascontiguousarray(table[:, :4]).view(">u4")[:, 0].astype(np.int64)
            steps = following[:-1] != np.arange(page + 1, page + len(table))
            run = int(np.argmax(steps)) + 1 if steps.any() else len(table)
            parts.append(table[:run, 4 : self._usable].tobytes())
            size -= len(parts[-1])
            page = int(following[run - 1])
        whole = b"".join(parts)
        return whole[: len(whole) + size]

    def _read_pages(self, pages: Ints) -> bytearray:
        """Return pages one after another, reading neighbours together."""
        buffer = bytearray(len(pages) * self.size + _SLACK)
        view = memoryview(buffer)
        breaks = np.flatnonzero(np.diff(pages) != 1) + 1
        bounds = [0, *breaks.tolist(), len(pages)]
        for begin, end in pairwise(bounds):
            if end > begin:
                self._file.seek((int(pages[begin]) - 1) * self.size)
                self._file.readinto(view[begin * self.size : end * self.size])
        return buffer

    def _read(self, page: int, count: int) -> bytes:
        self._file.seek((page - 1) * self.size)
        return self._file.read(count * self.size)


def _varint(buffer: Bytes, at: Ints) -> tuple[Ints, Ints]:
    """Return the variable-length integers at positions (n,), and where each ends."""
    value = np.zeros(len(at), np.int64)
    at = at.copy()
    open_ = np.ones(len(at), np.bool_)
    for step in range(9):
        byte = buffer[at].astype(np.int64)
        if step == 8:
            value = np.where(open_, (value << 8) | byte, value)
            return value, at + open_
        value = np.where(open_, (value << 7) | (byte & 0x7F), value)
        at += open_
        open_ &= byte >= 0x80
        if not open_.any():
            break
    return value, at


def _integers(buffer: Bytes, at: Ints, kinds: Ints) -> Ints:
    """Return the integers of serial types 0 to 9 at positions (n,)."""
    values = np.where(kinds == 9, 1, 0)
    for kind in np.unique(kinds).tolist():
        width = int(_WIDTHS[kind])
        if not width or kind == 7:
            continue
        mine = np.flatnonzero(kinds == kind)
        raw = rows_at(buffer, at[mine], width)
        wide = np.zeros((len(mine), 8), np.uint8)
        wide[:, 8 - width :] = raw
        wide[:, : 8 - width] = np.where(raw[:, :1] >= 0x80, 0xFF, 0)
        values[mine] = wide.view(">i8")[:, 0]
    return values
