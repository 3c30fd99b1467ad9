"""The run folders of several seeds that one program trains: `seed_S` for each seed S."""

import os
from collections.abc import Sequence
from pathlib import Path

from offrl_contract import InputError
from offrl_data.dataset import AnyDataset

from offrl_training import checkpoint
from offrl_training.algorithms.base import AlgorithmConfig
from offrl_training.config import SEEDS, TrainingConfig
from offrl_training.run import (
    RunConfig,
    create_run,
    prepare_run,
    require_free,
    require_made_from,
    restore_run,
)
from offrl_training.trainer import Trainer


def open_seeds(
    out: Path,
    algorithm: str,
    settings: tuple[AlgorithmConfig, TrainingConfig],
    dataset: AnyDataset,
    name: str,
    count: int,
    resume: bool,
) -> tuple[list[tuple[Trainer, Path]], RunConfig]:
    """Prepare so many seeds, from that of the settings on, each in a folder of its own in `out`.

    Returns their trainers, at one step, with their folders, and the configuration of the first.
    Raises InputError; bad input leaves no folder behind.
    """
    if os.path.exists(out / "config.yaml"):
        raise InputError(f"{out}: is a run folder itself; with --seeds it would hold others")
    parameters, training = settings
    if training.seed + count > SEEDS:
        last = training.seed + count - 1
        raise InputError(
            f"--seeds {count}: the last one is {last}, {SEEDS - 1} the largest allowed"
        )
    own = [
        training.model_copy(update={"seed": seed})
        for seed in range(training.seed, training.seed + count)
    ]
    runs = [out / f"seed_{each.seed}" for each in own]
    known = [run for run in runs if resume and os.path.exists(run / "config.yaml")]
    for run in runs:
        if run not in known:
            require_free(run)
    prepared = [prepare_run(algorithm, (parameters, each), dataset, name) for each in own]
    trainers = [trainer for trainer, _ in prepared]
    for run, (_, config) in zip(runs, prepared, strict=True):
        if run in known:
            require_made_from(run, config)
    _restore(runs, trainers)
    for run, (_, config) in zip(runs, prepared, strict=True):
        if run not in known:
            create_run(run, config, dataset.robot)
    return list(zip(trainers, runs, strict=True)), prepared[0][1]


def _restore(runs: Sequence[Path], trainers: Sequence[Trainer]) -> None:
    """Bring all seeds to the newest step at which each of them has a checkpoint.

    A program that was killed as it saved has one more of some seeds than of others; killed as it
    saved for the first time, it begins anew.
    """
    complete = all(os.path.exists(run / "config.yaml") for run in runs)
    steps = [checkpoint.steps_of(run) for run in runs]
    common = set.intersection(*map(set, steps))
    if common:
        for run, trainer in zip(runs, trainers, strict=True):
            restore_run(run, trainer, max(common))
    elif max(map(len, steps)) > int(complete):
        have = ", ".join(
            f"{run.name}: {own or 'none'}" for run, own in zip(runs, steps, strict=True)
        )
        raise InputError(
            f"{runs[0].parent}: no step at which all seeds have a checkpoint ({have}). Continue "
            "each by itself, with its own --seed and --out and without --seeds."
        )
