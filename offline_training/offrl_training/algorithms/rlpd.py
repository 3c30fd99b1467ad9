"""RLPD. Ball, Smith, Kostrikov, Levine 2023, arXiv 2302.02948.

SAC that learns online from scratch with offline data in half of each batch (`offrl finetune
--method rlpd` mixes them). Settings are those of the authors' code (ikostrikov/rlpd). Deviations:
the order of updates is that of `sac`; the command takes layers, step sizes and target entropy, as
far as it has them, from the run it begins with, and makes 1 update per step by default against
their 20.
"""

import copy

import torch
from pydantic import PositiveInt, model_validator
from torch import Tensor

from offrl_training.adam import Adam
from offrl_training.algorithms.base import Dims
from offrl_training.algorithms.sac import SAC, SACConfig
from offrl_training.networks import NormalisedCritic


class RLPDConfig(SACConfig):
    """SAC with a large ensemble of critics that LayerNorm keeps from extrapolating."""

    members: PositiveInt = 10
    """E of algorithm 1: critics."""
    subset: PositiveInt = 2
    """Z of algorithm 1: critics drawn for each target, the lowest of which is taken."""
    target_entropy: float = -0.5
    """Entropy at which the policy is held, per action entry, in half action ranges [nat]."""
    entropy_backup: bool = True
    """Whether the value of the next state counts the policy's entropy."""

    @model_validator(mode="after")
    def _check_subset(self) -> "RLPDConfig":
        if self.subset > self.members:
            raise ValueError(f"subset: {self.subset} of {self.members} members")
        return self


class RLPD(SAC[RLPDConfig]):
    """SAC with LayerNorm critics, of which a few, drawn anew each time, make the target."""

    config_type = RLPDConfig

    def build(self, dims: Dims) -> None:
        """Create what SAC has, with an ensemble of critics."""
        super().build(dims)
        config, sizes = self.config, (dims.observation, dims.action, self.config.hidden)
        self.q = NormalisedCritic(config.members, *sizes, self.generator)
        self.q_target = copy.deepcopy(self.q).requires_grad_(False)
        self.q_optimizer = Adam(self.q.parameters(), config.critic_rate)

    def pooled(self, q: Tensor) -> Tensor:
        """Return the mean of all critics (B,) (algorithm 1)."""
        return q.mean(0)

    def next_value(self, observations: Tensor) -> Tensor:
        """Return min over drawn critics of Q'(s, a), a ~ pi, with the entropy if it counts (B,)."""
        config = self.config
        action, log_prob = self.policy.sample(observations, 1, self.generator)
        device = self.generator.device
        drawn = torch.randn(config.members, generator=self.generator, device=device)
        subset = drawn.topk(config.subset).indices  # any is as likely as any other
        q = self.q_target(observations, action.squeeze(1))[subset].amin(0)  # (B,)
        value: Tensor = q - self.log_alpha.exp() * log_prob.squeeze(1)
        return value if config.entropy_backup else q
