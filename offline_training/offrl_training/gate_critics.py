"""The safety gate's critics: an ensemble whose spread says how far the data carries.

Each critic bootstraps from its own target network and no other. Shared pessimistic targets would
make the members agree where they know nothing (Ghasemipour, Gu, Nachum 2022, arXiv 2205.13703).
"""

import copy
import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from offrl_training.adam import Adam
from offrl_training.algorithms.base import Batch, Dims, Metrics
from offrl_training.losses import descend, td_loss, td_target
from offrl_training.networks import Critic, Normaliser, soft_update

Policy = Callable[[Tensor], Tensor]
"""Observations (B, o) to actions (B, a), in network coordinates."""

CRITICS = 5
LEARNING_RATE = 3e-4
SHARE = 0.2
"""Matrix products that they may add to a step's own, in operations."""
TAU = 0.005
"""Share of the critics that their targets take over per step of the trainer."""


def interval(of_gate: int, per_step: float) -> int:
    """Return after how many steps the critics learn, given the operations of either."""
    return math.ceil(of_gate / (SHARE * per_step))


class GateCritics(nn.Module):
    """K critics of the policy in training, Q^pi, for any algorithm; they never steer it."""

    def __init__(
        self,
        dims: Dims,
        hidden: Sequence[int],
        normaliser: Normaliser,
        generator: torch.Generator,
    ) -> None:
        super().__init__()
        self.normaliser = normaliser
        self.interval = 5
        """Steps of the trainer per update. Five critics with their targets cost more than most
        algorithms; a faster target makes up for fewer updates."""
        self.q = Critic(CRITICS, dims.observation, dims.action, hidden, generator)
        self.q_target = copy.deepcopy(self.q).requires_grad_(False)
        self.q_optimizer = Adam(self.q.parameters(), LEARNING_RATE)

    def forward(self, observation: Tensor, action: Tensor) -> Tensor:
        """Return Q of each critic (K, B) for observations (B, o) and actions (B, a) in SI units."""
        q: Tensor = self.q(self.normaliser.observation(observation), self.normaliser.action(action))
        return q

    def targets(self, batch: Batch, policy: Policy) -> Tensor:
        """Return r + gamma (1 - d) Q'_k(s', pi(s')), one target per critic (K, B)."""
        with torch.no_grad():
            next_action = policy(batch.next_observations)
            next_value = self.q_target(batch.next_observations, next_action)  # (K, B)
        return td_target(batch.rewards, batch.discounts, next_value)

    def error(self, batch: Batch, policy: Policy) -> Tensor:
        """Return the temporal-difference error of each critic (K, B)."""
        q: Tensor = self.q(batch.observations, batch.actions)
        return q - self.targets(batch, policy)

    def update(self, batch: Batch, policy: Policy) -> Metrics:
        """Take one training step."""
        q = self.q(batch.observations, batch.actions)  # (K, B)
        loss = td_loss(q, self.targets(batch, policy))
        descend(self.q_optimizer, loss)
        soft_update(self.q_target, self.q, min(TAU * self.interval, 1.0))
        return {"gate_loss": loss.detach(), "gate_std": q.detach().std(0).mean()}
