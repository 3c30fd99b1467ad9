"""What the units of benchmarks/finetune.py come to: medians over seeds, intervals, the picture."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

Units = Mapping[str, Mapping[str, Any]]
_DRAWS = 10_000


def summary(units: Units) -> dict[str, Any]:
    """Return, by method, medians over seeds of what is asked of finetuning, with 95 % intervals.

    `lowest / offline`: of all later evaluations, each against the offline policy on the scenarios
    that both drove. `regret`: best final score of any method of the seed minus the score, meant
    over the online steps; less is better. Intervals are bootstrapped over the seeds.
    """
    found: dict[str, dict[str, list[float]]] = {}
    best = _best_of_seeds(units)
    for entry in units.values():
        row = found.setdefault(entry["method"], {})
        for name, value in _figures(entry, best[entry["seed"]]).items():
            row.setdefault(name, []).append(value)
    return {
        method: {"seeds": len(row["offline"]), **{k: _median(v) for k, v in row.items()}}
        for method, row in found.items()
    }


def _best_of_seeds(units: Units) -> dict[int, float]:
    best: dict[int, float] = {}
    for entry in units.values():
        final = float(np.mean(entry["evaluations"][-1]["returns"]))
        best[entry["seed"]] = max(final, best.get(entry["seed"], -np.inf))
    return best


def _figures(entry: Mapping[str, Any], best: float) -> dict[str, float]:
    evaluations = entry["evaluations"]
    first, last = (np.array(evaluations[k]["returns"]) for k in (0, -1))
    offline, final = float(first.mean()), float(last.mean())
    figures = {"offline": offline, "final": final}
    successes = evaluations[-1].get("successes") or []
    if successes:
        figures["success offline"] = float(np.mean(evaluations[0]["successes"]))
        figures["success final"] = float(np.mean(successes))
    if len(evaluations) > 1:
        ratios = [_ratio(each["returns"], first) for each in evaluations[1:]]
        steps = [each["step"] for each in evaluations]
        scores = [float(np.mean(each["returns"])) for each in evaluations]
        figures["lowest / offline"] = min(ratios)
        figures["final / offline"] = _ratio(last.tolist(), first)
        figures["regret"] = best - float(np.trapezoid(scores, steps) / (steps[-1] - steps[0]))
        figures["bound rate"] = evaluations[-1]["bound_rate"]
    return figures


def _ratio(returns: list[float], first: Any) -> float:
    """Return the score over the offline policy's on as many scenarios, 1 + gain / |offline|."""
    before = float(first[: len(returns)].mean())
    return 1.0 + (float(np.mean(returns)) - before) / max(abs(before), 1e-9)


def _median(values: list[float]) -> dict[str, Any]:
    draws = np.random.default_rng(0).choice(values, (_DRAWS, len(values)))
    low, high = np.quantile(np.median(draws, 1), (0.025, 0.975))
    numbers = {"median": np.median(values), "low": low, "high": high}
    rounded = {name: float(f"{value:.4g}") for name, value in numbers.items()}
    return {**rounded, "values": [float(f"{value:.4g}") for value in values]}


def draw(units: Units, path: Path, title: str) -> None:
    """Draw the median score of each method over the online steps, and its seeds thinly."""
    figure = Figure(figsize=(9.0, 5.5), layout="constrained")
    axes = figure.subplots()
    methods = list(dict.fromkeys(entry["method"] for entry in units.values()))
    for colour, method in enumerate(methods):
        runs = [entry["evaluations"] for entry in units.values() if entry["method"] == method]
        lines = [[float(np.mean(each["returns"])) for each in run] for run in runs]
        steps = [each["step"] for each in runs[0]]
        if len(steps) == 1:
            axes.axhline(np.median(lines), color=f"C{colour}", linestyle=":", label=method)
            continue
        for line in lines:
            axes.plot(steps, line, color=f"C{colour}", alpha=0.25, linewidth=0.8)
        median = np.median(lines, axis=0)
        axes.plot(steps, median, color=f"C{colour}", marker="o", linewidth=2.0, label=method)
    axes.set_xlabel("steps in the shifted environment (the first 1,000 are warm-up)")
    axes.set_ylabel("return, mean over scenarios")
    axes.set_title(f"{title}: median of the seeds bold, each seed thin")
    axes.legend(ncols=2, fontsize="small")
    figure.savefig(path, dpi=120)
