"""What a command writes must be none of what it reads."""

import os
from collections.abc import Iterable
from pathlib import Path

from offrl_contract import InputError


def require_other(out: Path, read: Iterable[Path]) -> None:
    """Raise InputError where `out` is one of the files to read."""
    if out.resolve() in {path.resolve() for path in read}:
        raise InputError(f"--out {out}: is a file to read")


def require_file(out: Path, read: Iterable[Path]) -> None:
    """Raise InputError where `out` is a folder, or one of the files to read."""
    if os.path.isdir(out):
        raise InputError(f"--out {out}: is a folder; a dataset is one file")
    require_other(out, read)
