"""The folder of a finetuning run: a run folder like any other, with what was seen online."""

import json
import os
from pathlib import Path

import yaml
from offrl_contract import InputError, Robot
from offrl_contract.settings import read_mapping
from offrl_contract.yaml_text import to_yaml
from offrl_data.dataset import AnyDataset

from offrl_training import checkpoint
from offrl_training.files import write_atomically
from offrl_training.finetuning.config import FinetuneConfig
from offrl_training.finetuning.driver import Driver
from offrl_training.finetuning.loop import Finetuner
from offrl_training.finetuning.methods import dataset_share
from offrl_training.finetuning.replay import Replay
from offrl_training.run import RunConfig, create_run, fitting, flat, read_config, require_free
from offrl_training.trainer import Trainer

SETTINGS = "finetune.yaml"


def find_dataset(run: Path, made: RunConfig, given: Path | None) -> Path:
    """Return the dataset of a run: as given, or the file of its name near the run, or here.

    Raises InputError where there is none.
    """
    if given is not None:
        return given
    places = [run.resolve().parent, *run.resolve().parent.parents[:1], Path.cwd()]
    for place in places:
        if (place / made.dataset).is_file():
            return place / made.dataset
    raise InputError(
        f"{run}: its dataset {made.dataset} is neither beside it nor here; name it by --data"
    )


def require_dataset(dataset: AnyDataset, made: RunConfig, path: Path, run: Path) -> None:
    """Raise InputError unless a dataset is the one that a run was trained on."""
    if dataset.digest != made.dataset_digest:
        raise InputError(
            f"{path}: the run {run} was trained on another dataset "
            f"({made.dataset_digest}) than this one ({dataset.digest})"
        )


def finetuned_config(trainer: Trainer, name: str, offline: RunConfig) -> RunConfig:
    """Return the `config.yaml` of what a trainer goes on with."""
    return RunConfig(
        algorithm=name,
        parameters=trainer.algorithm.config,
        training=trainer.training,
        dataset=offline.dataset,
        dataset_digest=offline.dataset_digest,
        train_episodes=tuple(trainer.train_episodes.tolist()),
        held_out_episodes=tuple(trainer.held_out_episodes.tolist()),
    )


def check_folder(out: Path, resume: bool) -> None:
    """Raise InputError where a run cannot have this folder, before anything slow is done."""
    if not (resume and os.path.exists(out / SETTINGS)):
        require_free(out)


def open_folder(
    out: Path, made: RunConfig, robot: Robot, settings: dict[str, object], resume: bool
) -> None:
    """Make the folder of a new run, or see that a resumed one was made from the same.

    Raises InputError.
    """
    if not (resume and os.path.exists(out / SETTINGS)):
        create_run(out, made, robot, {SETTINGS: to_yaml(settings)})
        return
    difference = read_config(out).difference(made)
    before, now = flat(read_mapping(out / SETTINGS)), flat(yaml.safe_load(to_yaml(settings)))
    for key in (*before, *now):
        if before.get(key) != now.get(key):
            difference = difference or f"{key} is {now.get(key)}, was {before.get(key)}"
    if difference:
        raise InputError(f"{out}: cannot resume with other settings: {difference}")


def open_tuner(out: Path, trainer: Trainer, config: FinetuneConfig, robot: Robot) -> Finetuner:
    """Return the loop of a run, at its first step."""
    capacity = config.warm_up + config.steps
    replay = Replay(out / "replay.bin", capacity, robot, trainer.generator)
    return Finetuner(trainer, replay, dataset_share(config), config, robot)


def restore_last(out: Path, tuner: Finetuner, driver: Driver) -> None:
    """Bring a loop to the last checkpoint of its run, if there is one."""
    steps = checkpoint.steps_of(out)
    if steps:
        state = checkpoint.load(out, steps[-1])
        with fitting(checkpoint.path_of(out, steps[-1])):
            tuner.restore(state, driver)


def write_evaluations(out: Path, tuner: Finetuner) -> None:
    """Write `evaluations.json`: returns, lengths and successes of each scenario."""
    content = json.dumps([each.as_dict() for each in tuner.evaluations], indent=1)
    write_atomically(out / "evaluations.json", content.encode())
