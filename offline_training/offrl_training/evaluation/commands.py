"""The verb `evaluate`."""

import json
import sys
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import tyro
from offrl_contract import InputError
from offrl_contract.robot_file import require_same
from offrl_data.dataset import load_dataset
from offrl_data.output import require_writable
from offrl_data.web_page import write_whole
from rich.console import Console
from rich.progress import track
from rich.table import Table

from offrl_training.evaluation.config import EvaluationConfig
from offrl_training.evaluation.estimate import Estimates, estimate
from offrl_training.options import parse
from offrl_training.process import set_up
from offrl_training.run import TrainedRun, load_run


@dataclass(frozen=True)
class EvaluateCommand:
    """Estimate from a log what trained policies would earn, before one of them drives.

    By Fitted Q Evaluation, beside the driver of the log, whose earnings are known.
    """

    runs: Annotated[tuple[Path, ...], tyro.conf.Positional]
    """Run folders, all of the dataset's robot."""
    data: Path
    """Dataset file (.h5): the one that the runs were trained on, or another log of the robot."""
    evaluation: EvaluationConfig
    out: Path | None = None
    """JSON file to write, too."""


def evaluate(argv: list[str]) -> None:
    """Run `offrl evaluate`. Raises InputError."""
    command = parse(EvaluateCommand, "evaluate", argv)
    if not command.runs:
        raise InputError("offrl evaluate: needs one run folder at least")
    config = command.evaluation
    set_up(config.threads)
    dataset = load_dataset(command.data)
    runs: dict[str, TrainedRun] = {}
    for path in dict.fromkeys(command.runs):
        runs[str(path)] = run = load_run(path)
        require_same(run.robot, dataset.robot, f"{path}/robot.yaml", str(command.data))
    if command.out is not None:
        require_writable(command.out, [command.data])
    policies = {name: run.algorithm.act for name, run in runs.items()}
    watch = partial(track, description="evaluating", disable=not sys.stdout.isatty())
    found = estimate(dataset, policies, config, watch)
    show(found, config)
    if command.out is not None:
        record = _record(found, runs, config, dataset.digest)
        write_whole(json.dumps(record, indent=1) + "\n", command.out)


def show(found: Estimates, config: EvaluationConfig) -> None:
    """Print the table, surest policy first, and how far to trust it."""
    title = f"discounted return (gamma {config.gamma:g}) of an episode, with 95 % intervals"
    table = Table(title=title, title_justify="left")
    for head in ("policy", "would earn", "more than the driver"):
        table.add_column(head, overflow="fold")
    # by the lower end: of a policy that leaves the data, the mean can be anything
    for name in sorted(found.values, key=lambda name: -found.values[name].low):
        table.add_row(name, str(found.values[name]), str(found.gains[name]))
    table.add_row("driver, by the same method", str(found.driver), "")
    table.add_row("driver, in truth", str(found.earned), "")
    Console(highlight=False).print(table)
    error = found.driver.mean - found.earned.mean
    print(
        f"In {found.episodes} held-out episodes the method is off by {error:+.3g} for the driver; "
        "believe no difference that is smaller.\nThe intervals are of chance alone: where a policy "
        "does what the log never shows, an estimate can be wrong by more."
    )


def _record(
    found: Estimates, runs: dict[str, TrainedRun], config: EvaluationConfig, digest: str
) -> dict[str, Any]:
    """Return the figures, and what they were made from."""
    policies = {
        name: {
            "algorithm": run.algorithm_name,
            "step": run.step,
            "value": asdict(found.values[name]),
            "gain": asdict(found.gains[name]),
        }
        for name, run in runs.items()
    }
    return {
        "dataset_digest": digest,
        "settings": config.model_dump(mode="json"),
        "policies": policies,
        "driver": {"estimated": asdict(found.driver), "earned": asdict(found.earned)},
        "held_out_episodes": found.episodes,
    }
