"""The picture of a finetuning run: scores, their dip, and how often commands were at a limit."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from offrl_contract import InputError

from offrl_training.finetuning.rollout import Evaluation, dip


def draw_curve(evaluations: Sequence[Evaluation], warm_up: int, path: Path) -> None:
    """Draw the evaluations of a run. Raises InputError where matplotlib is not installed."""
    try:
        from matplotlib.figure import Figure
    except ModuleNotFoundError as error:
        raise InputError(
            "the learning curve needs the Python package 'matplotlib', which is not installed. "
            "Install the extra that has it: pip install 'offrl[sim]'"
        ) from error
    steps = [each.step for each in evaluations]
    scores = np.array([each.score for each in evaluations])
    errors = [np.std(each.returns) / len(each.returns) ** 0.5 for each in evaluations]
    figure = Figure(figsize=(7.0, 5.0), layout="constrained")
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    above.axhline(scores[0], color="0.6", linestyle="--", label="offline")
    if warm_up:
        above.axvspan(0, warm_up, color="0.93", label="warm-up, nothing learned")
    above.fill_between(steps, scores - errors, scores + errors, alpha=0.25, linewidth=0.0)
    above.plot(steps, scores, marker="o", label="evaluation, mean ± standard error")
    fallen = dip(evaluations)
    if fallen > 0.0:
        lowest = int(scores.argmin())
        label = f"dip {fallen:.0%}"
        above.plot(steps[lowest], scores[lowest], "v", color="tab:red", label=label)
    above.set_ylabel("return")
    above.legend()
    below.plot(steps, [each.bound_rate for each in evaluations], marker="o")
    below.set_ylim(-0.02, 1.02)
    below.set_ylabel("bound rate")
    below.set_xlabel("steps in the environment")
    figure.savefig(path, dpi=120)
