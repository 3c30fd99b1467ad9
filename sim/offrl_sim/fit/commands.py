"""`offrl sim fit`."""

from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

import numpy as np
import tyro
from offrl_contract import InputError, load_robot
from offrl_contract.definitions import DEFAULT_DISTRO
from offrl_contract.yaml_text import to_yaml
from offrl_data.bags import find_bags
from offrl_data.message_definitions import MessageDefinitions
from rich.console import Console
from rich.table import Table

from offrl_sim.files import whole
from offrl_sim.fit.estimate import Estimate, Result, estimate
from offrl_sim.fit.log import read_log
from offrl_sim.fit.problem import base_of, windows_of
from offrl_sim.tasks import TASKS, find_task


@dataclass(frozen=True)
class FitConfig:
    """Estimate from logs how a robot's base differs from a task's: delay, gains, lag, friction."""

    bags: Annotated[tuple[Path, ...], tyro.conf.Positional]
    """Bags: .bag, .db3 or .mcap files, rosbag2 directories, or folders of them."""
    task: str
    """Task whose base stands for the robot's: DiffDriveNav or RacecarTrack."""
    robot: str = ""
    """Robot file of the logs, or the name of a shipped one; the task's own where not given."""
    output: Path | None = None
    """Profile to write, of what the logs identify; for `offrl record --profile`."""
    msgs: Path | None = None
    """Folder of .msg files, for types that neither the bag nor the distribution defines."""
    distro: str = DEFAULT_DISTRO
    """ROS 2 distribution of the recording, for bags that carry no definitions."""
    seed: int = 0
    """Of the bootstrap."""


def report_fit(config: FitConfig) -> None:
    """Run `offrl sim fit`. Raises InputError."""
    result = fit(config)
    _print(result)
    if config.output is not None:
        with whole(config.output) as beside:
            beside.write_text(profile_text(result))
        print(f"{config.output}: profile of {len(result.profile)} parameters")


def fit(config: FitConfig) -> Result:
    """Estimate what a configuration asks for. Raises InputError."""
    if config.seed < 0:
        raise InputError(f"--seed {config.seed}: must be 0 or more")
    task = find_task(config.task)
    if task.base is None:
        driving = [name for name, each in TASKS.items() if each.base is not None]
        raise InputError(f"--task {config.task}: nothing drives there. Use {' or '.join(driving)}.")
    robot = load_robot(config.robot or task.robot)
    definitions = MessageDefinitions(config.distro, config.msgs)
    with closing(task.base()) as physics:
        base, order = base_of(task, robot, physics)
        log = read_log(find_bags(list(config.bags)), robot, order, definitions)
        windows = windows_of(log.stretches, base)
        result = estimate(base, windows, physics, np.random.default_rng(config.seed))
    return replace(result, notes=log.notes)


def profile_text(result: Result) -> str:
    """Return a profile in YAML of what is identified, the rest as a comment."""
    left_out = [f"# {each.name}: {each.reason}\n" for each in result.estimates if each.reason]
    known = {name: round(value, 4) for name, value in result.profile.items()}
    return "".join(left_out) + (to_yaml(known) if known else "{}\n")


def _print(result: Result) -> None:
    table = Table(title=f"{result.windows} windows, {result.seconds:.0f} s")
    for column in ("parameter", "estimate", "95 % interval", "nominal", "identified"):
        table.add_column(column, justify="right" if column in ("estimate", "nominal") else "left")
    for each in result.estimates:
        table.add_row(*_row(each))
    console = Console(highlight=False)
    console.print(table)
    for residual in result.residuals:
        print(
            f"{residual.channel}: residual {residual.rms:.3g} RMS, {residual.nominal:.3g} under "
            f"nominal parameters; {residual.explained:.1%} of the variance explained"
        )
    for note in result.notes:
        print(f"note: {note}")


def _row(each: Estimate) -> tuple[str, ...]:
    interval = f"{each.low:.3f} to {each.high:.3f}"
    answer = f"no: {each.reason}" if each.reason else "yes"
    return each.name, f"{each.value:.3f}", interval, f"{each.nominal:g}", answer
