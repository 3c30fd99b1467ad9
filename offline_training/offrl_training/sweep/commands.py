"""The verb `sweep`."""

from functools import partial
from pathlib import Path
from typing import Annotated

import tyro
from offrl_contract import InputError
from offrl_data.dataset import open_dataset
from offrl_data.web_page import write_whole
from pydantic import NonNegativeInt, PositiveInt
from pydantic.dataclasses import dataclass

from offrl_training.options import parse
from offrl_training.process import set_up
from offrl_training.run import open_run
from offrl_training.signals import deferred_signals, leave
from offrl_training.sweep.page import sweep_page
from offrl_training.sweep.plan import Trial, load_plan
from offrl_training.sweep.results import read_results, write_table
from offrl_training.sweep.trials import Outcome, check_room, cluster, run_trials
from offrl_training.tracking import Tracker, require_library, tracking
from offrl_training.trainer import fit
from offrl_training.transitions import read_dataset

_EXIT_FAILED = 1
_ELSEWHERE = "its run is not in --out here: the machines of the cluster must share that folder"


@dataclass(frozen=True)
class SweepCommand:
    """Train many policies on a dataset: algorithms, options and seeds, on Ray.

    Each trial has a process of its own. Many seeds of one setting with small networks are trained
    faster in one program: `offrl train --seeds`.
    """

    dataset: Annotated[Path, tyro.conf.Positional]
    """Dataset file (.h5)."""
    sweep: Annotated[Path, tyro.conf.Positional]
    """Sweep file (.yaml): algorithms with the values to try, seeds, options of every trial."""
    out: Path
    """Folder of the run folders, the table and the page; one that exists is gone on with."""
    address: str | None = None
    """Address of a running Ray cluster, whose machines must see dataset and --out under the same
    paths; by default Ray is started on this machine."""
    cores: PositiveInt | None = None
    """Cores of this machine to use, all by default. A trial takes as many as it has --threads."""
    retries: NonNegativeInt = 2
    """How often a trial that failed is begun again, from its last checkpoint."""
    tracker: Tracker = "none"
    """Send settings and metrics of each trial to Weights & Biases or MLflow, too."""


def sweep(argv: list[str]) -> None:
    """Run `offrl sweep`. Raises InputError; SystemExit where a trial failed or after a signal."""
    command = parse(SweepCommand, "sweep", argv)
    require_library(command.tracker)
    trials = load_plan(command.sweep)
    digest = open_dataset(command.dataset).digest
    done = [trial.name for trial in trials if trial.done(command.out, digest)]
    outcomes = {name: Outcome("finished", 0) for name in done}
    waiting = [trial for trial in trials if trial.name not in outcomes]
    print(f"{command.sweep}: {len(trials)} trials, {len(done)} of them finished before", flush=True)
    caught: list[int] = []
    if waiting:
        _make_folder(command.out)
        work = partial(
            train_trial,
            dataset=command.dataset.resolve(),
            out=command.out.resolve(),
            tracker=command.tracker,
        )
        with cluster(command.address, command.cores) as ray, deferred_signals() as caught:
            if command.address is None:  # a machine with room may join a cluster later
                check_room(waiting, ray.cluster_resources())
            say = partial(print, flush=True)
            outcomes |= run_trials(ray, waiting, work, command.retries, say, lambda: bool(caught))
    for trial in waiting:
        if outcomes[trial.name].state == "finished" and not trial.done(command.out, digest):
            outcomes[trial.name] = Outcome("failed", outcomes[trial.name].attempts, _ELSEWHERE)
    _write(command, trials, outcomes, digest)
    leave(caught)
    failed = sum(outcome.state == "failed" for outcome in outcomes.values())
    if failed:
        raise SystemExit(_EXIT_FAILED)


def _make_folder(out: Path) -> None:
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{out}: cannot be written: {error.strerror}") from error


def train_trial(trial: Trial, dataset: Path, out: Path, tracker: Tracker) -> None:
    """Train one trial to its last step, from its last checkpoint on. Raises InputError."""
    set_up(trial.training.threads)
    run = out / trial.name
    trainer, config = open_run(
        run,
        trial.algorithm,
        (trial.parameters, trial.training),
        read_dataset(dataset, trial.training.memory_limit),
        dataset.name,
        resume=True,
    )
    with tracking(tracker, run, config.settings()) as on_log:
        fit(trainer, run, lambda _: None, lambda: False, on_log)


def _write(
    command: SweepCommand, trials: list[Trial], outcomes: dict[str, Outcome], digest: str
) -> None:
    """Write the table and the page, and say where they are."""
    results = read_results(trials, outcomes, command.out)
    write_table(results, command.out / "sweep.csv")
    origin = [
        ("sweep file", command.sweep.name),
        ("dataset", command.dataset.name),
        ("dataset digest", digest),
    ]
    page = command.out / "sweep.html"
    title = f"{command.sweep.name} on {command.dataset.name}"
    write_whole(sweep_page(title, results, origin), page)
    states = [outcomes[trial.name].state for trial in trials]
    counts = (f"{states.count(state)} {state}" for state in dict.fromkeys(states))
    print(f"{', '.join(counts)}: {command.out / 'sweep.csv'}, {page}")
