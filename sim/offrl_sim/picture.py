"""Pictures and videos of an episode, without a window. A task draws its world and its robot."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import matplotlib
import numpy as np
from matplotlib.animation import FFMpegWriter, PillowWriter
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from numpy.typing import NDArray
from offrl_contract import InputError

from offrl_sim.drive import Trace
from offrl_sim.files import whole

Floats = NDArray[np.float64]
Artists = list[Any]
"""Of matplotlib; each can be removed again."""

DARK = "#30343b"
STONE = "#c9ccd1"
WALL = "#4a4f57"
GOAL = "#2e9e5b"
CRASH = "#c8372d"
FONT = {"font.family": "DejaVu Sans", "font.size": 9}
VIDEO_RATE = 10.0
"""Frames per second of a video, at most; time runs as it did."""
_WRITERS: dict[str, Any] = {".gif": PillowWriter, ".mp4": FFMpegWriter}
_SIZE = 6.0  # [inch] of the longest side of all views together
_DPI = 150
_VIDEO_DPI = 80
_GHOST = 0.3  # opacity of the robot where it was


@dataclass(frozen=True)
class View:
    """A plane to look at."""

    title: str
    across: int
    """Coordinate that runs to the right: 0 is x, 1 is y, 2 is z."""
    up: int
    """Coordinate that runs up."""

    def of(self, places: Floats) -> Floats:
        """Project places (..., 3) to (..., 2)."""
        return places[..., [self.across, self.up]]


class Sketch(ABC):
    """Draws one episode."""

    views: ClassVar[tuple[View, ...]] = (View("", 0, 1),)
    """From above, unless a task has more to show."""
    ghosts: ClassVar[float] = 2.0
    """Time between the robots that a picture shows along the path [s]."""

    def __init__(self, trace: Trace) -> None:
        """Draw this episode."""
        self.trace = trace

    @abstractmethod
    def bounds(self) -> Floats:
        """Return the least and the greatest x, y, z to show (2, 3) [m]."""

    @abstractmethod
    def draw_world(self, axes: Any, view: View) -> None:
        """Draw what stands still."""

    @abstractmethod
    def draw_robot(self, axes: Any, view: View, tick: int) -> Artists:
        """Draw the robot at a tick."""


def write_picture(sketch: Sketch, file: Path) -> None:
    """Draw an episode into a PNG: its path by speed, the robot here and there along it."""
    with matplotlib.rc_context(FONT):
        figure, panels = _figure(sketch)
        trace = sketch.trace
        every = max(round(sketch.ghosts / trace.period), 1)
        last = len(trace.rewards)
        path: Any = None
        for axes, view in panels:
            path = _path(axes, view, trace)
            path.set_array(trace.speeds)
            for tick in range(0, last, every):
                _fade(sketch.draw_robot(axes, view, tick), _GHOST if tick else 1.0)
            sketch.draw_robot(axes, view, last)
        shown = [axes for axes, _ in panels]
        figure.colorbar(path, ax=shown, label="speed [m/s]", shrink=0.7, aspect=30, pad=0.02)
        figure.suptitle(_heading(trace), fontsize=10)
        with whole(file) as beside:
            figure.savefig(beside, format="png", dpi=_DPI)


def write_video(sketch: Sketch, file: Path) -> None:
    """Film an episode from above, in its own time. Raises InputError as `check_video` does."""
    check_video(file)
    trace = sketch.trace
    stride = max(round(1.0 / (trace.period * VIDEO_RATE)), 1)
    ticks = [*range(0, len(trace.rewards), stride), len(trace.rewards)]
    with matplotlib.rc_context(FONT), whole(file) as beside:
        figure, panels = _figure(sketch)
        paths = [_path(axes, view, trace) for axes, view in panels]
        title = figure.suptitle(_heading(trace), fontsize=10)
        figure.draw_without_rendering()
        figure.set_layout_engine("none")  # laid out once: doing so takes longer than drawing
        writer = _WRITERS[file.suffix](fps=1.0 / (trace.period * stride))
        with writer.saving(figure, beside, dpi=_VIDEO_DPI):
            for tick in ticks:
                robots: Artists = []
                for (axes, view), path in zip(panels, paths, strict=True):
                    path.set_array(
                        np.where(np.arange(len(trace.speeds)) < tick, trace.speeds, np.nan)
                    )
                    robots += sketch.draw_robot(axes, view, tick)
                title.set_text(_heading(trace, tick))
                writer.grab_frame()
                for artist in robots:
                    artist.remove()


def check_video(file: Path) -> None:
    """Refuse a format that cannot be written here. Raises InputError."""
    if file.suffix not in _WRITERS:
        raise InputError(f"--video {file}: must end in {' or '.join(_WRITERS)}")
    if not _WRITERS[file.suffix].isAvailable():
        raise InputError(
            f"--video {file}: needs the program ffmpeg, which is not installed: "
            "apt-get install ffmpeg, or give a .gif"
        )


def outline(axes: Any, corners: Floats, colour: str, order: int = 4) -> Any:
    """Fill a polygon of corners (n, 2) and return it."""
    (polygon,) = axes.fill(*corners.T, facecolor=colour, edgecolor="none", zorder=order)
    return polygon


def placed(points: Floats, place: Floats, yaw: float) -> Floats:
    """Return points (n, 2) of the robot's frame where it stands: place (2,), yaw [rad]."""
    cos, sin = np.cos(yaw), np.sin(yaw)
    moved: Floats = place + points @ np.array([[cos, sin], [-sin, cos]])
    return moved


def _figure(sketch: Sketch) -> tuple[Figure, list[tuple[Any, View]]]:
    """Return a figure with the world in each view."""
    low, high = sketch.bounds()
    extents = [view.of(high - low) for view in sketch.views]
    widths = [float(extent[0]) for extent in extents]
    tallest = max(float(extent[1]) for extent in extents)
    scale = _SIZE / max(sum(widths), tallest)
    figure = Figure(
        figsize=(sum(widths) * scale + 1.2, tallest * scale + 0.9), layout="constrained"
    )
    row = figure.subplots(1, len(widths), squeeze=False, width_ratios=widths)[0]
    panels = list(zip(row, sketch.views, strict=True))
    for axes, view in panels:
        (left, bottom), (right, top) = view.of(low), view.of(high)
        axes.set(xlim=(left, right), ylim=(bottom, top), aspect="equal", title=view.title)
        axes.set(xlabel=f"{'xyz'[view.across]} [m]", ylabel=f"{'xyz'[view.up]} [m]")
        for side in ("top", "right"):
            axes.spines[side].set_visible(False)
        sketch.draw_world(axes, view)
    return figure, panels


def _path(axes: Any, view: View, trace: Trace) -> LineCollection:
    """Lay the path's segments, each to be coloured by its speed."""
    flat = view.of(trace.places)
    segments: Sequence[Floats] = list(np.stack([flat[:-1], flat[1:]], axis=1))
    lines = LineCollection(segments, cmap="viridis", linewidths=2.4, capstyle="round", zorder=3)
    lines.set_clim(0.0, max(float(trace.speeds.max()), 1e-3))
    axes.add_collection(lines, autolim=False)
    return lines


def _heading(trace: Trace, tick: int | None = None) -> str:
    """Say what is driven and how far it has come: at a tick, or in the end."""
    over = tick is None or tick == len(trace.rewards)
    gained, seconds = trace.rewards[:tick].sum(), (tick or 0) * trace.period
    when = f"{trace.seconds:.1f} s: {trace.outcome}" if over else f"{seconds:.1f} s"
    first = f"{trace.task}, scenario {trace.seed}, {trace.driver} driver"
    return f"{first}\nreturn {gained:.2f} after {when}"


def _fade(artists: Artists, opacity: float) -> None:
    for artist in artists:
        artist.set_alpha(opacity)
