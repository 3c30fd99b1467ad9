"""The arm from above and from the side."""

from typing import Any, ClassVar

import numpy as np
from matplotlib.patches import Circle, Rectangle

from offrl_sim.panda.physics import CHAIN
from offrl_sim.panda.simulation import HIGHEST, LOWEST, Reach
from offrl_sim.picture import CRASH, DARK, GOAL, STONE, WALL, Artists, Floats, Sketch, View

_REACHED = 0.03  # [m] as in panda.yaml


class PandaSketch(Sketch):
    """Draws the table, the box of goals, the goal, and the arm's joints; red where it crashed."""

    views: ClassVar = (View("from above", 0, 1), View("from the side", 0, 2))
    ghosts: ClassVar = 1.0

    def bounds(self) -> Floats:
        """Return the corners of what the arm reaches (2, 3) [m]."""
        return np.array([[-0.42, -0.47, -0.08], [0.75, 0.47, 0.86]])

    def draw_world(self, axes: Any, view: View) -> None:
        """Draw what stands still."""
        world = self.trace.world
        assert isinstance(world, Reach)
        if view.up == 2:
            left, right = view.of(self.bounds())[:, 0]
            axes.axhspan(-1.0, 0.0, facecolor=STONE, edgecolor="none")
            axes.plot([left, right], [0.0, 0.0], color=WALL, linewidth=1.5)
        corner, size = view.of(LOWEST).tolist(), view.of(HIGHEST - LOWEST)
        axes.add_patch(
            Rectangle(
                corner, *size, fill=False, edgecolor=WALL, linewidth=0.8, linestyle=(0, (4, 4))
            )
        )
        goal = view.of(world.goal).tolist()
        axes.add_patch(Circle(goal, _REACHED, facecolor=GOAL, alpha=0.3, edgecolor="none"))
        axes.plot(*goal, marker="*", markersize=9, color=GOAL, markeredgewidth=0.0, zorder=6)

    def draw_robot(self, axes: Any, view: View, tick: int) -> Artists:
        """Draw the arm as a line from joint to joint."""
        joints = np.vstack([np.zeros(3), self.trace.links[tick][list(CHAIN)]])
        crashed = self.trace.collided and tick == len(self.trace.rewards)
        line = {"linewidth": 5.0, "solid_capstyle": "round", "solid_joinstyle": "round"}
        arm = axes.plot(*view.of(joints).T, color=CRASH if crashed else DARK, zorder=2, **line)
        dots = axes.plot(*view.of(joints).T, "o", color="white", markersize=2.2, zorder=2.5)
        return [*arm, *dots]
