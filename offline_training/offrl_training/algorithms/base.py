"""What every algorithm is: a network module that is built, updated by batches, and acts."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar, Generic, NamedTuple, TypeVar

import torch
from pydantic import BaseModel, ConfigDict, Field, PositiveInt
from torch import Tensor, nn

from offrl_training.networks import Normaliser

Metrics = dict[str, Tensor]
"""Scalar tensors by name; they stay on the device until they are logged."""


@dataclass(frozen=True)
class Dims:
    """What networks and schedules are built for."""

    observation: int
    """Length o of the observation vector."""
    action: int
    """Length a of the action vector."""
    steps: int
    """Updates of the whole run."""


class Batch(NamedTuple):
    """B transitions in network coordinates (see Normaliser)."""

    observations: Tensor
    """(B, o)"""
    actions: Tensor
    """(B, a) in [-1, 1]."""
    rewards: Tensor
    """(B,) with n-step returns r_t + gamma r_{t+1} + … of n ticks."""
    next_observations: Tensor
    """(B, o) where the last of these ticks led."""
    discounts: Tensor
    """(B,) what a value there counts at t: gamma, or gamma^n; 0 where the task ended (a terminal,
    not a timeout)."""
    returns_to_go: Tensor
    """(B,) what the log earned from here on (see returns.py)."""
    rows: Tensor
    """(B,) place of each among the transitions it was drawn from; in a stream, in the batch."""


class AlgorithmConfig(BaseModel):
    """Settings that every algorithm has."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    hidden: tuple[PositiveInt, ...] = Field((256, 256), min_length=1)
    """Width of each hidden layer, of policies and critics alike."""
    gamma: float = Field(0.99, ge=0.0, lt=1.0)
    """Discount per tick."""


class CriticConfig(AlgorithmConfig):
    """Settings of algorithms with a target critic."""

    tau: float = Field(0.005, gt=0.0, le=1.0)
    """Share of the critic that its target takes over per update."""


C = TypeVar("C", bound=AlgorithmConfig)


class Algorithm(nn.Module, ABC, Generic[C]):
    """Networks, targets and optimisers of one algorithm.

    All randomness comes from the generator, so that a run resumes where it stopped.
    """

    config_type: ClassVar[type[AlgorithmConfig]]
    chooses: ClassVar[bool] = False
    """Whether the policy picks among candidates, so that a rounding error may change its choice."""
    needs_all: ClassVar[bool] = False
    """Whether `prepare` has to see all training transitions before the first step."""
    warm_updates: int = 0
    """Updates at the beginning of the run in which Q has no say in the policy."""
    policy: nn.Module
    """Deterministic policy in network coordinates: (B, o) to (B, a) in [-1, 1]."""

    def __init__(
        self, config: C, dims: Dims, normaliser: Normaliser, generator: torch.Generator
    ) -> None:
        super().__init__()
        self.config = config
        self.normaliser = normaliser
        self.generator = generator
        self.updates = 0
        self.build(dims)

    @abstractmethod
    def build(self, dims: Dims) -> None:
        """Create the policy, the other networks and the optimisers."""

    def prepare(self, data: Batch) -> None:
        """Look at all transitions to train on; called before the first step of each process.

        What it finds depends on them alone, so that a run resumes where it stopped.
        """

    def begin_online(self) -> None:
        """Prepare to go on with data of one's own: schedules over the run are at their end."""
        self.warm_updates = 0

    @abstractmethod
    def update(self, batch: Batch) -> Metrics:
        """Take one training step."""

    def quick_policy(self, observation: Tensor) -> Tensor:
        """Return `policy(observation)`, or an action nearly as good at a fraction of the work.

        For large batches in training: the gate's critics and the held-out errors.
        """
        action: Tensor = self.policy(observation)
        return action

    def act(self, observation: Tensor) -> Tensor:
        """Return the deterministic action (B, a) for observations (B, o), both in SI units."""
        action: Tensor = self.policy(self.normaliser.observation(observation))
        return self.normaliser.action_to_si(action)

    def forward(self, observation: Tensor) -> Tensor:
        """Do as `act`, so that the module itself can be traced."""
        return self.act(observation)

    def optimizers(self) -> dict[str, torch.optim.Optimizer]:
        """Return every optimiser by the name of its attribute."""
        found = vars(self).items()
        return {name: value for name, value in found if isinstance(value, torch.optim.Optimizer)}

    def get_extra_state(self) -> dict[str, Any]:
        """Return what state_dict holds besides tensors: the count of updates."""
        return {"updates": self.updates}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Take over the count of updates."""
        self.updates = int(state["updates"])
