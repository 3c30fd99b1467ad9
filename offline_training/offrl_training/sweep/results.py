"""What a sweep found: its table, `sweep.csv`, and the course of every metric."""

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from offrl_training.files import write_atomically
from offrl_training.sweep.plan import Trial
from offrl_training.sweep.trials import Outcome

_FIRST = ("held_out_action_error", "held_out_td_error")


@dataclass(frozen=True)
class Result:
    """A trial, what became of it, and its metrics."""

    trial: Trial
    outcome: Outcome
    curves: Mapping[str, tuple[list[int], list[float]]]
    """Steps and values of each metric."""

    @property
    def step(self) -> int:
        """The last step that was logged; 0 where none was."""
        return max((steps[-1] for steps, _ in self.curves.values()), default=0)

    def last(self, metric: str) -> float | None:
        """The newest value of a metric, or None where it was never logged."""
        return self.curves[metric][1][-1] if metric in self.curves else None


def read_results(
    trials: Sequence[Trial], outcomes: Mapping[str, Outcome], out: Path
) -> list[Result]:
    """Read what the run folders in the folder of the sweep hold."""
    return [
        Result(trial, outcomes[trial.name], _curves(out / trial.name / "metrics.csv"))
        for trial in trials
    ]


def metric_names(results: Sequence[Result]) -> list[str]:
    """Return the metrics of all trials, held-out errors first."""
    found = list(dict.fromkeys(name for result in results for name in result.curves))
    return sorted(found, key=lambda name: (name not in _FIRST, name == "steps_per_second"))


def write_table(results: Sequence[Result], path: Path) -> None:
    """Write one row per trial: options, seed, state, attempts, error, newest metrics."""
    metrics = metric_names(results)
    varied = list(dict.fromkeys(name for result in results for name, _ in result.trial.varied))
    content = io.StringIO()
    writer = csv.writer(content, lineterminator="\n")
    head = ("trial", "algorithm", *varied, "seed", "state", "attempts", "error", "step")
    writer.writerow([*head, *metrics])
    for result in results:
        trial, outcome = result.trial, result.outcome
        options = (dict(trial.varied).get(name, "") for name in varied)
        row = (trial.name, trial.algorithm, *options, trial.training.seed)
        state = (outcome.state, outcome.attempts, outcome.error, result.step)
        values = (result.last(name) for name in metrics)
        writer.writerow([*row, *state, *("" if v is None else f"{v:.9g}" for v in values)])
    write_atomically(path, content.getvalue().encode())


def _curves(path: Path) -> dict[str, tuple[list[int], list[float]]]:
    """Read metrics.csv, column by column; a half-written last row is left out."""
    curves: dict[str, tuple[list[int], list[float]]] = {}
    if not path.is_file():
        return curves
    with path.open(newline="") as file:
        for row in csv.DictReader(line for line in file if line.endswith("\n")):
            for name, value in row.items():
                if value and name != "step":
                    steps, values = curves.setdefault(name, ([], []))
                    steps.append(int(row["step"]))
                    values.append(float(value))
    return curves
