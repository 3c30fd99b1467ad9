"""The folder of finished bags beside a dataset, which --resume goes on with."""

import fcntl
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import h5py
from offrl_contract import InputError

_LOCK = "lock"
_KEPT = "--resume keeps the bags that are done."


@contextmanager
def parts_folder(out: Path, resume: bool) -> Iterator[Path]:
    """Hold the folder of finished bags beside `out`.

    It stays if the conversion is interrupted, or fails when a bag is done that has rows.
    """
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
        except InputError as error:
            if any(map(_has_rows, folder.glob("*.h5"))):
                raise InputError(f"{error}\n{_KEPT}") from error
            shutil.rmtree(folder)
            raise
        except OSError as error:
            raise InputError(f"{out}: cannot be written: {error}\n{_KEPT}") from error
        shutil.rmtree(folder)


def _has_rows(part: Path) -> bool:
    with h5py.File(part) as file:
        return len(file["rewards"]) > 0


def _empty(folder: Path) -> None:
    """Remove the files of an earlier conversion, but not the lock."""
    for file in folder.iterdir():
        if file.name != _LOCK:
            file.unlink()
