"""What a command writes must be none of what it reads, and is best refused before the work."""

import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from tempfile import TemporaryFile

from offrl_contract import InputError

DATASET = (".h5", ".hdf5")
"""By these suffixes, `offrl inspect` and `offrl report` know a dataset."""


def require_other(out: Path, read: Iterable[Path]) -> None:
    """Raise InputError where `out` is one of the files to read."""
    if out.resolve() in {path.resolve() for path in read}:
        raise InputError(f"--out {out}: is a file to read")


def require_writable(out: Path, read: Iterable[Path], suffixes: Sequence[str] = ()) -> None:
    """Make the folder of a file that is to be written.

    Raises InputError where it could not be written, is a folder, one of the files to read, or has
    none of the suffixes, if there are any.
    """
    if os.path.isdir(out):
        raise InputError(f"--out {out}: is a folder. Name the file to write.")
    require_other(out, read)
    if suffixes and out.suffix not in suffixes:
        raise InputError(f"--out {out}: must end in {' or '.join(suffixes)}")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with TemporaryFile(dir=out.parent):
            pass
    except OSError as error:
        raise InputError(f"--out {out}: cannot be written: {error.strerror}") from error
