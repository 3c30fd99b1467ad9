"""Columns of a dataset, in memory or in its file, read piece by piece."""

from collections.abc import Iterable, Iterator
from hashlib import sha256
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

_BYTES_PER_PIECE = 1 << 22


class Column(Protocol):
    """Rows of numbers: an array, or one in a file that reads the rows which are asked for."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Return (N, …)."""
        ...

    def __len__(self) -> int: ...

    def __getitem__(self, rows: slice, /) -> NDArray[Any]: ...


def pieces(column: Column) -> Iterator[NDArray[Any]]:
    """Yield a column piece by piece, each of a few megabytes at most."""
    step = rows_per_piece(column)
    for at in range(0, len(column), step):
        yield column[at : at + step]


def rows_per_piece(column: Column) -> int:
    """Return how many rows of a column make up a few megabytes."""
    return max(1, _BYTES_PER_PIECE // (4 * int(np.prod(column.shape[1:], dtype=np.int64))))


def first_not_finite(column: Column) -> tuple[str, int]:
    """Return the place of the first value that is not finite, such as "3, 0", and their count."""
    first, count, before = "", 0, 0
    for piece in pieces(column):
        bad = np.argwhere(~np.isfinite(piece))
        if len(bad) and not count:
            first = ", ".join(map(str, (before + bad[0][0], *bad[0][1:])))
        count += len(bad)
        before += len(piece)
    return first, count


def content_digest(columns: Iterable[Column]) -> str:
    """Return the identity of columns in their order (16 hex digits)."""
    content = sha256()
    for column in columns:
        for piece in pieces(column):
            content.update(np.ascontiguousarray(piece).tobytes())
    return content.hexdigest()[:16]
