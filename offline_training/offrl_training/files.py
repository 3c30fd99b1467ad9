"""Files that are whole or absent."""

import os
from pathlib import Path
from tempfile import TemporaryFile

from offrl_contract import InputError


def require_writable(out: Path) -> None:
    """Make the folder of a file that is to be written after long work.

    Raises InputError where it could not be written.
    """
    if os.path.isdir(out):
        raise InputError(f"--out {out}: is a folder. Name the file to write.")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with TemporaryFile(dir=out.parent):
            pass
    except OSError as error:
        raise InputError(f"--out {out}: cannot be written: {error.strerror}") from error


def write_atomically(path: Path, content: bytes) -> None:
    """Write beside, flush to disk, take the final name."""
    beside = path.with_name(f".{path.name}.tmp")
    with beside.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    os.replace(beside, path)
