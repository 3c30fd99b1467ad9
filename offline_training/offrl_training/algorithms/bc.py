"""Behavioural cloning: the policy that drove, as a regression."""

import torch.nn.functional as F
from pydantic import PositiveFloat
from torch import Tensor

from offrl_training.adam import Adam
from offrl_training.algorithms.base import Algorithm, AlgorithmConfig, Batch, Dims, Metrics
from offrl_training.losses import descend
from offrl_training.networks import DeterministicPolicy


class BCConfig(AlgorithmConfig):
    """Behavioural cloning."""

    learning_rate: PositiveFloat = 3e-4
    """Adam step size (CORL, any_percent_bc.py)."""


def cloning_loss(action: Tensor, data_action: Tensor) -> Tensor:
    """Squared error, averaged over (B, a)."""
    return F.mse_loss(action, data_action)


class BC(Algorithm[BCConfig]):
    """Learns the data's mean action in each state; it can be no better than who drove."""

    config_type = BCConfig

    def build(self, dims: Dims) -> None:
        """Create the policy and its optimiser."""
        self.policy = DeterministicPolicy(
            dims.observation, dims.action, self.config.hidden, self.generator
        )
        self.policy_optimizer = Adam(self.policy.parameters(), self.config.learning_rate)

    def update(self, batch: Batch) -> Metrics:
        """Take one step of regression."""
        loss = self.loss(batch)
        descend(self.policy_optimizer, loss)
        self.updates += 1
        return {"policy_loss": loss.detach()}

    def loss(self, batch: Batch) -> Tensor:
        """Return the loss of the policy's actions."""
        return cloning_loss(self.policy(batch.observations), batch.actions)
