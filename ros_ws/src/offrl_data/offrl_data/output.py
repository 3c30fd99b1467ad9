"""What a command writes must be none of what it reads."""

from collections.abc import Iterable
from pathlib import Path

from offrl_contract import InputError


def require_other(out: Path, read: Iterable[Path]) -> None:
    """Raise InputError where `out` is one of the files to read."""
    if out.resolve() in {path.resolve() for path in read}:
        raise InputError(f"--out {out}: is a file to read")
