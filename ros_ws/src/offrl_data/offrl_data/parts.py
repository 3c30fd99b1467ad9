"""The folder of finished bags beside a dataset, which --resume goes on with."""

import fcntl
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from offrl_contract import InputError

_LOCK = "lock"


@contextmanager
def parts_folder(out: Path, resume: bool) -> Iterator[Path]:
    """Hold the folder of finished bags beside `out`; it stays if the conversion is interrupted."""
    folder = out.with_name(f".{out.name}.parts")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = (folder / _LOCK).open("w")
    except OSError as error:
        raise InputError(f"{out}: cannot be written: {error}") from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise InputError(f"{out}: another conversion writes it now") from error
        try:
            if not resume:
                _empty(folder)
            yield folder
        except InputError:
            shutil.rmtree(folder)
            raise
        except OSError as error:
            raise InputError(
                f"{out}: cannot be written: {error}. --resume keeps the bags that are done."
            ) from error
        shutil.rmtree(folder)


def _empty(folder: Path) -> None:
    """Remove the files of an earlier conversion, but not the lock."""
    for file in folder.iterdir():
        if file.name != _LOCK:
            file.unlink()
