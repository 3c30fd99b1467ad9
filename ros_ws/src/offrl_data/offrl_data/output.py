"""What a command writes must be none of what it reads, and is best refused before the work."""

import os
from collections.abc import Iterable
from pathlib import Path
from tempfile import TemporaryFile

from offrl_contract import InputError


def require_other(out: Path, read: Iterable[Path]) -> None:
    """Raise InputError where `out` is one of the files to read."""
    if out.resolve() in {path.resolve() for path in read}:
        raise InputError(f"--out {out}: is a file to read")


def require_writable(out: Path, read: Iterable[Path]) -> None:
    """Make the folder of a file that is to be written.

    Raises InputError where it could not be written, is a folder, or one of the files to read.
    """
    if os.path.isdir(out):
        raise InputError(f"--out {out}: is a folder. Name the file to write.")
    require_other(out, read)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with TemporaryFile(dir=out.parent):
            pass
    except OSError as error:
        raise InputError(f"--out {out}: cannot be written: {error.strerror}") from error
