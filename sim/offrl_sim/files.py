"""Files that are whole or absent."""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from offrl_contract import InputError


@contextmanager
def whole(file: Path) -> Iterator[Path]:
    """Give a name to write to; the file appears under its own only when it is whole.

    Raises InputError where it cannot be written.
    """
    # Its suffix tells ffmpeg the format. Not with_name, which a path like `.` does not have.
    beside = file.parent / f".{os.getpid()}.tmp.{file.name}"
    try:
        yield beside
        os.replace(beside, file)
    except OSError as error:
        raise InputError(f"{file}: cannot be written: {error.strerror}") from error
    finally:
        with suppress(OSError):  # a name that could not be written cannot be removed either
            beside.unlink(missing_ok=True)
