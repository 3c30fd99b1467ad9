"""Arrays that grow by rows, without a second copy when they are done."""

from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray


class Growing:
    """An array (n, ...) that rows are added to; its spare room is never touched."""

    def __init__(self, width: int | None, kind: DTypeLike) -> None:
        """Make an array of numbers (n,), or of rows (n, width)."""
        shape = () if width is None else (width,)
        self._array: NDArray[Any] = np.empty((0, *shape), kind)
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def extend(self, rows: NDArray[Any]) -> None:
        """Add rows."""
        end = self._count + len(rows)
        if end > len(self._array):
            capacity = max(end, len(self._array) * 3 // 2)
            self._array.resize((capacity, *self._array.shape[1:]), refcheck=False)
        self._array[self._count : end] = rows
        self._count = end

    def take(self) -> NDArray[Any]:
        """Return the rows; the array is empty then."""
        found = self._array
        found.resize((self._count, *found.shape[1:]), refcheck=False)
        self._array, self._count = np.empty((0, *found.shape[1:]), found.dtype), 0
        return found

    @property
    def view(self) -> NDArray[Any]:
        """The rows so far."""
        return self._array[: self._count]
