"""Fitted Q Evaluation. Le, Voloshin, Yue 2019, arXiv 1903.08738.

What a policy that never drove would earn, from the log of another driver.

Several policies are evaluated as one program: they share each batch and differ in what they do at
its next states. Each has K critics. Critic k of every policy learns from the same bootstrap sample
of whole episodes (Hao et al. 2021, arXiv 2102.03607) and begins with the same weights: the spread
over k is the error that the log leaves open, and a difference of two policies is free of what they
have in common.

Deviations: critics descend on batches with slowly moving targets, where the paper fits each
iteration to its end; targets are clipped to what the rewards allow, as in the authors' code of
"Benchmarks for Deep Off-Policy Evaluation" (arXiv 2103.16596).
"""

import copy
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from offrl_training.adam import Adam
from offrl_training.algorithms.base import Batch
from offrl_training.evaluation.config import EvaluationConfig
from offrl_training.losses import descend, td_target
from offrl_training.networks import Critic, soft_update


@dataclass(frozen=True)
class Log:
    """Transitions to learn from, in network coordinates, and what P policies do after each."""

    data: Batch
    """N transitions of one tick."""
    next_actions: Tensor
    """(P, N, a) what each policy does at the next state."""
    counts: Tensor
    """(K, N) how often the bootstrap sample of critic k has the episode of each transition."""
    bounds: tuple[float, float]
    """Least and largest value that the rewards allow."""


def weighted_loss(q: Tensor, target: Tensor, counts: Tensor) -> Tensor:
    """Return sum_k mean_B n_k (Q_k - y_k)^2 (), for q, target and counts (M, B)."""
    return (counts * (q - target).square()).mean(-1).sum()


class FittedQEvaluation:
    """K critics of each of P policies, all in one ensemble of M = P K members, policy by policy."""

    def __init__(self, log: Log, config: EvaluationConfig, generator: torch.Generator) -> None:
        self.log, self.config, self.generator = log, config, generator
        self.policies, self.critics = len(log.next_actions), config.critics
        sizes = log.data.observations.shape[1], log.data.actions.shape[1], config.hidden
        self.q = Critic(self.policies * self.critics, *sizes, generator)
        for parameter in self.q.parameters():
            first = parameter.data[: self.critics].clone()
            parameter.data.copy_(torch.cat([first] * self.policies))
        self.q_target = copy.deepcopy(self.q).requires_grad_(False)
        self.optimizer = Adam(self.q.parameters(), config.learning_rate)
        # Values of about 1 suit the step size, whatever the unit of the rewards.
        self.unit = max(float(log.data.returns_to_go.square().mean().sqrt()), 1e-6)

    def run(self, steps: Iterable[int]) -> None:
        """Take the updates of these numbers, counted from 0."""
        for step in steps:
            self._update(self.config.learning_rate * (1.0 - step / self.config.steps))

    def values(self, observations: Tensor, actions: Tensor) -> Tensor:
        """Return Q (P, K, B) at states (B, o) of each policy's action there, (P, B, a)."""
        with torch.no_grad():
            q = _of_each(self.q, observations, actions, self.critics) * self.unit
        return q.view(self.policies, self.critics, -1)

    @torch.no_grad()
    def targets(self, batch: Batch, next_actions: Tensor) -> Tensor:
        """Return r + gamma (1 - d) Q'(s', pi(s')) (M, B), for actions (P, B, a) at s', in units."""
        value = _of_each(self.q_target, batch.next_observations, next_actions, self.critics)
        target = td_target(batch.rewards / self.unit, batch.discounts, value)
        return target.clamp(*(bound / self.unit for bound in self.log.bounds))

    def _update(self, rate: float) -> None:
        """Take one step of every critic towards its targets."""
        log, size = self.log, self.config.batch
        rows = torch.randint(len(log.data.rewards), (size,), generator=self.generator)
        batch = Batch(*(column[rows] for column in log.data))
        q = self.q(batch.observations, batch.actions)  # (M, B)
        counts = log.counts[:, rows].repeat(self.policies, 1)
        loss = weighted_loss(q, self.targets(batch, log.next_actions[:, rows]), counts)
        descend(self.optimizer, loss, rate)
        soft_update(self.q_target, self.q, self.config.tau)


def _of_each(q: Critic, observations: Tensor, actions: Tensor, critics: int) -> Tensor:
    """Return Q (P K, B) at states (B, o) of actions (P, B, a): policy p's by its K critics."""
    states = observations.expand(len(actions), *observations.shape)
    x = torch.cat([states, actions], -1).repeat_interleave(critics, 0)  # (P K, B, o + a)
    return q.outputs(torch.bmm(x, q.weights[0]).add_(q.biases[0]))
