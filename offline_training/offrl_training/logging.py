"""Metrics of a run: `metrics.csv` and TensorBoard events."""

import csv
import io
import os
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Self

from torch.utils.tensorboard import SummaryWriter

from offrl_training.files import write_atomically


class MetricsLog:
    """Appends rows to both; rows after the step it starts from are cut from the CSV."""

    def __init__(self, run: Path, step: int) -> None:
        self._path = run / "metrics.csv"
        self._columns = _cut(self._path, step)
        self._file = self._path.open("a", newline="")
        self._writer = SummaryWriter(run / "tensorboard", purge_step=step + 1)

    def write(self, step: int, metrics: Mapping[str, float]) -> None:
        """Add one row. A metric that is new gets a column, empty in the rows before."""
        row = {"step": float(step), **metrics}
        new = [name for name in row if name not in self._columns]
        if new:
            self._columns += new
            self._file.close()
            _widen(self._path, self._columns)
            self._file = self._path.open("a", newline="")
        values = (f"{row[name]:.9g}" if name in row else "" for name in self._columns)
        csv.writer(self._file, lineterminator="\n").writerow(values)
        self._file.flush()
        for name, value in metrics.items():
            self._writer.add_scalar(name, value, step)

    def sync(self) -> None:
        """Bring the rows to disk, so that no checkpoint is ahead of them."""
        os.fsync(self._file.fileno())

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._file.close()
        self._writer.close()


def _widen(path: Path, columns: list[str]) -> None:
    """Rewrite a CSV with these columns, the first of which are those it has."""
    with path.open(newline="") as file:
        rows = list(csv.reader(file))[1:]
    content = io.StringIO()
    empty = [""] * len(columns)
    writer = csv.writer(content, lineterminator="\n")
    writer.writerows([columns, *(row + empty[len(row) :] for row in rows)])
    write_atomically(path, content.getvalue().encode())


def _cut(path: Path, step: int) -> list[str]:
    """Drop rows after the step, and a half-written last line; return the column names."""
    lines = path.read_text().splitlines(keepends=True) if path.is_file() else []
    whole = [line for line in lines if line.endswith("\n")]
    rows = [line for line in whole[1:] if int(line.split(",")[0]) <= step]
    kept = [*whole[:1], *rows] if rows else []
    write_atomically(path, "".join(kept).encode())
    return kept[0].strip().split(",") if kept else []
