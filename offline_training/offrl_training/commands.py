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
from offrl_data.dataset import AnyDataset
from pydantic import PositiveInt
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from offrl_training.algorithms import ALGORITHMS
from offrl_training.algorithms.base import AlgorithmConfig, C
from offrl_training.config import TrainingConfig
from offrl_training.options import parse
from offrl_training.process import set_up
from offrl_training.run import RunConfig, open_run
from offrl_training.seed_batch import SeedBatch
from offrl_training.seeds import open_seeds
from offrl_training.settings import load_settings, run_settings
from offrl_training.signals import deferred_signals, leave
from offrl_training.stream import Stream
from offrl_training.tracking import Tracker, require_library, tracking
from offrl_training.trainer import Trainer, fit_together
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
    seeds: PositiveInt | None = None
    """Train so many seeds, from --seed on, as one batched program, into a run folder each:
    OUT/seed_0, OUT/seed_1, and so on. Faster for many seeds of small networks; `offrl sweep`
    trains each seed in a process of its own, on all cores."""


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
    members, advance, config = _open(command, name, dataset)
    trainer, _ = members[0]
    _announce(trainer, config, len(members))
    with (
        deferred_signals() as caught,
        tracking(command.tracker, command.out, config.settings()) as on_log,
    ):
        work = partial(fit_together, members, advance, stop=lambda: bool(caught), on_log=on_log)
        _watch(trainer, work)
    print(f"{command.out}: step {trainer.step} of {trainer.training.steps} saved")
    leave(caught)


def _open(
    command: TrainCommand[AlgorithmConfig], name: str, dataset: AnyDataset
) -> tuple[list[tuple[Trainer, Path]], Callable[[], None], RunConfig]:
    """Return the trainers with their run folders, and what takes them one step on."""
    settings = command.algorithm, command.training
    source = dataset, command.dataset.name
    if command.seeds is None:
        trainer, config = open_run(command.out, name, settings, *source, command.resume)
        return [(trainer, command.out)], trainer.advance, config
    if command.seeds < 1:
        raise InputError(f"--seeds: {command.seeds}: must be 1 or more")
    if command.training.compile:
        raise InputError(
            "--compile: compiles the step of one seed, not of --seeds. Leave one of them out."
        )
    if command.tracker != "none":
        raise InputError(
            f"--tracker {command.tracker}: follows one run at a time, not --seeds. Leave it out,"
            " or use offrl sweep, which trains each seed in a process of its own."
        )
    members, config = open_seeds(
        command.out, name, settings, *source, command.seeds, command.resume
    )
    trainers = [trainer for trainer, _ in members]
    together = SeedBatch(trainers) if len(trainers) > 1 else trainers[0]
    return members, together.advance, config


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
    command: TrainCommand[AlgorithmConfig] = parse(
        TrainCommand[kind.config_type],  # type: ignore[name-defined]
        f"train {name}",
        argv,
        description=inspect.getdoc(kind),
        default=TrainCommand(tyro.MISSING, tyro.MISSING, settings[1], settings[0]),
    )
    return command


def _announce(trainer: Trainer, config: RunConfig, seeds: int) -> None:
    held_out = f"{len(config.held_out_episodes)} held out"
    if len(config.train_episodes) == 1 and not config.held_out_episodes:
        held_out = "none held out, because the dataset has only one"
    if seeds > 1:
        last = config.training.seed + seeds - 1
        print(f"seeds {config.training.seed} to {last}, each with a split of its own; the first:")
    print(
        f"{config.algorithm}: {len(trainer.sampler)} transitions of {len(config.train_episodes)} "
        f"episodes ({held_out}), from step {trainer.step} to {config.training.steps}"
    )
    if isinstance(trainer.sampler, Stream):
        print(f"streamed from {config.dataset} in {trainer.sampler.pools} parts of a pass")
    if config.training.compile:
        print("compiling the first steps, which may take a minute and a half", flush=True)


def _watch(trainer: Trainer, work: Callable[[Callable[[int], None]], None]) -> None:
    """Do some training under a progress bar, or with a line per log where nobody watches."""
    training = trainer.training
    first, started = trainer.step, time.monotonic()

    def rate(step: int) -> float:
        return (step - first) / max(time.monotonic() - started, 1e-9)

    if not sys.stdout.isatty():
        work(partial(_say_at_logs, training, rate))
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

        work(on_step)


def _say_at_logs(training: TrainingConfig, rate: Callable[[int], float], step: int) -> None:
    """Print steps per second and the time left at steps that are logged."""
    if step % training.log_every == 0 or step == training.steps:
        left = timedelta(seconds=round((training.steps - step) / rate(step)))
        print(f"step {step} of {training.steps}: {rate(step):.0f} steps/s, {left} left", flush=True)
