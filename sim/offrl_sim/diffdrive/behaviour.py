"""Who drives `DiffDriveNav`: a potential field, or straight at the goal."""

from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
from offrl_contract import Robot

from offrl_sim.behaviour import Behaviour, Floats, Vector, draw_kind
from offrl_sim.diffdrive.simulation import BEAM_ANGLES, BEAMS
from offrl_sim.diffdrive.world import ROBOT_RADIUS

Kind = Literal["careful", "hasty", "slow", "naive"]

SHARES: dict[Kind, float] = {"careful": 0.35, "hasty": 0.25, "slow": 0.15, "naive": 0.25}
"""How often each kind of driver is at the wheel."""
_REPULSION = 4.0
_AROUND = 0.6
_MARGIN = 0.12  # [m]
_BRAKING = 0.8  # [m]
_SMALLEST_GAP = 0.03  # [m]


@dataclass(frozen=True)
class Skill:
    """How one episode is driven."""

    kind: Kind
    """`naive` drives straight at the goal; the others go round what they see."""
    speed: float
    """Cruising speed [m/s]."""
    reach: float
    """Distance from the robot's centre at which obstacles begin to repel [m]."""
    gain: float
    """Turning rate per heading error [1/s]."""
    side: float
    """1 to pass obstacles on the left, -1 on the right."""
    noise: tuple[float, float]
    """Standard deviation of the Ornstein-Uhlenbeck noise on the command [m/s], [rad/s]."""


class DiffDriveBehaviour(Behaviour[Skill]):
    """Drives by a potential field, or straight at the goal."""

    needs: ClassVar = {"scan": [n for n in range(1, BEAMS + 1) if BEAMS % n == 0], "goal": [2]}

    @staticmethod
    def draw_skill(rng: np.random.Generator) -> Skill:
        """Draw the skill of an episode."""
        kind = draw_kind(rng, SHARES)
        speeds = {
            "careful": (0.55, 0.75),
            "hasty": (0.6, 0.8),
            "slow": (0.25, 0.45),
            "naive": (0.3, 0.7),
        }
        reaches = {"careful": 1.3, "hasty": 0.9, "slow": 1.2, "naive": 0.0}
        noise = rng.uniform(0.5, 1.5)
        return Skill(
            kind=kind,
            speed=rng.uniform(*speeds[kind]),
            reach=reaches[kind],
            gain=rng.uniform(1.5, 3.0),
            side=float(rng.choice([-1.0, 1.0])),
            noise=(0.06 * noise, 0.3 * noise),
        )

    def __init__(self, robot: Robot) -> None:
        """Find the terms in the robot's observation."""
        super().__init__(robot)
        scan = self._slices["scan"]
        self._angles = BEAM_ANGLES.reshape(scan.stop - scan.start, -1).mean(axis=1)
        self._directions = np.stack([np.cos(self._angles), np.sin(self._angles)], axis=1)

    def intended(self, observation: Vector) -> Floats:
        """Return forward speed [m/s] and turning rate [rad/s] (2,) for an observation (o,)."""
        scan = observation[self._slices["scan"]].astype(np.float64)
        goal = observation[self._slices["goal"]].astype(np.float64)
        force, room = goal / max(float(np.hypot(*goal)), 1e-6), 1.0
        if self.skill.kind != "naive":
            force = force + self._repulsion(scan, goal)
            room = self._room_ahead(scan)
        heading = float(np.arctan2(force[1], force[0]))
        speed = self.skill.speed * max(np.cos(heading), 0.0) * room
        return np.array([speed, self.skill.gain * heading])

    def _repulsion(self, scan: Floats, goal: Floats) -> Floats:
        """Return the push (2,) away from what is near and ahead, and round it on the liked side."""
        gap = np.maximum(scan - ROBOT_RADIUS, _SMALLEST_GAP)
        strength = np.clip(1.0 / gap - 1.0 / (self.skill.reach - ROBOT_RADIUS), 0.0, 6.0)
        strength *= (1.0 + np.cos(self._angles)) / 2.0
        strength *= scan < np.hypot(*goal) + ROBOT_RADIUS  # what lies behind the goal is no matter
        away = -_REPULSION * (strength @ self._directions) / len(scan)
        around = self.skill.side * np.array([-away[1], away[0]])
        total: Floats = away + _AROUND * around
        return total

    def _room_ahead(self, scan: Floats) -> float:
        """Return the free way straight ahead as a share of the braking distance."""
        beside = np.abs(scan * np.sin(self._angles))
        in_the_way = (beside < ROBOT_RADIUS + _MARGIN) & (np.cos(self._angles) > 0.0)
        free = scan[in_the_way].min(initial=np.inf) - ROBOT_RADIUS
        return float(np.clip(free / _BRAKING, 0.15, 1.0))
