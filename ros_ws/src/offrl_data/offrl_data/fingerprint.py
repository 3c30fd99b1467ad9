"""The identity of a bag's files, taken from the bytes that are read of them anyway."""

from collections.abc import Sequence
from pathlib import Path

import xxhash

_PIECE = 1 << 20  # [bytes]


class Fingerprint:
    """XXH3 of files one after another, as `cat FILES | xxh128sum` prints it.

    A reader that shows what it reads, roughly from front to back, saves reading it again. What it
    leaves out is read here; what it shows out of turn is not needed.
    """

    def __init__(self, files: Sequence[Path]) -> None:
        self._waiting = list(files)
        self._hash = xxhash.xxh3_128()
        self._at = 0
        """What is hashed of the first file that waits [bytes]."""

    def saw(self, file: Path, offset: int, data: bytes) -> None:
        """Take bytes that were read of a file from an offset on."""
        if file not in self._waiting:
            return
        while self._waiting[0] != file:
            self._finish()
        if offset > self._at:
            self._read(offset - self._at)
        new = memoryview(data)[max(0, self._at - offset) :]
        self._hash.update(new)
        self._at += len(new)

    def digest(self) -> str:
        """Return the hash of all files (32 hex digits)."""
        while self._waiting:
            self._finish()
        return self._hash.hexdigest()

    def _finish(self) -> None:
        self._read()
        self._waiting.pop(0)
        self._at = 0

    def _read(self, size: int | None = None) -> None:
        """Hash the next bytes of the first file, by default all that are left."""
        buffer = memoryview(bytearray(_PIECE if size is None else min(size, _PIECE)))
        with self._waiting[0].open("rb", buffering=0) as stream:
            stream.seek(self._at)
            left = size
            while count := stream.readinto(buffer if left is None else buffer[:left]):
                self._hash.update(buffer[:count])
                self._at += count
                left = None if left is None else left - count
