"""The verb `finetune`."""

import sys
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro
from offrl_contract import InputError, Robot
from pydantic import NonNegativeFloat

from offrl_training.finetuning.checks import check_env
from offrl_training.finetuning.config import FinetuneConfig
from offrl_training.finetuning.curve import draw_curve
from offrl_training.finetuning.driver import Driver
from offrl_training.finetuning.envs import EnvCrashedError, EnvProcess, EnvRequest
from offrl_training.finetuning.folder import (
    check_folder,
    find_dataset,
    finetuned_config,
    open_folder,
    open_tuner,
    require_dataset,
    restore_last,
    write_evaluations,
)
from offrl_training.finetuning.loop import Finetuner, run_online
from offrl_training.finetuning.methods import prepare, settings
from offrl_training.process import set_up
from offrl_training.run import RunConfig, last_checkpoint, read_config, read_robot
from offrl_training.signals import deferred_signals, leave
from offrl_training.trainer import Trainer
from offrl_training.transitions import read_dataset


@dataclass(frozen=True)
class FinetuneCommand:
    """Go on with a trained run in an environment, half of each batch from its dataset."""

    run: Annotated[Path, tyro.conf.Positional]
    """Run folder of `offrl train`."""
    finetuning: FinetuneConfig
    env: str
    """Gymnasium environment, such as offrl/RacecarTrack-v0; it must be of the run's robot."""
    profile: Path | None = None
    """YAML file of a SimProfile, for the environments of offrl_sim."""
    data: Path | None = None
    """Dataset that the run was trained on; by default looked for beside the run and here."""
    out: Path | None = None
    """Run folder to write; by default RUN_finetuned."""
    save_every: NonNegativeFloat = 30.0
    """Time between checkpoints [s]; a kill loses no more than that, and one step or evaluation."""
    resume: bool = False
    """Continue the run in the folder from its last checkpoint, exactly."""


def finetune(argv: list[str]) -> None:
    """Run `offrl finetune`. Raises InputError; after a signal KeyboardInterrupt or SystemExit."""
    command = tyro.cli(
        FinetuneCommand,
        prog="offrl finetune",
        args=argv,
        config=(tyro.conf.OmitArgPrefixes,),
    )
    out = command.out or command.run.with_name(f"{command.run.name}_finetuned")
    check_folder(out, command.resume)
    offline, robot = read_config(command.run), read_robot(command.run)
    name, *_ = settings(command.finetuning, offline)
    request = _request(command)
    with closing(_begin(request)) as env, closing(_begin(request)) as evaluation_env:
        check_env(env.facts, robot, request.id, str(command.run))
        trainer = _trainer(command, offline)
        made = finetuned_config(trainer, name, offline)
        open_folder(out, made, robot, _record(command), command.resume)
        tuner = open_tuner(out, trainer, command.finetuning, robot)
        driver = Driver(env, command.finetuning.seed)
        restore_last(out, tuner, driver)
        _announce(tuner, made, robot, request)
        with deferred_signals() as caught:
            envs = driver, evaluation_env
            run_online(tuner, out, envs, command.save_every, lambda: bool(caught), _say)
    write_evaluations(out, tuner)
    draw_curve(tuner.evaluations, command.finetuning.warm_up, out / "curve.png")
    _conclude(tuner, out)
    leave(caught)


def _trainer(command: FinetuneCommand, offline: RunConfig) -> Trainer:
    """Return the trainer of the run, with what the method takes over of its last checkpoint."""
    set_up(offline.training.threads)
    _, state = last_checkpoint(command.run)
    path = find_dataset(command.run, offline, command.data)
    dataset = read_dataset(path, offline.training.memory_limit)
    require_dataset(dataset, offline, path, command.run)
    return prepare(command.finetuning, offline, state, dataset)


def _request(command: FinetuneCommand) -> EnvRequest:
    profile = {} if command.profile is None else {"profile": str(command.profile.resolve())}
    return EnvRequest(command.env, str((command.run / "robot.yaml").resolve()), profile)


def _begin(request: EnvRequest) -> EnvProcess:
    """Start an environment's process. Raises InputError."""
    try:
        return EnvProcess(request)
    except EnvCrashedError as error:
        raise InputError(f"--env {error}") from error


def _record(command: FinetuneCommand) -> dict[str, Any]:
    """Return what `finetune.yaml` says: what the run was made from and how."""
    profile = None if command.profile is None else command.profile.name
    origin = {"run": command.run.name, "env": command.env, "profile": profile}
    return origin | command.finetuning.model_dump(mode="json")


def _announce(tuner: Finetuner, made: RunConfig, robot: Robot, request: EnvRequest) -> None:
    config = tuner.config
    hidden = " ".join(map(str, made.parameters.hidden))
    print(
        f"{made.algorithm} ({config.method}) in {request.id} with robot {robot.robot}: batch "
        f"{made.training.batch}, layers {hidden}, preset {config.preset}; {config.warm_up} steps of"
        f" warm-up, then {config.steps} with {config.updates} updates each, from step {tuner.step}",
        flush=True,
    )


def _say(step: int, metrics: Mapping[str, float]) -> None:
    """Print a line per log."""
    names = ("eval_return", "eval_success", "dip", "online_return", "bound_rate")
    known = (f"{name} {metrics[name]:.3g}" for name in names if name in metrics)
    back = "; networks of the best evaluation put back" * bool(metrics.get("rolled_back"))
    print(f"step {step}: {', '.join(known)}{back}", flush=True)
    sys.stdout.flush()


def _conclude(tuner: Finetuner, out: Path) -> None:
    first, last, best = tuner.evaluations[0], tuner.evaluations[-1], tuner.best
    assert best is not None
    print(
        f"{out}: step {tuner.step} of {tuner.total} saved; return {first.score:.3g} offline, "
        f"{last.score:.3g} at step {last.step}, best {best.score:.3g} at step {best.step}"
    )
