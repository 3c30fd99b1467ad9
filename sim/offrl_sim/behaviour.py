"""Drivers whose logs are recorded: of mixed quality, so that there is something to improve.

Each episode draws a skill. A driver sees what a policy sees, the observation vector, and nothing
else.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import ClassVar, Generic, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray
from offrl_contract import InputError, Robot
from offrl_contract.errors import nearest

Floats = NDArray[np.float64]
Vector = NDArray[np.float32]


class Skill(Protocol):
    """How one episode is driven."""

    @property
    def kind(self) -> str:
        """What kind of driver is at the wheel."""

    @property
    def noise(self) -> tuple[float, ...]:
        """Standard deviation of the Ornstein-Uhlenbeck noise on the command, in its units."""


S = TypeVar("S", bound=Skill)
K = TypeVar("K", bound=str)


def draw_kind(rng: np.random.Generator, shares: dict[K, float]) -> K:
    """Draw a kind of driver by the shares of all."""
    kinds = list(shares)
    return kinds[int(rng.choice(len(kinds), p=list(shares.values())))]


class Behaviour(ABC, Generic[S]):
    """A driver with noise on the command that is correlated in time."""

    needs: ClassVar[Mapping[str, Sequence[int]]]
    """Lengths that a term which it looks at may have, by the term's name."""

    def __init__(self, robot: Robot, correlation_time: float = 0.5) -> None:
        """Find the terms in the robot's observation; `correlation_time` is of the noise [s].

        Raises InputError where one is missing, or of another length.
        """
        _require_terms(robot, self.needs)
        self._slices = robot.observation_slices
        self._keep = float(np.exp(-1.0 / (robot.rate * correlation_time)))
        self.begin(np.random.default_rng(0))

    @staticmethod
    @abstractmethod
    def draw_skill(rng: np.random.Generator) -> S:
        """Draw the skill of an episode."""

    @abstractmethod
    def intended(self, observation: Vector) -> Floats:
        """Return the command (a,) for an observation (o,), without noise."""

    def begin(self, rng: np.random.Generator) -> None:
        """Begin an episode with a skill drawn from `rng`, which also makes the noise."""
        self._rng = rng
        self.skill: S = self.draw_skill(rng)
        self._noise = np.zeros(len(self.skill.noise))

    def __call__(self, observation: Vector) -> Vector:
        """Return the command (a,) for an observation (o,)."""
        spread = np.array(self.skill.noise) * np.sqrt(1.0 - self._keep**2)
        self._noise = self._keep * self._noise + spread * self._rng.normal(size=len(spread))
        return (self.intended(observation) + self._noise).astype(np.float32)


def _require_terms(robot: Robot, needs: Mapping[str, Sequence[int]]) -> None:
    terms = {term.name: term for term in robot.observation}
    for name, lengths in needs.items():
        if name not in terms:
            raise InputError(
                f"robot '{robot.robot}': has no observation '{name}', by which the recorded driver "
                f"drives.{nearest(name, terms)}"
            )
        if terms[name].history > 1 or terms[name].parts not in lengths:
            allowed = ", ".join(map(str, lengths))
            raise InputError(
                f"robot '{robot.robot}': {name}: the recorded driver takes it without history and "
                f"with this many values: {allowed}"
            )
