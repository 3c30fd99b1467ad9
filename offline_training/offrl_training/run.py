"""The run folder: what `offrl train` writes, and what export and evaluation read."""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from numpy.typing import NDArray
from offrl_contract import InputError, Robot, __version__, robot_from_yaml
from offrl_contract.errors import nearest
from offrl_contract.settings import validated
from offrl_contract.yaml_text import from_yaml, to_yaml
from offrl_data.dataset import AnyDataset
from pydantic import BaseModel, ConfigDict, SerializeAsAny

from offrl_training import checkpoint
from offrl_training.algorithms import ALGORITHMS
from offrl_training.algorithms.base import Algorithm, AlgorithmConfig, Dims
from offrl_training.config import TrainingConfig
from offrl_training.files import write_atomically
from offrl_training.gate_critics import GateCritics
from offrl_training.networks import Normaliser
from offrl_training.trainer import Trainer, build

_MAY_DIFFER = ("dataset", "offrl_version", "torch_version")


class RunConfig(BaseModel):
    """Content of `config.yaml`: all that a run was made from."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    algorithm: str
    """Name of the algorithm."""
    parameters: SerializeAsAny[AlgorithmConfig]
    """Settings of the algorithm, defaults included."""
    training: TrainingConfig
    """Settings of the run."""
    dataset: str
    """File name of the dataset."""
    dataset_digest: str
    """Identity of its content."""
    train_episodes: tuple[int, ...]
    """Episodes trained on."""
    held_out_episodes: tuple[int, ...]
    """Episodes never trained on."""
    offrl_version: str = __version__
    """Version that made the run."""
    torch_version: str = str(torch.__version__)
    """PyTorch that made the run."""

    def settings(self) -> dict[str, Any]:
        """Return the settings by one name each, such as `parameters.gamma`, without the split."""
        return flat(self.model_dump(mode="json", exclude={"train_episodes", "held_out_episodes"}))

    def difference(self, other: "RunConfig") -> str:
        """Return the first setting that another run has otherwise, or ""."""
        mine, theirs = (flat(config.model_dump(mode="json")) for config in (self, other))
        for key in (*mine, *theirs):
            if mine.get(key) != theirs.get(key) and key not in _MAY_DIFFER:
                return f"{key} is {theirs.get(key)}, was {mine.get(key)}"
        return ""


@dataclass(frozen=True)
class TrainedRun:
    """A run at its last checkpoint, on the CPU, ready to act."""

    robot: Robot
    algorithm_name: str
    config: AlgorithmConfig
    training: TrainingConfig
    algorithm: Algorithm[Any]
    """`act(observation (B, o)) -> action (B, a)` in SI units; `normaliser` holds the buffers."""
    gate_critics: GateCritics
    """`(observation (B, o), action (B, a)) -> Q (K, B)`, inputs in SI units."""
    dataset_name: str
    dataset_digest: str
    train_episodes: NDArray[np.int64]
    held_out_episodes: NDArray[np.int64]
    """Empty where the dataset has one episode."""
    step: int


def create_run(
    run: Path, config: RunConfig, robot: Robot, others: Mapping[str, str] | None = None
) -> None:
    """Make the folder of a new run, whole, with the text of other files by their names.

    Raises InputError where it holds something already.
    """
    run = run.resolve()
    require_free(run)
    try:
        beside = run.with_name(f".{run.name}.tmp")
        beside.mkdir(parents=True, exist_ok=True)
        write_atomically(beside / "robot.yaml", robot.to_yaml().encode())
        content = to_yaml(config.model_dump(mode="json"))
        write_atomically(beside / "config.yaml", content.encode())
        for name, text in (others or {}).items():
            write_atomically(beside / name, text.encode())
        os.replace(beside, run)
    except OSError as error:
        raise InputError(f"{run}: cannot be written: {error.strerror}") from error


def require_free(run: Path) -> None:
    """Raise InputError where a new run cannot have this folder."""
    try:
        if run.exists() and not run.is_dir():
            raise InputError(f"{run}: is a file; a run is a folder")
        taken = run.exists() and any(run.iterdir())
    except OSError as error:
        raise InputError(f"{run}: cannot be written: {error.strerror}") from error
    if taken:
        raise InputError(f"{run}: exists and is not empty. Use --resume to continue a run.")
    if run.resolve() == Path.cwd():  # a new run takes the place of an empty folder
        raise InputError(f"{run}: is the working directory. Name a folder in it.")


def open_run(
    run: Path,
    algorithm: str,
    settings: tuple[AlgorithmConfig, TrainingConfig],
    dataset: AnyDataset,
    name: str,
    resume: bool,
) -> tuple[Trainer, RunConfig]:
    """Prepare training on a dataset of some file name, in a new run folder or a resumed one.

    Raises InputError; bad input leaves no folder behind.
    """
    trainer, config = prepare_run(algorithm, settings, dataset, name)
    if resume and os.path.exists(run / "config.yaml"):
        resume_run(run, config, trainer)
    else:
        create_run(run, config, dataset.robot)
    return trainer, config


def prepare_run(
    algorithm: str,
    settings: tuple[AlgorithmConfig, TrainingConfig],
    dataset: AnyDataset,
    name: str,
) -> tuple[Trainer, RunConfig]:
    """Return step 0 of a run that has no folder yet. Raises InputError."""
    trainer = Trainer(algorithm, *settings, dataset)
    config = RunConfig(
        algorithm=algorithm,
        parameters=settings[0],
        training=settings[1],
        dataset=name,
        dataset_digest=dataset.digest,
        train_episodes=tuple(trainer.train_episodes.tolist()),
        held_out_episodes=tuple(trainer.held_out_episodes.tolist()),
    )
    return trainer, config


def resume_run(run: Path, config: RunConfig, trainer: Trainer) -> None:
    """Bring a trainer to the last checkpoint of its run. Raises InputError if it is another's."""
    require_made_from(run, config)
    steps = checkpoint.steps_of(run)
    if steps:
        restore_run(run, trainer, steps[-1])


def require_made_from(run: Path, config: RunConfig) -> None:
    """Raise InputError where the run in a folder was made from something else."""
    difference = read_config(run).difference(config)
    if difference:
        raise InputError(f"{run}: cannot resume with other settings: {difference}")


def restore_run(run: Path, trainer: Trainer, step: int) -> None:
    """Bring a trainer to a checkpoint of its run. Raises InputError where it cannot be used."""
    state = checkpoint.load(run, step)
    with fitting(checkpoint.path_of(run, step)):
        trainer.restore(state)


def read_config(run: Path) -> RunConfig:
    """Read `config.yaml`. Raises InputError where the folder is no run."""
    path = run / "config.yaml"
    try:
        content = from_yaml(path.read_text())
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        problem = "no such folder"
        if os.path.isdir(run):
            runs = sorted(str(found.parent) for found in run.glob("*/config.yaml"))
            remedy = f". Runs in it: {', '.join(runs)}" if runs else ""
            problem = f"no readable config.yaml{remedy}"
        raise InputError(f"{run}: not a run folder: {problem}") from error
    if not isinstance(content, dict) or content.get("algorithm") not in ALGORITHMS:
        name = content.get("algorithm") if isinstance(content, dict) else content
        raise InputError(f"{path}: algorithm: '{name}'.{nearest(str(name), ALGORITHMS)}")
    kind = ALGORITHMS[content["algorithm"]].config_type
    parameters = validated(kind, content.pop("parameters", {}), f"{path}: parameters")
    return validated(RunConfig, {**content, "parameters": parameters}, str(path))


def load_run(run: Path) -> TrainedRun:
    """Load a run at its last checkpoint. Raises InputError for a folder that is no sound run."""
    made, robot = read_config(run), read_robot(run)
    step, state = last_checkpoint(run)
    dims = Dims(robot.observation_size, robot.action_size, made.training.steps)
    normaliser = Normaliser(dims.observation, robot.limits)
    algorithm, gate_critics = build(
        made.algorithm, made.parameters, dims, normaliser, torch.Generator()
    )
    with fitting(checkpoint.path_of(run, step)):
        algorithm.load_state_dict(state["algorithm"])
        gate_critics.load_state_dict(state["gate_critics"])
    return TrainedRun(
        robot=robot,
        algorithm_name=made.algorithm,
        config=made.parameters,
        training=made.training,
        algorithm=algorithm.eval(),
        gate_critics=gate_critics.eval(),
        dataset_name=made.dataset,
        dataset_digest=made.dataset_digest,
        train_episodes=np.array(made.train_episodes, np.int64),
        held_out_episodes=np.array(made.held_out_episodes, np.int64),
        step=step,
    )


def read_robot(run: Path) -> Robot:
    """Read `robot.yaml`. Raises InputError."""
    try:
        return robot_from_yaml((run / "robot.yaml").read_text(), f"{run}/robot.yaml")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{run}/robot.yaml: cannot be read: {error}") from error


def last_checkpoint(run: Path) -> tuple[int, dict[str, Any]]:
    """Return step and content of the last checkpoint. Raises InputError where there is none."""
    steps = checkpoint.steps_of(run)
    if not steps:
        raise InputError(f"{run}: no checkpoint yet; train it to its first one")
    return steps[-1], checkpoint.load(run, steps[-1])


@contextmanager
def fitting(path: Path) -> Iterator[None]:
    """Turn a state that does not fit its networks into an InputError."""
    try:
        yield
    except (RuntimeError, KeyError, ValueError) as error:
        raise InputError(f"{path}: does not fit config.yaml and robot.yaml: {error}") from error


def flat(content: Any, prefix: str = "") -> dict[str, Any]:
    """Return nested mappings as one, keys joined by dots."""
    if not isinstance(content, dict):
        return {prefix: content}
    found: dict[str, Any] = {}
    for key, value in content.items():
        found |= flat(value, f"{prefix}.{key}" if prefix else key)
    return found
