"""The driver whose logs are recorded: of mixed quality, so that there is something to improve.

Each episode draws a skill. It sees what a policy sees, the observation vector, and nothing else.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from offrl_contract import Robot

from offrl_sim.messages import BEAM_ANGLES
from offrl_sim.world import ROBOT_RADIUS

Floats = NDArray[np.float64]
Vector = NDArray[np.float32]
Kind = Literal["careful", "hasty", "slow", "naive"]

SHARES: dict[Kind, float] = {"careful": 0.35, "hasty": 0.25, "slow": 0.15, "naive": 0.25}
"""How often each kind of driver is at the wheel."""


@dataclass(frozen=True)
class Skill:
    """How one episode is driven."""

    kind: Kind
    """`naive` drives straight at the goal; the others go round what they see."""
    speed: float
    """Cruising speed [m/s]."""
    look_ahead: float
    """How far obstacles are heeded [m]."""
    margin: float
    """Space kept beside the robot's body [m]."""
    gain: float
    """Turning rate per heading error [1/s]."""
    side: float
    """Liking for passing on the left (> 0) or right (< 0)."""
    noise: tuple[float, float]
    """Standard deviation of the Ornstein-Uhlenbeck noise on the command [m/s], [rad/s]."""


def draw_skill(rng: np.random.Generator) -> Skill:
    """Draw the skill of an episode."""
    kinds = list(SHARES)
    kind = kinds[int(rng.choice(len(kinds), p=list(SHARES.values())))]
    speeds = {
        "careful": (0.55, 0.75),
        "hasty": (0.6, 0.8),
        "slow": (0.25, 0.45),
        "naive": (0.3, 0.7),
    }
    look_aheads = {"careful": (1.4, 2.0), "hasty": (0.5, 0.9)}
    margins = {"careful": (0.08, 0.15), "hasty": (0.0, 0.08)}
    noise = rng.uniform(0.5, 1.5)
    return Skill(
        kind=kind,
        speed=rng.uniform(*speeds[kind]),
        look_ahead=rng.uniform(*look_aheads.get(kind, (0.8, 1.5))),
        margin=rng.uniform(*margins.get(kind, (0.05, 0.12))),
        gain=rng.uniform(1.5, 3.0),
        side=rng.choice([-1.0, 1.0]) * rng.uniform(0.05, 0.2),
        noise=(0.06 * noise, 0.3 * noise),
    )


class Behaviour:
    """Drives by gap following, or straight at the goal, with noise on the command."""

    def __init__(self, robot: Robot, correlation_time: float = 0.5) -> None:
        """Find the terms in the robot's observation; `correlation_time` is of the noise [s]."""
        start = 0
        self._slices: dict[str, slice] = {}
        for term in robot.observation:
            self._slices[term.name] = slice(start, start + robot.width(term))
            start += robot.width(term)
        bins = robot.width(next(t for t in robot.observation if t.name == "scan"))
        self._angles = BEAM_ANGLES.reshape(bins, -1).mean(axis=1)
        self._bearing = np.subtract.outer(self._angles, self._angles)  # from heading to bin
        self._keep = float(np.exp(-1.0 / (robot.rate * correlation_time)))
        self.begin(np.random.default_rng(0))

    def begin(self, rng: np.random.Generator) -> None:
        """Begin an episode with a skill drawn from `rng`, which also makes the noise."""
        self._rng = rng
        self._noise = np.zeros(2)
        self.skill = draw_skill(rng)

    def __call__(self, observation: Vector) -> Vector:
        """Return the command (2,) [m/s], [rad/s] for an observation (o,)."""
        scan = observation[self._slices["scan"]].astype(np.float64)
        goal = observation[self._slices["goal"]].astype(np.float64)
        heading, room = (
            self._straight(goal) if self.skill.kind == "naive" else self._gap(scan, goal)
        )
        speed = self.skill.speed * max(np.cos(heading), 0.0) * np.clip(room, 0.25, 1.0)
        spread = np.array(self.skill.noise) * np.sqrt(1.0 - self._keep**2)
        self._noise = self._keep * self._noise + spread * self._rng.normal(size=2)
        turning = self.skill.gain * heading
        return (np.array([speed, turning]) + self._noise).astype(np.float32)

    def _straight(self, goal: Floats) -> tuple[float, float]:
        return float(np.arctan2(goal[1], goal[0])), 1.0

    def _gap(self, scan: Floats, goal: Floats) -> tuple[float, float]:
        """Return the heading [rad] with the best of free way and progress, and the room there.

        Room is the free way as a share of the look-ahead; the careful count the way straight ahead
        too, and so slow down before they turn.
        """
        far = min(self.skill.look_ahead, float(np.hypot(*goal)))
        beside = np.abs(scan * np.sin(self._bearing))  # (headings, bins)
        ahead = scan * np.cos(self._bearing)
        blocks = (beside < ROBOT_RADIUS + self.skill.margin) & (ahead > 0.0)
        free = np.where(blocks, ahead, np.inf).min(axis=1) - ROBOT_RADIUS
        free = np.clip(free, 0.0, far) / far
        off_goal = self._angles - np.arctan2(goal[1], goal[0])
        sideways = self.skill.side * np.sin(self._angles)
        value = 2.0 * free + np.cos(off_goal) + sideways + 0.6 * np.cos(self._angles)
        best = int(value.argmax())
        room = free[best]
        if self.skill.kind == "careful":
            room = min(room, free[np.abs(self._angles).argmin()])
        return float(self._angles[best]), float(room)
