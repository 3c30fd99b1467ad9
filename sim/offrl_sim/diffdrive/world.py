"""Worlds to drive in: a walled square arena, round obstacles, a start and a goal."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

ARENA = 8.0
"""Inner side of the arena, centred on the origin [m]."""
RADII = tuple(0.15 + 0.025 * step for step in range(14))
"""Radius of each obstacle that the simulator keeps ready [m]."""
ROBOT_RADIUS = 0.22
"""Radius of the robot's round body [m]."""
START_CLEARANCE = 0.55
"""Free space between the robot's centre, or the goal, and the nearest surface [m]."""
PASSAGE = 0.5
"""Least gap between two obstacles beyond the robot's width [m]."""
SHORTEST = 4.0
"""Least distance from start to goal [m]."""
_CANDIDATES = 64


@dataclass(frozen=True)
class World:
    """One scenario, in the arena's frame (REP-103: x forward, y left, angles from x)."""

    obstacles: Floats
    """(n, 3): x, y, radius [m]."""
    slots: tuple[int, ...]
    """(n,) entry of RADII that each obstacle is."""
    start: tuple[float, float, float]
    """x [m], y [m], yaw [rad]."""
    goal: tuple[float, float]
    """x, y [m]."""

    def as_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return {
            "obstacles": np.round(self.obstacles, 3).tolist(),
            "start": list(self.start),
            "goal": list(self.goal),
        }


def generate_world(rng: np.random.Generator, fewest: int = 4, most: int = 6) -> World:
    """Draw a world with `fewest` to `most` obstacles whose start and goal are clear.

    The start faces within a right angle of the goal. Gaps between obstacles are wide enough for
    the robot, so that the goal can be reached.
    """
    while True:
        start, goal = _ends(rng)
        count = int(rng.integers(fewest, most + 1))
        slots = rng.permutation(len(RADII))[:count]
        placed = _place(rng, [RADII[slot] for slot in slots], np.stack([start, goal]))
        if len(placed) < count:
            continue
        ahead = goal - start
        yaw = float(np.arctan2(ahead[1], ahead[0]) + rng.uniform(-np.pi / 2.0, np.pi / 2.0))
        return World(
            obstacles=np.array(placed),
            slots=tuple(slots.tolist()),
            start=(float(start[0]), float(start[1]), yaw),
            goal=(float(goal[0]), float(goal[1])),
        )


def _ends(rng: np.random.Generator) -> tuple[Floats, Floats]:
    """Draw a start and a goal (2,) that lie far enough apart."""
    reach = ARENA / 2.0 - START_CLEARANCE
    while True:
        start, goal = rng.uniform(-reach, reach, (2, 2))
        if np.hypot(*(goal - start)) >= SHORTEST:
            return start, goal


def _place(rng: np.random.Generator, radii: list[float], ends: Floats) -> list[Floats]:
    """Place obstacles one by one, every other one near the straight way; stop at a failure."""
    placed: list[Floats] = []
    for index, radius in enumerate(radii):
        centres = _candidates(rng, ends, on_the_way=index % 2 == 0)
        fitting = np.flatnonzero(_fit(centres, radius, placed, ends))
        if not len(fitting):
            break
        placed.append(np.array([*centres[fitting[0]], radius]))
    return placed


def _candidates(rng: np.random.Generator, ends: Floats, on_the_way: bool) -> Floats:
    """Draw places for an obstacle (n, 2)."""
    if not on_the_way:
        return rng.uniform(-ARENA / 2.0, ARENA / 2.0, (_CANDIDATES, 2))
    along = ends[0] + rng.uniform(0.2, 0.8, (_CANDIDATES, 1)) * (ends[1] - ends[0])
    near: Floats = along + rng.normal(0.0, 0.6, (_CANDIDATES, 2))
    return near


def _fit(centres: Floats, radius: float, placed: list[Floats], ends: Floats) -> NDArray[np.bool_]:
    """Whether each place (n, 2) leaves the ends clear and a passage to walls and obstacles (n,)."""
    passage = 2.0 * ROBOT_RADIUS + PASSAGE
    to_ends = np.linalg.norm(centres[:, None] - ends, axis=2).min(axis=1)
    to_walls = ARENA / 2.0 - np.abs(centres).max(axis=1)
    fits = (to_ends >= radius + START_CLEARANCE) & (to_walls >= radius + passage)
    for other in placed:
        fits &= np.linalg.norm(centres - other[:2], axis=1) >= radius + other[2] + passage
    allowed: NDArray[np.bool_] = fits
    return allowed
