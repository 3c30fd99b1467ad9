"""Settings of a run that do not depend on the algorithm."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, PositiveInt

SEEDS = 2**32
Seed = Annotated[int, Field(ge=0, lt=SEEDS)]
"""As large as every generator of random numbers takes."""

RewardScale = Literal["none", "return_range", "standard", "unit"]


class TrainingConfig(BaseModel):
    """How a run is made, whatever its algorithm."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    steps: PositiveInt = 1_000_000
    """Updates of the whole run."""
    batch: PositiveInt = 256
    """Transitions per update."""
    seed: Seed = 0
    """Seed of the split, the networks and the sampling."""
    held_out: float = Field(0.2, ge=0.0, lt=1.0)
    """Share of the episodes kept from training, for the gate's calibration; whole episodes."""
    reward_scale: RewardScale = "none"
    """return_range: rewards times 1000 / (largest - smallest episode return), as IQL's authors;
    standard: mean 0, deviation 1; unit: from 0 to 1. The last two shift rewards, which changes what
    it is worth to end early."""
    n_step: PositiveInt = 1
    """Ticks whose rewards are summed before a value follows. More than 1 learns faster from late
    rewards, but from the driver's actions in between, not the policy's."""
    device: Literal["cpu", "cuda"] = "cpu"
    """Where to train."""
    precision: Literal["float32", "bf16"] = "float32"
    """bf16: matrix products in half the digits, parameters and sums in all. For processors that
    multiply bfloat16 (AVX-512 BF16, AMX, GPUs); on others it is slower."""
    compile: bool = False
    """Compile the training step with torch.compile: 1.1 to 1.8 times the steps on a CPU, after
    up to a minute and a half. Needs a C++ compiler. On a GPU it asks for CUDA graphs: not tried."""
    memory_limit: PositiveInt | None = None
    """Megabytes of transitions in memory; a dataset with more streams from its file. By default all
    of them are."""
    threads: PositiveInt = 1
    """CPU threads. With more than one, any neighbour on a core makes small products many times
    slower."""
    log_every: PositiveInt = 1000
    """Steps between rows of metrics.csv."""
    checkpoint_every: PositiveInt = 10_000
    """Steps between checkpoints; the last three are kept."""
