"""The verb `train`."""

import argparse
import inspect
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Annotated, Generic

import tyro
from offrl_contract import InputError, load_robot
from offrl_contract.cli import EXIT_BAD_INPUT
from offrl_contract.errors import nearest
from offrl_contract.robot_file import require_same
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from offrl_training.algorithms import ALGORITHMS
from offrl_training.algorithms.base import AlgorithmConfig, C
from offrl_training.config import TrainingConfig
from offrl_training.process import set_up
from offrl_training.run import RunConfig, open_run
from offrl_training.settings import load_settings, run_settings
from offrl_training.signals import deferred_signals, leave
from offrl_training.stream import Stream
from offrl_training.tracking import OnLog, Tracker, require_library, tracking
from offrl_training.trainer import Trainer, fit
from offrl_training.transitions import read_dataset

_REDRAW = 0.25


@dataclass(frozen=True)
class TrainCommand(Generic[C]):
    """Train a policy on a dataset, with the safety gate's critics beside it."""

    dataset: Annotated[Path, tyro.conf.Positional]
    """Dataset file (.h5)."""
    out: Path
    """Run folder to write."""
    training: TrainingConfig
    algorithm: C
    config: Path | None = None
    """YAML file of settings, under the names of these options; what is given here wins."""
    robot: str | None = None
    """Robot file, or the name of a shipped one, that the dataset must have been made with."""
    resume: bool = False
    """Continue the run in the folder from its last checkpoint, exactly."""
    tracker: Tracker = "none"
    """Send settings and metrics to Weights & Biases or MLflow, too."""


def train(argv: list[str]) -> None:
    """Run `offrl train`. Raises InputError; after a signal KeyboardInterrupt or SystemExit."""
    if not argv or argv[0] in ("-h", "--help"):
        print(_help())
        raise SystemExit(0 if argv else EXIT_BAD_INPUT)
    name, *rest = argv
    if name not in ALGORITHMS:
        raise InputError(f"offrl train: unknown algorithm '{name}'.{nearest(name, ALGORITHMS)}")
    command = _parse(name, rest)
    require_library(command.tracker)
    set_up(command.training.threads)
    dataset = read_dataset(command.dataset, command.training.memory_limit)
    if command.robot is not None:
        require_same(load_robot(command.robot), dataset.robot, command.robot, str(command.dataset))
    settings = command.algorithm, command.training
    trainer, config = open_run(
        command.out, name, settings, dataset, command.dataset.name, command.resume
    )
    _announce(trainer, config)
    with (
        deferred_signals() as caught,
        tracking(command.tracker, command.out, config.settings()) as on_log,
    ):
        _fit(trainer, command.out, lambda: bool(caught), on_log)
    print(f"{command.out}: step {trainer.step} of {trainer.training.steps} saved")
    leave(caught)


def _help() -> str:
    """Return what the verb says about itself."""
    usage = "usage: offrl train <algorithm> DATASET --out RUN [options]"
    head = "Algorithms ('offrl train <algorithm> --help' lists the options):"
    docs = {name: inspect.getdoc(kind) or "" for name, kind in ALGORITHMS.items()}
    lines = (f"  {name:12} {doc.splitlines()[0]}" for name, doc in docs.items())
    return "\n".join([usage, "", head, *lines])


def _parse(name: str, argv: list[str]) -> TrainCommand[AlgorithmConfig]:
    """Read the options of one algorithm; those not given are from the file of --config."""
    kind = ALGORITHMS[name]
    first = argparse.ArgumentParser(f"offrl train {name}", add_help=False, allow_abbrev=False)
    first.add_argument("--config", type=Path)
    file: Path | None = first.parse_known_args(argv)[0].config
    settings = load_settings(name, file) if file else run_settings(name, {}, name)
    command: TrainCommand[AlgorithmConfig] = tyro.cli(
        TrainCommand[kind.config_type],  # type: ignore[name-defined]
        prog=f"offrl train {name}",
        description=inspect.getdoc(kind),
        args=argv,
        default=TrainCommand(tyro.MISSING, tyro.MISSING, settings[1], settings[0]),
        config=(tyro.conf.OmitArgPrefixes,),
    )
    return command


def _announce(trainer: Trainer, config: RunConfig) -> None:
    held_out = f"{len(config.held_out_episodes)} held out"
    if len(config.train_episodes) == 1 and not config.held_out_episodes:
        held_out = "none held out, because the dataset has only one"
    print(
        f"{config.algorithm}: {len(trainer.sampler)} transitions of {len(config.train_episodes)} "
        f"episodes ({held_out}), from step {trainer.step} to {config.training.steps}"
    )
    if isinstance(trainer.sampler, Stream):
        print(f"streamed from {config.dataset} in {trainer.sampler.pools} parts of a pass")


def _fit(trainer: Trainer, run: Path, stop: Callable[[], bool], on_log: OnLog) -> None:
    """Train under a progress bar, or with a line per log where nobody watches."""
    training = trainer.training
    first, started = trainer.step, time.monotonic()

    def rate(step: int) -> float:
        return (step - first) / max(time.monotonic() - started, 1e-9)

    if not sys.stdout.isatty():
        fit(trainer, run, partial(_say_at_logs, training, rate), stop, on_log)
        return
    columns = (BarColumn(), MofNCompleteColumn(), TextColumn("{task.description}"))
    with Progress(*columns, TimeRemainingColumn(), refresh_per_second=2) as progress:
        task = progress.add_task("", total=training.steps, completed=first)
        drawn = started

        def on_step(step: int) -> None:
            nonlocal drawn
            if time.monotonic() - drawn >= _REDRAW or step == training.steps:
                drawn = time.monotonic()
                progress.update(task, completed=step, description=f"{rate(step):.0f} steps/s")

        fit(trainer, run, on_step, stop, on_log)


def _say_at_logs(training: TrainingConfig, rate: Callable[[int], float], step: int) -> None:
    """Print steps per second and the time left at steps that are logged."""
    if step % training.log_every == 0 or step == training.steps:
        left = timedelta(seconds=round((training.steps - step) / rate(step)))
        print(f"step {step} of {training.steps}: {rate(step):.0f} steps/s, {left} left", flush=True)
