"""The track and the car from above."""

from typing import Any

import numpy as np
from matplotlib.patches import Polygon

from offrl_sim.picture import (
    CRASH,
    DARK,
    GOAL,
    WALL,
    Artists,
    Floats,
    Sketch,
    View,
    outline,
    placed,
)
from offrl_sim.racecar.physics import WHEELBASE
from offrl_sim.racecar.track import HALF_WIDTH, Track

_ROAD = "#eceae6"
_LINE = "#a7abb2"
_MARGIN = 0.3  # [m] round the track
_BODY = np.array(
    [[-0.23, -0.09], [0.2, -0.09], [0.27, -0.05], [0.27, 0.05], [0.2, 0.09], [-0.23, 0.09]]
)
_WHEEL = np.array([[-0.06, -0.03], [0.06, -0.03], [0.06, 0.03], [-0.06, 0.03]])
_HALF_TRACK = 0.125  # [m] to the middle of a wheel


class RacecarSketch(Sketch):
    """Draws the road with its centre line, the start across it, and the car."""

    def bounds(self) -> Floats:
        """Return the corners of the track and a little more (2, 3) [m]."""
        points = self._track.points
        reach = HALF_WIDTH + _MARGIN
        corners = np.stack([points.min(axis=0) - reach, points.max(axis=0) + reach])
        return np.hstack([corners, np.zeros((2, 1))])

    def draw_world(self, axes: Any, view: View) -> None:  # noqa: ARG002
        """Draw the road between its walls, and where the drive began."""
        track = self._track
        normals = np.stack([-np.sin(track.headings), np.cos(track.headings)], axis=1)
        left, right = (track.points + side * HALF_WIDTH * normals for side in (1.0, -1.0))
        # one ring out and the other back: the area between them
        ring = np.vstack([left, left[:1], right[:1], right[::-1]])
        axes.add_patch(Polygon(ring, facecolor=_ROAD, edgecolor="none"))
        for wall in (left, right):
            axes.add_patch(Polygon(wall, fill=False, edgecolor=WALL, linewidth=1.8))
        axes.add_patch(
            Polygon(track.points, fill=False, edgecolor=_LINE, linewidth=0.9, linestyle=(0, (6, 6)))
        )
        along = track.locate(*track.start)[0]
        index = round(along / track.spacing) % len(track.points)
        axes.plot(*np.stack([left[index], right[index]]).T, color=GOAL, linewidth=2.0, zorder=2)

    def draw_robot(self, axes: Any, view: View, tick: int) -> Artists:
        """Draw the car with its wheels turned as commanded; red where it hit a wall."""
        trace = self.trace
        place, yaw = view.of(trace.places[tick]), float(trace.yaws[tick])
        steering = float(trace.commands[max(tick - 1, 0), 0])
        crashed = trace.collided and tick == len(trace.rewards)
        parts = [outline(axes, placed(_BODY, place, yaw), CRASH if crashed else DARK, 5)]
        for forward, turn in ((WHEELBASE / 2.0, steering), (-WHEELBASE / 2.0, 0.0)):
            for side in (1.0, -1.0):
                hub = np.array([forward, side * _HALF_TRACK])
                wheel = placed(placed(_WHEEL, hub, turn), place, yaw)
                parts.append(outline(axes, wheel, "black"))
        return parts

    @property
    def _track(self) -> Track:
        world = self.trace.world
        assert isinstance(world, Track)
        return world
