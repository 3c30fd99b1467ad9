"""A planar lidar as a numpy ray caster: circles and the arena's four walls."""

import numpy as np
from numpy.typing import NDArray

from offrl_sim.diffdrive.world import ARENA

Floats = NDArray[np.float64]


def ray_distances(position: Floats, angles: Floats, obstacles: Floats) -> Floats:
    """Return the distance to the first surface along each ray (n,) [m].

    `position` (2,) is inside the arena, `angles` (n,) are headings in its frame [rad], `obstacles`
    (m, 3) hold x, y, radius. A ray that starts in a circle reads its far side.
    """
    direction = np.stack([np.cos(angles), np.sin(angles)])  # (2, n)
    with np.errstate(divide="ignore"):
        to_walls = (ARENA / 2.0 - np.sign(direction) * position[:, None]) / np.abs(direction)
    distances: Floats = to_walls.min(axis=0)
    if not len(obstacles):
        return distances
    offset = obstacles[:, :2] - position  # (m, 2)
    along = offset @ direction  # (m, n): from the start to the point nearest to the centre
    outside = (offset**2).sum(axis=1) - obstacles[:, 2] ** 2  # (m,)
    under_root = along**2 - outside[:, None]
    half_chord = np.sqrt(np.maximum(under_root, 0.0))
    entry = np.where(outside[:, None] > 0.0, along - half_chord, along + half_chord)
    hit = (under_root >= 0.0) & (entry > 0.0)
    nearest: Floats = np.minimum(distances, np.where(hit, entry, np.inf).min(axis=0))
    return nearest
