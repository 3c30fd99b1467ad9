"""Who drives `RacecarTrack`: pure pursuit of mixed skill, or steering by the errors alone.

Pure pursuit: R. C. Coulter, "Implementation of the Pure Pursuit Path Tracking Algorithm",
CMU-RI-TR-92-01, 1992: steer along the arc that meets the path at the look-ahead distance.
"""

from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np

from offrl_sim.behaviour import Behaviour, Floats, Vector, draw_kind
from offrl_sim.racecar.physics import WHEELBASE
from offrl_sim.racecar.simulation import STRETCH, STRETCHES

Kind = Literal["careful", "hasty", "slow", "naive"]

SHARES: dict[Kind, float] = {"careful": 0.35, "hasty": 0.25, "slow": 0.15, "naive": 0.25}
"""How often each kind of driver is at the wheel."""


@dataclass(frozen=True)
class Skill:
    """How one episode is driven."""

    kind: Kind
    """`naive` steers by offset and heading alone, at one speed; the others look ahead."""
    speed: float
    """On a straight [m/s]."""
    grip: float
    """Sideways acceleration that it allows itself in bends [m/s^2]."""
    look_ahead: float
    """Distance to the point that it steers for [m]."""
    noise: tuple[float, float]
    """Standard deviation of the Ornstein-Uhlenbeck noise on the command [rad], [m/s]."""


class RacecarBehaviour(Behaviour[Skill]):
    """Steers for a point of the centre line ahead, and slows down for bends."""

    needs: ClassVar = {"offset": [1], "heading": [1], "curvature": [STRETCHES]}

    @staticmethod
    def draw_skill(rng: np.random.Generator) -> Skill:
        """Draw the skill of an episode."""
        kind = draw_kind(rng, SHARES)
        speeds = {
            "careful": (1.4, 2.2),
            "hasty": (2.2, 3.0),
            "slow": (0.7, 1.2),
            "naive": (1.5, 3.0),
        }
        grips = {
            "careful": (1.5, 3.0),
            "hasty": (4.0, 10.0),
            "slow": (1.5, 3.0),
            "naive": (99.0, 99.0),
        }
        look_aheads = {
            "careful": (0.7, 1.1),
            "hasty": (0.7, 1.8),
            "slow": (0.6, 1.1),
            "naive": (0.0, 0.0),
        }
        noise = rng.uniform(0.5, 1.5)
        return Skill(
            kind=kind,
            speed=rng.uniform(*speeds[kind]),
            grip=rng.uniform(*grips[kind]),
            look_ahead=rng.uniform(*look_aheads[kind]),
            noise=(0.08 * noise, 0.15 * noise),
        )

    def intended(self, observation: Vector) -> Floats:
        """Return steering angle [rad] and speed [m/s] (2,) for an observation (o,)."""
        terms = {name: observation[part] for name, part in self._slices.items()}
        offset, heading = float(terms["offset"][0]), float(terms["heading"][0])
        curvature = terms["curvature"].astype(np.float64)
        if self.skill.kind == "naive":
            return np.array([-0.3 * offset - 0.3 * heading, self.skill.speed])
        x, y = _in_car(_path_ahead(curvature), offset, heading, self.skill.look_ahead)
        # the arc through the rear axle and (x, y): curvature 2 y / distance^2
        x += WHEELBASE / 2.0
        steering = np.arctan(WHEELBASE * 2.0 * y / (x**2 + y**2))
        sharpest = max(float(np.abs(curvature[:4]).max()), 1e-3)
        return np.array([steering, min(self.skill.speed, np.sqrt(self.skill.grip / sharpest))])


def _path_ahead(curvature: Floats) -> Floats:
    """Return points (k + 1, 2) of the centre line in the track's frame at the car [m].

    `curvature` (k,) is that of each stretch.
    """
    turns = STRETCH * curvature
    headings = np.cumsum(turns) - turns / 2.0  # in the middle of each stretch
    steps = STRETCH * np.stack([np.cos(headings), np.sin(headings)], axis=1)
    return np.vstack([np.zeros(2), np.cumsum(steps, axis=0)])


def _in_car(path: Floats, offset: float, heading: float, distance: float) -> tuple[float, float]:
    """Return the point of a path at a distance along it, in the frame of the car [m]."""
    along = STRETCH * np.arange(len(path))
    x, y = (float(np.interp(distance, along, path[:, k])) for k in (0, 1))
    cos, sin = np.cos(heading), np.sin(heading)
    return cos * x + sin * (y - offset), cos * (y - offset) - sin * x
