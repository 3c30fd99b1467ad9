"""The verb `record`."""

from dataclasses import dataclass
from pathlib import Path

import tyro
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from offrl_sim.record import record_bags


@dataclass(frozen=True)
class RecordConfig:
    """Record the simulated robot, driven by controllers of mixed quality, into ROS 2 bags."""

    out: Path
    """Directory to write, with one rosbag2 directory per bag; must not exist."""
    episodes: int = 200
    """Episodes over all bags."""
    seed: int = 0
    """Scenario of the first episode; the others follow."""
    bags: int = 4
    """Bags to spread the episodes over."""


def record(argv: list[str]) -> None:
    """Run `offrl record`. Raises InputError."""
    config = tyro.cli(RecordConfig, prog="offrl record", args=argv)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, TimeRemainingColumn(), transient=True) as progress:
        task = progress.add_task("episodes", total=config.episodes)
        bags = record_bags(
            config.out, config.episodes, config.seed, config.bags, lambda: progress.advance(task)
        )
    for bag in bags:
        print(
            f"{bag.path}: {bag.episodes} episodes ({bag.successes} reached the goal, "
            f"{bag.collisions} collided), mean return {bag.mean_return:.2f}, "
            f"{bag.messages} messages in {bag.seconds:.0f} s"
        )
