"""The verbs `record` and `sim`."""

from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from offrl_sim.drive import drive
from offrl_sim.env import TaskEnv
from offrl_sim.fit.commands import FitConfig, report_fit
from offrl_sim.profile import load_profile
from offrl_sim.record import record_bags


@dataclass(frozen=True)
class RecordConfig:
    """Record a simulated robot, driven by controllers of mixed quality, into ROS 2 bags."""

    out: Path
    """Directory to write, with one rosbag2 directory per bag; must not exist."""
    task: str = "DiffDriveNav"
    """Task to drive: DiffDriveNav, RacecarTrack or PandaReach."""
    robot: str = ""
    """Robot file, or the name of a shipped one; the task's own where not given."""
    profile: Path | None = None
    """YAML file of a SimProfile: delays, sensors, body and ground."""
    episodes: int = 200
    """Episodes over all bags."""
    seed: int = 0
    """Scenario of the first episode; the others follow."""
    bags: int = 4
    """Bags to spread the episodes over."""


@dataclass(frozen=True)
class DriveConfig:
    """Drive one episode as it would be recorded; print how it went, draw it, film it."""

    task: Annotated[str, tyro.conf.Positional]
    """Task to drive: DiffDriveNav, RacecarTrack or PandaReach."""
    robot: str = ""
    """Robot file, or the name of a shipped one; the task's own where not given."""
    profile: Path | None = None
    """YAML file of a SimProfile: delays, sensors, body and ground."""
    seed: int = 0
    """Scenario: the world, the driver and its noise."""
    picture: Path | None = None
    """PNG to draw the episode into."""
    video: Path | None = None
    """Video of the episode to write: .gif, or .mp4 where ffmpeg is installed."""


def record(argv: list[str]) -> None:
    """Run `offrl record`. Raises InputError."""
    config = tyro.cli(RecordConfig, prog="offrl record", args=argv)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with (
        closing(TaskEnv(config.task, config.robot, load_profile(config.profile))) as env,
        Progress(*columns, TimeRemainingColumn(), transient=True) as progress,
    ):
        bar = progress.add_task("episodes", total=config.episodes)
        bags = record_bags(
            env,
            config.out,
            config.episodes,
            config.seed,
            config.bags,
            lambda: progress.advance(bar),
        )
    for bag in bags:
        print(
            f"{bag.path}: {bag.episodes} episodes ({bag.successes} succeeded, "
            f"{bag.collisions} collided), mean return {bag.mean_return:.2f}, "
            f"{bag.messages} messages in {bag.seconds:.0f} s"
        )


def sim(argv: list[str]) -> None:
    """Run `offrl sim drive` or `offrl sim fit`. Raises InputError."""
    runs = {"drive": DriveConfig, "fit": FitConfig}
    config = tyro.extras.subcommand_cli_from_dict(runs, prog="offrl sim", args=argv)
    if isinstance(config, FitConfig):
        report_fit(config)
    else:
        _drive(config)


def _drive(config: DriveConfig) -> None:
    from offrl_sim.picture import check_video, write_picture, write_video  # matplotlib: slow
    from offrl_sim.sketches import SKETCHES

    if config.video is not None:
        check_video(config.video)
    with closing(TaskEnv(config.task, config.robot, load_profile(config.profile))) as env:
        trace = drive(env, config.seed)
    print(trace)
    sketch = SKETCHES[config.task](trace)
    if config.picture is not None:
        write_picture(sketch, config.picture)
        print(f"wrote {config.picture}")
    if config.video is not None:
        write_video(sketch, config.video)
        print(f"wrote {config.video}")
