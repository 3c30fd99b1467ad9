"""Settings of an evaluation."""

from pydantic import BaseModel, ConfigDict, Field, PositiveFloat, PositiveInt

from offrl_training.config import Seed


class EvaluationConfig(BaseModel):
    """How policies are evaluated on a log."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    gamma: float = Field(0.99, ge=0.0, lt=1.0)
    """Discount per tick of the value that is estimated, whatever the runs were trained with."""
    steps: PositiveInt = 5000
    """Updates of the critics."""
    batch: PositiveInt = 256
    """Transitions per update."""
    critics: int = Field(10, ge=2)
    """Critics of each policy; each learns from a bootstrap sample of the episodes."""
    hidden: tuple[PositiveInt, ...] = Field((128, 128), min_length=1)
    """Width of each hidden layer."""
    learning_rate: PositiveFloat = 1e-3
    """Adam step size, falling to 0 over the updates."""
    tau: float = Field(0.05, gt=0.0, le=1.0)
    """Share of the critics that their targets take over per update. The policy stays as it is, so
    it may be larger than in training."""
    held_out: float = Field(0.2, gt=0.0, lt=1.0)
    """Share of the episodes at whose beginnings values are read; the critics learn from the others.
    Those of a run with the same seed are the same."""
    seed: Seed = 0
    """Seed of the split, the bootstrap samples, the networks and the batches."""
    threads: PositiveInt = 1
    """CPU threads."""
