"""A planar lidar as a numpy ray caster: straight walls."""

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


def wall_distances(position: Floats, angles: Floats, walls: Floats) -> Floats:
    """Return the distance to the first wall along each ray (n,) [m], inf where there is none.

    `position` (2,), `angles` (n,) are headings [rad], `walls` (m, 2, 2) hold the x, y of the ends.
    """
    ray = np.stack([np.cos(angles), np.sin(angles)], axis=1)[:, None]  # (n, 1, 2)
    begin = walls[:, 0] - position  # (m, 2)
    side = walls[:, 1] - walls[:, 0]  # (m, 2)
    with np.errstate(divide="ignore", invalid="ignore"):
        determinant = _cross(ray, side)  # (n, m)
        distance = _cross(begin, side) / determinant
        share = _cross(begin, ray) / determinant  # from the wall's first end to its second
    hit = (determinant != 0.0) & (distance >= 0.0) & (share >= 0.0) & (share <= 1.0)
    nearest: Floats = np.where(hit, distance, np.inf).min(axis=1)
    return nearest


def _cross(first: Floats, second: Floats) -> Floats:
    product: Floats = first[..., 0] * second[..., 1] - first[..., 1] * second[..., 0]
    return product
