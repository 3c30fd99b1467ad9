"""The verb `report`: a dataset as one web page."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro
from offrl_contract import InputError
from rich.console import Console

from offrl_data.dataset import load_dataset
from offrl_data.report_page import write_page

SUFFIXES = (".html", ".htm")


@dataclass(frozen=True)
class ReportConfig:
    """Show a dataset as one web page that needs no network."""

    data: Annotated[Path, tyro.conf.Positional]
    """Dataset file (.h5)."""
    out: Path | None = None
    """Page to write (.html); beside the dataset and named like it where not given."""


def report(argv: list[str]) -> None:
    """Run `offrl report`. Raises InputError."""
    config = tyro.cli(ReportConfig, prog="offrl report", args=argv)
    out = config.out or config.data.with_suffix(".html")
    if out.suffix not in SUFFIXES:
        raise InputError(f"{out}: the page must end in {' or '.join(SUFFIXES)}")
    if out.resolve() == config.data.resolve():
        raise InputError(f"{out}: the page would replace the dataset")
    dataset = load_dataset(config.data)
    size = write_page(dataset, config.data.name, out)
    Console(highlight=False, soft_wrap=True).print(f"{out}: {size / 1e6:.1f} MB, for any browser")
