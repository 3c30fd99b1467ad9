"""Who moves the hand in `PandaReach`: straight to the goal, more or less well."""

from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np

from offrl_sim.behaviour import Behaviour, Floats, Vector, draw_kind

Kind = Literal["careful", "hasty", "slow", "naive"]

SHARES: dict[Kind, float] = {"careful": 0.3, "hasty": 0.25, "slow": 0.2, "naive": 0.25}
"""How often each kind of driver moves the hand."""
_DOWN = np.array([1.0, -1.0, -1.0])  # from the axes of a hand that points down to the base's


@dataclass(frozen=True)
class Skill:
    """How one episode is driven."""

    kind: Kind
    """`naive` trusts a camera that is not calibrated; the others know where the goal is."""
    speed: float
    """Greatest speed of the hand [m/s]."""
    gain: float
    """Speed per distance to the goal [1/s]."""
    error: tuple[float, float, float]
    """Where it takes the goal to be, from where it is [m]."""
    noise: tuple[float, float, float]
    """Standard deviation of the Ornstein-Uhlenbeck noise on the command [m/s]."""


class PandaBehaviour(Behaviour[Skill]):
    """Moves the hand towards the goal at a speed in proportion to the distance, up to a limit."""

    needs: ClassVar = {"goal": [3]}

    @staticmethod
    def draw_skill(rng: np.random.Generator) -> Skill:
        """Draw the skill of an episode."""
        kind = draw_kind(rng, SHARES)
        speeds = {
            "careful": (0.2, 0.35),
            "hasty": (0.4, 0.6),
            "slow": (0.06, 0.14),
            "naive": (0.15, 0.4),
        }
        gains = {
            "careful": (2.0, 4.0),
            "hasty": (8.0, 14.0),
            "slow": (1.5, 3.0),
            "naive": (2.0, 6.0),
        }
        error = rng.normal(0.0, 0.025, 3) if kind == "naive" else np.zeros(3)
        x, y, z = error.tolist()
        noise = rng.uniform(0.02, 0.06) * (2.0 if kind == "hasty" else 1.0)
        return Skill(
            kind=kind,
            speed=rng.uniform(*speeds[kind]),
            gain=rng.uniform(*gains[kind]),
            error=(x, y, z),
            noise=(noise, noise, noise),
        )

    def intended(self, observation: Vector) -> Floats:
        """Return the hand's velocity (3,) [m/s] for an observation (o,)."""
        goal = _DOWN * observation[self._slices["goal"]].astype(np.float64)
        velocity = self.skill.gain * (goal + self.skill.error)
        speed = float(np.linalg.norm(velocity))
        slowed: Floats = velocity * min(1.0, self.skill.speed / max(speed, 1e-6))
        return slowed
