"""Settings of a finetuning run."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, NonNegativeFloat, NonNegativeInt, PositiveInt

from offrl_training.config import Seed

Method = Literal["continue", "wsrl", "rlpd", "sac"]
Preset = Literal["run", "paper", "small"]


class FinetuneConfig(BaseModel):
    """How a run goes on with new data."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    steps: PositiveInt = 100_000
    """Steps in the environment that are learned at, after the warm-up."""
    method: Method = "continue"
    """continue: the run's own algorithm, half of each batch from its dataset. wsrl: SAC from the
    policy and critics of a cql, cal_ql or sac run, without its dataset (arXiv 2412.07762). rlpd:
    from scratch, half of each batch from the dataset (arXiv 2302.02948). sac: from scratch."""
    preset: Preset = "run"
    """run: batch and sampled actions of the offline run. paper: batch 256, 10 sampled actions.
    small: batch 128, 4 sampled actions, for a small CPU. The networks stay those of the run; only
    methods from scratch take two layers of 256 (paper) or 128 (small)."""
    warm_up: NonNegativeInt = 1000
    """Steps that the policy drives before anything is learned, so that the first batches hold
    where it goes. It takes away most of the dip (arXiv 2412.07762)."""
    offline_share: float = Field(0.5, ge=0.0, le=1.0)
    """Share of each batch from the dataset, for continue and rlpd."""
    penalty_weight: NonNegativeFloat | None = None
    """Weight of CQL's penalty from now on; None: that of the offline run. For cql and cal_ql, whose
    few offline updates may want more of it (Cal-QL's cql_min_q_weight_online)."""
    updates: PositiveInt = 1
    """Updates per step."""
    noise: NonNegativeFloat = 0.1
    """Deviation of the noise on a deterministic policy's actions, in half action ranges (TD3);
    others draw from their own distribution."""
    evaluate_every: PositiveInt = 5000
    """Steps between evaluations, all on the same scenarios."""
    evaluate_episodes: PositiveInt = 20
    """Scenarios of each evaluation."""
    evaluate_ends: PositiveInt | None = None
    """Scenarios of the first evaluation and of the last, if not as many; those of the others are
    among them."""
    rollback: NonNegativeFloat | None = 0.2
    """An evaluation lower than the best by more than this share of it puts the networks of the best
    back. The last checkpoint is that of the best evaluation, too. None: neither."""
    seed: Seed = 0
    """Seed of exploration, sampling and of the scenarios that are learned in."""
    log_every: PositiveInt = 1000
    """Steps between rows of metrics.csv."""


DRIVES = (
    "warm_up",
    "noise",
    "evaluate_every",
    "evaluate_episodes",
    "evaluate_ends",
    "rollback",
)
"""Settings of driving and evaluating, which new bags have no use for."""
