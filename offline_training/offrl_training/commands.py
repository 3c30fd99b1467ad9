"""The verb `train`."""

import inspect
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Annotated, Any, Generic, Union

import torch
import tyro
from offrl_contract import load_robot
from offrl_contract.robot_file import require_same
from offrl_data.dataset import Dataset, load_dataset
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from offrl_training.algorithms import ALGORITHMS
from offrl_training.algorithms.base import AlgorithmConfig, C
from offrl_training.config import TrainingConfig
from offrl_training.memory import keep_freed_memory
from offrl_training.run import RunConfig, create_run, resume_run
from offrl_training.trainer import Trainer, fit

_REDRAW = 0.25
_EXIT_SIGNAL = 128


@dataclass(frozen=True)
class TrainCommand(Generic[C]):
    """Train a policy on a dataset, with the safety gate's critics beside it."""

    dataset: Annotated[Path, tyro.conf.Positional]
    """Dataset file (.h5)."""
    out: Path
    """Run folder to write."""
    training: TrainingConfig
    algorithm: C
    robot: str | None = None
    """Robot file, or the name of a shipped one, that the dataset must have been made with."""
    resume: bool = False
    """Continue the run in the folder from its last checkpoint, exactly."""


def train(argv: list[str]) -> None:
    """Run `offrl train`. Raises InputError; after a signal KeyboardInterrupt or SystemExit."""
    verbs = tuple(
        Annotated[
            TrainCommand[kind.config_type],  # type: ignore[name-defined]
            tyro.conf.subcommand(name, description=inspect.getdoc(kind)),
        ]
        for name, kind in ALGORITHMS.items()
    )
    command: TrainCommand[AlgorithmConfig] = tyro.cli(
        Union[verbs],  # noqa: UP007  (a union made at run time)
        prog="offrl train",
        args=argv,
        config=(tyro.conf.OmitArgPrefixes,),
    )
    torch.set_num_threads(command.training.threads)
    keep_freed_memory()
    dataset = load_dataset(command.dataset)
    if command.robot is not None:
        require_same(load_robot(command.robot), dataset.robot, command.robot, str(command.dataset))
    trainer = _prepare(command, dataset)
    with _deferred_signals() as caught:
        _fit(trainer, command.out, lambda: bool(caught))
    print(f"{command.out}: step {trainer.step} of {trainer.training.steps} saved")
    if signal.SIGINT in caught:
        raise KeyboardInterrupt
    if caught:
        raise SystemExit(_EXIT_SIGNAL + caught[0])


def _prepare(command: TrainCommand[AlgorithmConfig], dataset: Dataset) -> Trainer:
    """Build the trainer, then make or reopen the run folder; bad input leaves no folder behind."""
    settings = command.algorithm
    name = next(n for n, kind in ALGORITHMS.items() if kind.config_type is type(settings))
    trainer = Trainer(name, settings, command.training, dataset)
    config = RunConfig(
        algorithm=name,
        parameters=settings,
        training=command.training,
        dataset=command.dataset.name,
        dataset_digest=dataset.digest,
        train_episodes=tuple(trainer.train_episodes.tolist()),
        held_out_episodes=tuple(trainer.held_out_episodes.tolist()),
    )
    if command.resume and (command.out / "config.yaml").exists():
        resume_run(command.out, config, trainer)
    else:
        create_run(command.out, config, dataset.robot)
    held_out = f"{len(config.held_out_episodes)} held out"
    if len(dataset.lengths) == 1:
        held_out = "none held out, because the dataset has only one"
    print(
        f"{name}: {len(trainer.sampler)} transitions of {len(config.train_episodes)} episodes "
        f"({held_out}), from step {trainer.step} to {command.training.steps}"
    )
    return trainer


def _fit(trainer: Trainer, run: Path, stop: Callable[[], bool]) -> None:
    """Train under a progress bar."""
    columns = (BarColumn(), MofNCompleteColumn(), TextColumn("{task.description}"))
    with Progress(*columns, TimeRemainingColumn(), refresh_per_second=2) as progress:
        task = progress.add_task("", total=trainer.training.steps, completed=trainer.step)
        first, started = trainer.step, time.monotonic()
        drawn = started

        def on_step(step: int) -> None:
            nonlocal drawn
            now = time.monotonic()
            if now - drawn >= _REDRAW or step == trainer.training.steps:
                drawn = now
                rate = f"{(step - first) / (now - started):.0f} steps/s"
                progress.update(task, completed=step, description=rate)

        fit(trainer, run, on_step, stop)


@contextmanager
def _deferred_signals() -> Iterator[list[int]]:
    """Collect SIGINT and SIGTERM, so that training saves and leaves; a second one ends at once."""
    caught: list[int] = []
    previous: dict[int, Any] = {}

    def restore() -> None:
        for number, handler in previous.items():
            signal.signal(number, handler)

    def catch(number: int, frame: FrameType | None) -> None:  # noqa: ARG001
        caught.append(number)
        restore()

    for number in (signal.SIGINT, signal.SIGTERM):
        previous[number] = signal.signal(number, catch)
    try:
        yield caught
    finally:
        restore()
