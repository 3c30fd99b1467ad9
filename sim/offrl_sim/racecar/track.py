"""Closed tracks of constant width, and places along them."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

HALF_WIDTH = 0.75
"""From the centre line to the wall on either side [m]."""
_POINTS = 400
_FINE = 2000
_HARMONICS = np.arange(2, 6)
_AMPLITUDE = 0.25  # of the harmonics, in radii of the circle that they deform
_LENGTHS = (22.0, 34.0)  # [m]
_CURVATURES = (0.8, 1.15)  # [1/m] least and largest curvature of a track's sharpest bend
_STRIDE = 2  # points of the centre line per segment of wall


@dataclass(frozen=True)
class Track:
    """A closed centre line, driven in the order of its points."""

    points: Floats
    """(n, 2) at equal distances along the line, the first not repeated [m]."""
    headings: Floats
    """(n,) of the tangents [rad]."""
    curvatures: Floats
    """(n,) left bends positive [1/m]."""
    length: float
    """[m]"""
    start: tuple[float, float, float]
    """Where the car starts: x [m], y [m], yaw [rad]."""

    @property
    def spacing(self) -> float:
        """Distance between neighbouring points along the line [m]."""
        return self.length / len(self.points)

    @property
    def walls(self) -> Floats:
        """Segments (m, 2, 2) of both walls: their ends' x, y [m]."""
        normals = np.stack([-np.sin(self.headings), np.cos(self.headings)], axis=1)
        sides = [(self.points + side * HALF_WIDTH * normals)[::_STRIDE] for side in (1, -1)]
        return np.concatenate([np.stack([s, np.roll(s, -1, axis=0)], axis=1) for s in sides])

    def locate(self, x: float, y: float, yaw: float) -> tuple[float, float, float]:
        """Return a pose in the track's frame.

        Distance along the line from its first point [m], distance to the left of it [m], heading
        against its tangent in [-pi, pi) [rad].
        """
        offsets = np.array([x, y]) - self.points
        index = int((offsets**2).sum(axis=1).argmin())
        heading = self.headings[index]
        east, north = offsets[index]
        along = np.cos(heading) * east + np.sin(heading) * north
        left = np.cos(heading) * north - np.sin(heading) * east
        tangent = heading + self.curvatures[index] * along
        error = (yaw - tangent + np.pi) % (2.0 * np.pi) - np.pi
        return index * self.spacing + float(along), float(left), float(error)

    def curvature_at(self, distances: NDArray[Any]) -> Floats:
        """Return the curvature (k,) [1/m] at distances (k,) along the line [m]."""
        places = self.spacing * np.arange(len(self.points) + 1)
        closed = np.append(self.curvatures, self.curvatures[0])
        found: Floats = np.interp(distances % self.length, places, closed)
        return found

    def as_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        line = np.round(self.points[::_STRIDE], 3).tolist()
        return {"centre_line": line, "half_width": HALF_WIDTH, "start": list(self.start)}


def generate_track(rng: np.random.Generator) -> Track:
    """Draw a track round the origin, its direction, and a start near its centre line.

    The line is a circle whose radius is modulated by a few harmonics. Its sharpest bend has a
    radius of 0.87 to 1.25 m, above the car's turning radius, and its two walls never touch.
    """
    while True:
        line = _closed_line(rng)
        if line is not None and _is_open(line[0]):
            break
    points, headings, curvatures, length = line
    index = int(rng.integers(len(points)))
    aside, turned = rng.uniform(-0.2, 0.2, 2)
    heading = headings[index]
    x, y = points[index] + aside * np.array([-np.sin(heading), np.cos(heading)])
    return Track(
        points, headings, curvatures, length, (float(x), float(y), float(heading + turned))
    )


def _closed_line(rng: np.random.Generator) -> tuple[Floats, Floats, Floats, float] | None:
    """Draw points, headings, curvatures and length of a line, unless its bends do not fit."""
    angles = np.linspace(0.0, 2.0 * np.pi, _FINE, endpoint=False)
    phases = rng.uniform(0.0, 2.0 * np.pi, len(_HARMONICS))
    sizes = rng.uniform(0.0, _AMPLITUDE, len(_HARMONICS)) / np.sqrt(_HARMONICS - 1.0)
    radii = 1.0 + (sizes[:, None] * np.cos(_HARMONICS[:, None] * angles + phases[:, None])).sum(0)
    if radii.min() < 0.2:
        return None
    fine = radii[:, None] * np.stack([np.cos(angles), np.sin(angles)], axis=1)
    fine[:, 1] *= rng.choice([-1.0, 1.0])  # clockwise or counterclockwise
    travelled = np.append(0.0, np.cumsum(np.linalg.norm(np.roll(fine, -1, 0) - fine, axis=1)))
    length = rng.uniform(*_LENGTHS)
    scale = length / travelled[-1]
    even = travelled[-1] * np.arange(_POINTS) / _POINTS
    closed = np.vstack([fine, fine[:1]])
    points = scale * np.stack([np.interp(even, travelled, closed[:, k]) for k in (0, 1)], axis=1)
    ahead, behind = np.roll(points, -1, axis=0) - points, points - np.roll(points, 1, axis=0)
    directions = [np.arctan2(step[:, 1], step[:, 0]) for step in (behind, ahead)]
    turns = (directions[1] - directions[0] + np.pi) % (2.0 * np.pi) - np.pi
    curvatures = turns / (length / _POINTS)
    if not _CURVATURES[0] <= np.abs(curvatures).max() <= _CURVATURES[1]:
        return None
    return points, directions[0] + turns / 2.0, curvatures, length


def _is_open(points: Floats) -> bool:
    """Whether parts of a line that are far apart along it leave room for both of their walls."""
    some = points[:: _POINTS // 100]
    apart = np.abs(np.arange(len(some))[:, None] - np.arange(len(some)))
    apart = np.minimum(apart, len(some) - apart)
    distances = np.linalg.norm(some[:, None] - some, axis=2)
    return bool(distances[apart > len(some) // 8].min() > 2.0 * HALF_WIDTH + 0.3)
