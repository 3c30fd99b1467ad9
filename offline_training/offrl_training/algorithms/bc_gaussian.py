"""Behavioural cloning by likelihood: a Gaussian whose deviation depends on the state."""

from torch import Tensor

from offrl_training.adam import Adam
from offrl_training.algorithms.base import Batch, Dims
from offrl_training.algorithms.bc import BC, BCConfig
from offrl_training.networks import StateGaussianPolicy


class BCGaussianConfig(BCConfig):
    """Behavioural cloning by likelihood."""


class BCGaussian(BC):
    """Learns how sure the driver was, too; where he wavered, the fit of his mean weighs less."""

    config_type = BCGaussianConfig
    policy: StateGaussianPolicy

    def build(self, dims: Dims) -> None:
        """Create the policy and its optimiser."""
        self.policy = StateGaussianPolicy(
            dims.observation, dims.action, self.config.hidden, self.generator
        )
        self.policy_optimizer = Adam(self.policy.parameters(), self.config.learning_rate)

    def loss(self, batch: Batch) -> Tensor:
        """Return -log pi(a|s), averaged over (B,)."""
        return -self.policy.log_prob(batch.observations, batch.actions).mean()
