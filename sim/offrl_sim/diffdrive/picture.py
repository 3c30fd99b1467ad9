"""Top-down pictures of episodes."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Circle, Rectangle
from numpy.typing import NDArray

from offrl_sim.diffdrive.world import ARENA, ROBOT_RADIUS, World
from offrl_sim.files import whole
from offrl_sim.picture import CRASH, DARK, FONT, GOAL, STONE, WALL, Artists, Sketch, View

Floats = NDArray[np.float64]

STATE_COLOURS = {
    "NOMINAL": "#2a78b8",
    "CAUTION": "#e6a117",
    "FALLBACK": "#c8372d",
    "STOP": "#7a7a7a",
}
"""Colour of the path by gate state."""
_PLAIN = "#2a78b8"
_INCH_PER_METRE = 0.45
_MARGIN = 0.15  # [m] round the arena


@dataclass(frozen=True)
class Scene:
    """One episode to draw."""

    world: World
    path: Floats
    """(T + 1, 2) positions [m]."""
    title: str = ""
    states: Sequence[str] = ()
    """Gate state during each tick (T,); without them the path has one colour."""
    marks: Sequence[tuple[int, str]] = ()
    """Ticks to point out, with a word each."""


class DiffDriveSketch(Sketch):
    """Draws the arena, its obstacles, the goal, and the robot; red where it bumped."""

    def bounds(self) -> Floats:
        """Return the corners of the arena (2, 3) [m]."""
        edge = ARENA / 2.0 + _MARGIN
        return np.array([[-edge, -edge, 0.0], [edge, edge, 0.0]])

    def draw_world(self, axes: Any, view: View) -> None:  # noqa: ARG002
        """Draw what stands in the arena."""
        world = self.trace.world
        assert isinstance(world, World)
        _draw_world(axes, world)

    def draw_robot(self, axes: Any, view: View, tick: int) -> Artists:
        """Draw the robot at a tick."""
        x, y = view.of(self.trace.places[tick]).tolist()
        bumped = self.trace.collided and tick == len(self.trace.rewards)
        return _draw_robot(axes, (x, y, float(self.trace.yaws[tick])), CRASH if bumped else DARK)


def draw_scenes(scenes: Sequence[Scene], file: Path, columns: int = 4) -> None:
    """Draw episodes side by side into a PNG, which appears only when it is whole."""
    columns = min(columns, len(scenes))
    rows = -(-len(scenes) // columns)
    side = ARENA * _INCH_PER_METRE
    with matplotlib.rc_context(FONT), whole(file) as beside:
        figure = Figure(figsize=(columns * side, rows * (side + 0.35) + 0.4), layout="constrained")
        axes = figure.subplots(rows, columns, squeeze=False).ravel()
        for axis, scene in zip(axes, scenes, strict=False):
            _draw(axis, scene)
        for axis in axes[len(scenes) :]:
            axis.axis("off")
        entries = _legend(scenes)
        ncols = len(entries) if columns > 2 else 3
        figure.legend(handles=entries, loc="outside lower center", ncols=ncols, frameon=False)
        figure.savefig(beside, format="png", dpi=150)


def _draw(axis: Any, scene: Scene) -> None:
    edge = ARENA / 2.0 + _MARGIN
    axis.set(xlim=(-edge, edge), ylim=(-edge, edge), aspect="equal")
    axis.axis("off")
    _draw_world(axis, scene.world)
    _draw_path(axis, scene)
    _draw_robot(axis, scene.world.start)
    for tick, word in scene.marks:
        _draw_mark(axis, scene, tick, word)
    if scene.title:
        axis.set_title(scene.title, fontsize=10, pad=4)


def _draw_world(axis: Any, world: World) -> None:
    """Draw walls, obstacles and the goal with the distance at which it counts."""
    half = ARENA / 2.0
    axis.add_patch(
        Rectangle((-half, -half), ARENA, ARENA, facecolor="#fbfbfa", edgecolor=WALL, linewidth=2.5)
    )
    for x, y, radius in world.obstacles:
        axis.add_patch(Circle((x, y), radius, facecolor=STONE, edgecolor=WALL, linewidth=0.8))
    axis.add_patch(Circle(world.goal, 0.3, facecolor=GOAL, alpha=0.25, edgecolor="none"))
    axis.plot(*world.goal, marker="*", markersize=11, color=GOAL, markeredgewidth=0.0)


def _draw_path(axis: Any, scene: Scene) -> None:
    segments = np.stack([scene.path[:-1], scene.path[1:]], axis=1)  # (T, 2, 2)
    colours = [STATE_COLOURS.get(state, _PLAIN) for state in scene.states] or _PLAIN
    axis.add_collection(
        LineCollection(list(segments), colors=colours, linewidths=2.2, capstyle="round", zorder=3)
    )
    colour = colours if isinstance(colours, str) else colours[-1]
    axis.add_patch(
        Circle(
            scene.path[-1],
            ROBOT_RADIUS,
            facecolor="none",
            edgecolor=colour,
            linewidth=1.6,
            zorder=4,
        )
    )


def _draw_robot(axis: Any, pose: tuple[float, float, float], colour: str = DARK) -> Artists:
    """Draw the robot with a line to its front."""
    x, y, yaw = pose
    body = Circle((x, y), ROBOT_RADIUS, facecolor=colour, edgecolor="none", zorder=4)
    front = (x + ROBOT_RADIUS * np.cos(yaw), y + ROBOT_RADIUS * np.sin(yaw))
    line = axis.plot([x, front[0]], [y, front[1]], color="white", linewidth=1.6, zorder=5)
    return [axis.add_patch(body), *line]


def _draw_mark(axis: Any, scene: Scene, tick: int, word: str) -> None:
    """Put a word beside a place of the path, where there is most room for it."""
    place = scene.path[tick]
    angles = np.arange(8) * np.pi / 4.0
    spots = place + 0.9 * np.stack([np.cos(angles), np.sin(angles)], axis=1)  # (8, 2)
    room = ARENA / 2.0 - np.abs(spots).max(axis=1)
    room = np.minimum(room, _distances(spots, scene.path).min(axis=1))
    if len(scene.world.obstacles):
        stones = scene.world.obstacles
        room = np.minimum(room, (_distances(spots, stones[:, :2]) - stones[:, 2]).min(axis=1))
    x, y = spots[room.argmax()]
    axis.annotate(
        word,
        xy=(place[0], place[1]),
        xytext=(x, y),
        ha="center",
        va="center",
        zorder=6,
        bbox={
            "boxstyle": "round,pad=0.2",
            "facecolor": "white",
            "edgecolor": "none",
            "alpha": 0.85,
        },
        arrowprops={"arrowstyle": "-", "color": DARK, "linewidth": 0.8},
    )


def _distances(places: Floats, others: Floats) -> Floats:
    """Return the distances (n, m) between places (n, 2) and others (m, 2)."""
    offsets = places[:, None] - others[None]
    return np.hypot(offsets[..., 0], offsets[..., 1])


def _legend(scenes: Sequence[Scene]) -> list[Line2D]:
    """Name what appears in the scenes, and nothing else."""

    def dot(label: str, marker: str, size: float, **options: Any) -> Line2D:
        return Line2D(
            [], [], linestyle="none", marker=marker, markersize=size, label=label, **options
        )

    handles = [
        dot("start", "o", 8, color=DARK),
        dot("goal", "*", 11, color=GOAL),
        dot("obstacle", "o", 8, markerfacecolor=STONE, markeredgecolor=WALL),
    ]
    present = {state for scene in scenes for state in scene.states}
    for state, colour in STATE_COLOURS.items():
        if state in present:
            handles.append(Line2D([], [], color=colour, linewidth=2.2, label=state))
    if not present:
        handles.append(Line2D([], [], color=_PLAIN, linewidth=2.2, label="path"))
    return handles
