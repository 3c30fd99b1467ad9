"""The verb `report`: a dataset or a policy file as one web page."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import entry_points
from pathlib import Path
from typing import Annotated

import tyro
from offrl_contract import InputError
from offrl_contract.errors import nearest
from rich.console import Console

from offrl_data.dataset import load_dataset
from offrl_data.report_page import write_page

GROUP = "offrl.reporters"
"""Entry points by suffix, so that each package shows its own files."""
SUFFIXES = (".html", ".htm")


@dataclass(frozen=True)
class ReportConfig:
    """Show a dataset or a policy file as one web page that needs no network."""

    file: Annotated[Path, tyro.conf.Positional]
    """Dataset (.h5) or policy file (.onnx)."""
    out: Path | None = None
    """Page to write (.html); beside the file and named like it where not given."""
    study: Path | None = None
    """Of a policy file: what benchmarks/gate.py found about its gate (.json), to be shown, too."""


def report(argv: list[str]) -> None:
    """Run `offrl report`. Raises InputError."""
    config = tyro.cli(ReportConfig, prog="offrl report", args=argv)
    out = config.out or config.file.with_suffix(".html")
    if out.suffix not in SUFFIXES:
        raise InputError(f"{out}: the page must end in {' or '.join(SUFFIXES)}")
    if out.resolve() == config.file.resolve():
        raise InputError(f"{out}: the page would replace the file")
    reporters = {point.name: point for point in entry_points(group=GROUP)}
    kind = config.file.suffix.removeprefix(".")
    if not os.path.exists(config.file):
        raise InputError(f"{config.file}: no such file")
    if kind not in reporters:
        raise InputError(
            f"{config.file}: nothing here shows '{config.file.suffix}'.{nearest(kind, reporters)}"
        )
    try:
        write: Callable[[Path, Path, Path | None], int] = reporters[kind].load()
    except ModuleNotFoundError as error:
        raise InputError(
            f"offrl report: needs the Python package '{error.name}', which is not installed. "
            "Install the extra that has it: pip install 'offrl[all]'"
        ) from error
    size = write(config.file, out, config.study)
    Console(highlight=False, soft_wrap=True).print(f"{out}: {size / 1e6:.1f} MB, for any browser")


def report_dataset(path: Path, out: Path, study: Path | None) -> int:
    """Write the page of a dataset; return its size in bytes. Raises InputError."""
    if study is not None:
        raise InputError(f"--study {study}: only a policy file has one")
    return write_page(load_dataset(path), path.name, out)
