"""The verb `finetune`."""

import os
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import Annotated, Any

import tyro
from offrl_contract import InputError, Robot
from pydantic import NonNegativeFloat
from pydantic.dataclasses import dataclass

from offrl_training import checkpoint
from offrl_training.finetuning.bags import Interventions, mix, read_new
from offrl_training.finetuning.checks import check_env
from offrl_training.finetuning.config import DRIVES, FinetuneConfig
from offrl_training.finetuning.curve import draw_curve, require_matplotlib
from offrl_training.finetuning.driver import Driver
from offrl_training.finetuning.envs import EnvCrashedError, EnvProcess, EnvRequest
from offrl_training.finetuning.folder import (
    SETTINGS,
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
from offrl_training.options import parse
from offrl_training.process import set_up
from offrl_training.run import RunConfig, last_checkpoint, read_config, read_robot, restore_run
from offrl_training.signals import deferred_signals, leave
from offrl_training.trainer import Trainer, fit
from offrl_training.transitions import read_dataset


@dataclass(frozen=True)
class FinetuneCommand:
    """Go on with a trained run in an environment or on new bags, beside its dataset."""

    run: Annotated[Path, tyro.conf.Positional]
    """Run folder of `offrl train`."""
    finetuning: FinetuneConfig
    env: str | None = None
    """Gymnasium environment, such as offrl/RacecarTrack-v0; it must be of the run's robot."""
    bags: tuple[Path, ...] = ()
    """Instead of an environment: newly recorded bags of the robot, or one dataset (.h5) of them."""
    interventions: Interventions = "keep"
    """Where the gate of the policy node drove in the bags: keep learns from its commands like from
    any others, cut ends the episode before them."""
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
    command = parse(FinetuneCommand, "finetune", argv)
    out = command.out or _beside(command.run, "_finetuned")
    if (command.env is None) == (not command.bags):
        raise InputError("offrl finetune: needs either --env or --bags")
    _require_meaning(command)
    check_folder(out, command.resume)
    offline, robot = read_config(command.run), read_robot(command.run)
    settings(command.finetuning, offline)
    work = _on_bags if command.env is None else _in_env
    work(command, out, offline, robot)


def _require_meaning(command: FinetuneCommand) -> None:
    """Raise InputError for an option that changes nothing: without an environment none drives."""
    given = {"interventions": command.interventions != "keep"}
    if command.bags:
        config, fields = command.finetuning, FinetuneConfig.model_fields
        given = {name: getattr(config, name) != fields[name].default for name in DRIVES}
        given["profile"] = command.profile is not None
    idle = [f"--{name.replace('_', '-')}" for name, is_given in given.items() if is_given]
    if idle:
        way, other = ("--bags", "--env") if command.bags else ("--env", "--bags")
        raise InputError(f"finetune {way}: {', '.join(idle)}: only for {other}")


def _beside(folder: Path, ending: str) -> Path:
    """Return the path beside a folder, also one given as `.`, that has its name and an ending."""
    folder = folder.resolve()
    return folder.parent / f"{folder.name}{ending}"


def _in_env(command: FinetuneCommand, out: Path, offline: RunConfig, robot: Robot) -> None:
    """Finetune in an environment."""
    require_matplotlib()
    request = _request(command)
    with closing(_begin(request)) as env, closing(_begin(request)) as evaluation_env:
        check_env(env.facts, robot, request.id, str(command.run))
        trainer, made = _trainer(command, offline)
        open_folder(out, made, robot, _record(command), command.resume)
        tuner = open_tuner(out, trainer, command.finetuning, robot)
        driver = Driver(env, command.finetuning.seed)
        restore_last(out, tuner, driver)
        _announce(command, made, f"{request.id} with robot {robot.robot}", tuner.step)
        with deferred_signals() as caught:
            envs = driver, evaluation_env
            run_online(tuner, out, envs, command.save_every, lambda: bool(caught), _say)
    write_evaluations(out, tuner)
    draw_curve(tuner.evaluations, command.finetuning.warm_up, out / "curve.png")
    _conclude(tuner, out)
    leave(caught)


def _on_bags(command: FinetuneCommand, out: Path, offline: RunConfig, robot: Robot) -> None:
    """Finetune on new bags; as in training, there is no environment to evaluate in."""
    config = command.finetuning
    converted = _beside(out, "_bags.h5")
    begun = command.resume and os.path.exists(out / SETTINGS)
    new = read_new(command.bags, robot, converted, command.interventions, begun)
    trainer, made = _trainer(command, offline)
    trainer.sampler = mix(trainer, new, config)
    last = trainer.step + config.steps * config.updates
    plan = {"steps": last, "log_every": config.log_every}
    trainer.training = trainer.training.model_copy(update=plan)
    open_folder(out, made, robot, _record(command) | {"new_digest": new.digest}, command.resume)
    steps = checkpoint.steps_of(out)
    if steps:
        restore_run(out, trainer, steps[-1])
    where = f"{len(new)} new transitions of {len(new.lengths)} episodes"
    _announce(command, made, where, trainer.step)
    with deferred_signals() as caught:
        fit(trainer, out, lambda _: None, lambda: bool(caught), _say, command.save_every)
    print(f"{out}: step {trainer.step} of {last} saved")
    leave(caught)


def _trainer(command: FinetuneCommand, offline: RunConfig) -> tuple[Trainer, RunConfig]:
    """Return the trainer, with what the method takes over of the run, and its `config.yaml`."""
    set_up(offline.training.threads)
    _, state = last_checkpoint(command.run)
    path = find_dataset(command.run, offline, command.data)
    dataset = read_dataset(path, offline.training.memory_limit)
    require_dataset(dataset, offline, path, command.run)
    trainer = prepare(command.finetuning, offline, state, dataset)
    name, *_ = settings(command.finetuning, offline)
    return trainer, finetuned_config(trainer, name, offline)


def _request(command: FinetuneCommand) -> EnvRequest:
    profile = {} if command.profile is None else {"profile": str(command.profile.resolve())}
    return EnvRequest(str(command.env), str((command.run / "robot.yaml").resolve()), profile)


def _begin(request: EnvRequest) -> EnvProcess:
    """Start an environment's process. Raises InputError."""
    try:
        return EnvProcess(request)
    except EnvCrashedError as error:
        raise InputError(f"--env {error}") from error


def _record(command: FinetuneCommand) -> dict[str, Any]:
    """Return what `finetune.yaml` says: what the run was made from and how."""
    profile = None if command.profile is None else command.profile.name
    origin: dict[str, Any] = {
        "run": command.run.resolve().name,
        "env": command.env,
        "profile": profile,
    }
    if command.bags:
        names = [path.name for path in command.bags]
        origin |= {"bags": names, "interventions": command.interventions}
    return origin | command.finetuning.model_dump(mode="json")


def _announce(command: FinetuneCommand, made: RunConfig, where: str, step: int) -> None:
    config = command.finetuning
    hidden = " ".join(map(str, made.parameters.hidden))
    warm_up = f"{config.warm_up} steps of warm-up, then " if command.env else ""
    print(
        f"{made.algorithm} ({config.method}) in {where}: batch {made.training.batch}, layers "
        f"{hidden}, preset {config.preset}; {warm_up}{config.steps} steps with {config.updates} "
        f"updates each, from step {step}",
        flush=True,
    )


def _say(step: int, metrics: Mapping[str, float]) -> None:
    """Print a line per log."""
    names = ("eval_return", "eval_success", "dip", "online_return", "bound_rate", "q_loss", "q")
    known = (f"{name} {metrics[name]:.3g}" for name in names if name in metrics)
    back = "; networks of the best evaluation put back" * bool(metrics.get("rolled_back"))
    print(f"step {step}: {', '.join(known)}{back}", flush=True)


def _conclude(tuner: Finetuner, out: Path) -> None:
    first, last, best = tuner.evaluations[0], tuner.evaluations[-1], tuner.best
    assert best is not None
    print(
        f"{out}: step {tuner.step} of {tuner.total} saved; return {first.score:.3g} offline, "
        f"{last.score:.3g} at step {last.step}, best {best.score:.3g} at step {best.step}"
    )
