"""Critic Regularized Regression. Wang et al. 2020, arXiv 2006.15134.

AWAC with other weights and a value from several samples. Settings are those of d3rlpy (crr.py).
Deviations: twin critics instead of a distributional one, as d3rlpy; and a target that follows
softly, and one deviation per action entry, as AWAC.
"""

from typing import Literal

from pydantic import Field, PositiveFloat, PositiveInt
from torch import Tensor

from offrl_training.algorithms.awac import AWAC, AWACConfig, exponential_weight


class CRRConfig(AWACConfig):
    """Cloning of those actions that are better than the policy's."""

    hidden: tuple[PositiveInt, ...] = Field((256, 256), min_length=1)
    """Width of each hidden layer, of policies and critics alike."""
    weighting: Literal["binary", "exponential"] = "binary"
    """Weight of an action: 1 or 0 by the sign of its advantage (CRR binary), or exponential (CRR
    exp)."""
    temperature: PositiveFloat = 1.0
    """beta of CRR exp [units of Q]: less prefers the better actions more; for exponential alone."""
    max_weight: PositiveFloat = 20.0
    """Largest exp(A / beta)."""
    samples: PositiveInt = 4
    """m: actions of the policy whose mean Q is the value of a state."""


def binary_weight(advantage: Tensor) -> Tensor:
    """Return 1[A > 0] (CRR binary), (B,)."""
    return (advantage > 0.0).float()


class CRR(AWAC[CRRConfig]):
    """Clones what is better than the policy and leaves out the rest."""

    config_type = CRRConfig

    def weight(self, advantage: Tensor) -> Tensor:
        """Return the weight (B,) of each transition in the policy's loss."""
        if self.config.weighting == "binary":
            return binary_weight(advantage)
        return exponential_weight(advantage, self.config.temperature, self.config.max_weight)
