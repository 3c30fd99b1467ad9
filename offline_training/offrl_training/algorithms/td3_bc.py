"""TD3+BC. Fujimoto, Gu 2021, arXiv 2106.06860.

TD3 with another policy loss. Settings are those of the authors' code (sfujim/TD3_BC, main.py).
"""

from pydantic import NonNegativeFloat
from torch import Tensor

from offrl_training.algorithms.base import Batch
from offrl_training.algorithms.bc import cloning_loss
from offrl_training.algorithms.td3 import TD3, TD3Config


class TD3BCConfig(TD3Config):
    """TD3 with a pull towards the data's actions."""

    alpha: NonNegativeFloat = 2.5
    """Weight of Q against cloning, eq. 5; 0 is behavioural cloning."""


def policy_loss(q: Tensor, action: Tensor, data_action: Tensor, alpha: float) -> Tensor:
    """Return -lambda Q(s, pi(s)) + (pi(s) - a)^2, lambda = alpha / mean |Q| (eqs. 3 and 5)."""
    scale = alpha / q.abs().mean().detach()
    return -scale * q.mean() + cloning_loss(action, data_action)


class TD3BC(TD3[TD3BCConfig]):
    """Maximises Q, held near the data by a cloning term of fixed relative weight."""

    config_type = TD3BCConfig

    def policy_loss(self, q: Tensor, action: Tensor, batch: Batch) -> Tensor:
        """Return the loss of eq. 3, averaged over (B,)."""
        return policy_loss(q, action, batch.actions, self.config.alpha)
