"""The picture of a finetuning run: scores, their dip, and how often commands were at a limit."""

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from offrl_contract import InputError

from offrl_training.finetuning.rollout import Evaluation, falls


def require_matplotlib() -> None:
    """Raise InputError where matplotlib is not installed, before anything slow is done."""
    if find_spec("matplotlib") is None:
        raise InputError(
            "the learning curve needs the Python package 'matplotlib', which is not installed. "
            "Install the extra that has it: pip install 'offrl[sim]'"
        )


def draw_curve(evaluations: Sequence[Evaluation], warm_up: int, path: Path) -> None:
    """Draw the evaluations of a run."""
    from matplotlib.figure import Figure

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
    fallen = falls(evaluations)
    lowest = int(np.argmax(fallen))
    if fallen[lowest] > 0.0:
        label = f"dip {fallen[lowest]:.0%}"
        above.plot(steps[lowest], scores[lowest], "v", color="tab:red", label=label)
    above.set_ylabel("return")
    above.legend()
    below.plot(steps, [each.bound_rate for each in evaluations], marker="o")
    below.set_ylim(-0.02, 1.02)
    below.set_ylabel("bound rate")
    below.set_xlabel("steps in the environment")
    figure.savefig(path, dpi=120)
