"""The verb `dataset`: other formats, in and out."""

import os
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Annotated, Literal

import tyro
from offrl_contract import InputError, load_robot

from offrl_data.dataset import load_dataset
from offrl_data.formats import d4rl, lerobot, minari, robomimic
from offrl_data.formats.importing import import_recordings
from offrl_data.output import DATASET, require_other, require_writable

Name = Literal["minari", "d4rl", "robomimic", "lerobot"]
_MODULES: dict[str, ModuleType] = {
    "minari": minari,
    "d4rl": d4rl,
    "robomimic": robomimic,
    "lerobot": lerobot,
}


@dataclass(frozen=True)
class ExportConfig:
    """Write a dataset in another format."""

    data: Annotated[Path, tyro.conf.Positional]
    """Dataset file."""
    format: Name
    """Format to write."""
    out: Path
    """What to write: a file (d4rl, robomimic) or a folder that is not there yet."""


@dataclass(frozen=True)
class ImportConfig:
    """Turn a dataset of another format into a dataset file."""

    path: Annotated[Path, tyro.conf.Positional]
    """File (d4rl, robomimic) or folder (minari, lerobot) to read."""
    format: Name
    """Format that it has."""
    out: Path
    """Dataset file to write."""
    robot: str | None = None
    """Robot file, or the name of a shipped one; not needed where the data was exported by us."""


def dataset(argv: list[str]) -> None:
    """Run `offrl dataset import` or `offrl dataset export`. Raises InputError."""
    runs = {"import": ImportConfig, "export": ExportConfig}
    config = tyro.extras.subcommand_cli_from_dict(runs, prog="offrl dataset", args=argv)
    if isinstance(config, ImportConfig):
        _import(config)
    else:
        _export(config)


def _export(config: ExportConfig) -> None:
    require_other(config.out, [config.data])
    found = load_dataset(config.data)
    left_out = _MODULES[config.format].write(found, config.data, config.out)
    print(
        f"{config.out}: {len(found)} transitions in {len(found.lengths)} episodes, "
        f"{config.format}, robot {found.robot.digest()}"
    )
    for what in left_out:
        print(f"left out: {what}")


def _import(config: ImportConfig) -> None:
    robot = load_robot(config.robot) if config.robot is not None else None
    if not os.path.exists(config.path):
        raise InputError(f"{config.path}: no such file or folder")
    named = [Path(config.robot)] if config.robot is not None else []
    require_writable(config.out, [config.path, *config.path.rglob("*"), *named], DATASET)
    foreign = _MODULES[config.format].read(config.path, robot)
    outcome = import_recordings(foreign, config.format, config.path, config.out)
    print(
        f"{config.out}: {outcome.transitions} transitions in {outcome.episodes} episodes, "
        f"robot {foreign.robot.digest()}"
    )
    for what in foreign.left_out:
        print(f"left out: {what}")
    for sentence in outcome.sentences():
        print(f"note: {sentence}")
