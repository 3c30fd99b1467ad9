"""Figures of the terms: how the values are distributed, and how they run over time."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray
from offrl_contract import Robot
from offrl_contract.robot import ObservationTerm
from offrl_contract.sampling import action_names, split_action
from plotly import graph_objects as go
from plotly.subplots import make_subplots

from offrl_data.dataset import Dataset
from offrl_data.web_page import Figure

Floats = NDArray[np.floating[Any]]
Span = tuple[float, float]

BLUE, RED = "#3b7dd8", "#c8503c"
LIMIT_LINE = {"color": RED, "width": 1, "dash": "dot"}
POINTS = 1500
"""A series of more rows is drawn as its range and mean over `SLICES` equal stretches of time."""
SLICES = 600
WIDE = 6
"""A term of more values is drawn as heat maps."""
_MAP_ROWS = 72
_MAP_COLUMNS = 400
_BINS = 50
_ROW_GAP, _ABOVE, _BELOW = 46, 24, 38
"""Room between the rows of a figure, above the first and below the last [px]."""
_TAIL = 0.1
"""Share [%] of the values at either end that a histogram's outermost bins take up."""

_UNITS = {
    "linear_acceleration": "m/s²",
    "angular_velocity": "rad/s",
    "twist.linear": "m/s",
    "twist.angular": "rad/s",
    "pose.position": "m",
    "pose.orientation": "rad",
    "ranges": "m",
    "speed": "m/s",
    "steering_angle": "rad",
    "acceleration": "m/s²",
}


@dataclass(frozen=True)
class TermData:
    """A term with its column of the dataset."""

    name: str
    source: str
    """Topic, type and fields."""
    labels: tuple[str, ...]
    """One per value."""
    values: Floats
    """(N, d)"""
    limits: tuple[tuple[float, float], ...] | None = None
    """[low, high] per value, of a command."""


def observation_terms(dataset: Dataset) -> Iterator[TermData]:
    """Yield the observation terms."""
    for term in dataset.robot.observation:
        values = dataset.observations[:, dataset.robot.observation_slices[term.name]]
        source = f"{term.topic} · {term.type} · {', '.join(term.field)}"
        if term.source == "action":
            source = "the command in force when the tick begins"
        yield TermData(term.name, source, _labels(dataset.robot, term), values)


def action_terms(dataset: Dataset) -> Iterator[TermData]:
    """Yield the command terms."""
    for term, values in split_action(dataset.robot, dataset.actions.astype(np.float64)):
        labels = tuple(_label(f"{term.name}.{field}", field, term.type) for field in term.field)
        yield TermData(term.name, f"{term.topic} · {term.type}", labels, values, term.limits)


def reward_term(dataset: Dataset) -> TermData:
    """Return the reward, drawn as a term of one value."""
    return TermData("reward", dataset.robot.reward, ("reward per tick",), dataset.rewards[:, None])


def term_figure(term: TermData, dataset: Dataset) -> Figure:
    """Draw the distribution of a term on the left and its course over time on the right."""
    return _maps(term, dataset) if len(term.labels) > WIDE else _lines(term, dataset)


def bounded(values: NDArray[Any]) -> Span:
    """Return the range that holds all values but the tails; never empty."""
    low, high = np.percentile(values, [_TAIL, 100.0 - _TAIL])
    margin = 0.0 if high > low else max(abs(float(low)) * 0.05, 0.05)
    return float(low) - margin, float(high) + margin


def counted(values: NDArray[Any], span: Span, bins: int) -> tuple[Floats, Floats]:
    """Return counts and edges of a histogram; the outermost bins take what lies beyond the span."""
    counts, edges = np.histogram(np.clip(values, *span), bins, span)
    return counts.astype(np.float32), edges.astype(np.float32)


def bars(counts: Floats, edges: Floats, colour: str, unit: str) -> Figure:
    """Return the bars of a histogram."""
    return go.Bar(
        x=(edges[1:] + edges[:-1]) / 2,
        y=counts,
        width=np.diff(edges),
        marker={"color": colour, "line": {"width": 0}},
        hovertemplate=f"%{{x:.3g}}: %{{y:.3g}} {unit}<extra></extra>",
        showlegend=False,
    )


def _lines(term: TermData, dataset: Dataset) -> Figure:
    """Draw one row per value."""
    count = len(term.labels)
    titles = [title for label in term.labels for title in (label, "")]
    figure = _side_by_side(titles, plot_height=84)
    scale, unit = time_unit(dataset)
    for row, values in enumerate(term.values.T, start=1):
        limits = term.limits[row - 1] if term.limits else ()
        span = bounded(np.append(values, limits))
        counts, edges = counted(values, span, _BINS)
        figure.add_trace(bars(100.0 * counts / len(values), edges, BLUE, "%"), row=row, col=1)
        figure.update_yaxes(title_text="% of rows", row=row, col=1)
        for trace in _course(values, dataset, scale):
            figure.add_trace(trace, row=row, col=2)
        for limit in limits:
            figure.add_vline(limit, row=row, col=1, line=LIMIT_LINE)
            figure.add_hline(limit, row=row, col=2, line=LIMIT_LINE)
    figure.update_xaxes(title_text=f"time, episodes end to end [{unit}]", row=count, col=2)
    return figure


def _course(values: Floats, dataset: Dataset, scale: float) -> Iterator[Figure]:
    """Yield the traces of one value over time: every row, or range and mean of many."""
    if len(values) <= POINTS:
        breaks = dataset.starts[1:]
        yield go.Scatter(
            x=np.insert(np.arange(len(values)) * scale, breaks, np.nan),
            y=np.insert(values, breaks, np.nan),
            mode="lines",
            line={"color": BLUE, "width": 1.2},
            hovertemplate="%{y:.3g}<extra></extra>",
        )
        return
    edges = _slices(len(values), SLICES)
    x = edges[:-1] * scale
    low, high = np.minimum.reduceat(values, edges[:-1]), np.maximum.reduceat(values, edges[:-1])
    mean = np.add.reduceat(values, edges[:-1]) / np.diff(edges)
    edge = {"width": 0, "color": BLUE}
    yield go.Scatter(x=x, y=low, mode="lines", line=edge, hoverinfo="skip")
    yield go.Scatter(
        x=x,
        y=high,
        mode="lines",
        line=edge,
        fill="tonexty",
        fillcolor="rgba(59, 125, 216, 0.28)",
        hoverinfo="skip",
    )
    yield go.Scatter(
        x=x,
        y=mean,
        mode="lines",
        line={"color": BLUE, "width": 1.2},
        customdata=np.stack([low, high], axis=1),
        hovertemplate="mean %{y:.3g}, %{customdata[0]:.3g} to %{customdata[1]:.3g}<extra></extra>",
    )


def _maps(term: TermData, dataset: Dataset) -> Figure:
    """Draw a wide term as two heat maps with one line per value, or per few adjacent values."""
    figure = _side_by_side(["share of the rows at each value", "mean value over time"], 230)
    rows = _slices(len(term.labels), _MAP_ROWS)
    span = bounded(term.values)
    shares = []
    for first, last in pairwise(rows.tolist()):
        counts, _ = counted(term.values[:, first:last], span, _BINS)
        shares.append(100.0 * counts / counts.sum())
    centres = np.linspace(*span, 2 * _BINS + 1)[1::2]
    # one column of many equal values must not wash out the others
    top = float(np.percentile(shares, 98))
    figure.add_trace(
        go.Heatmap(
            x=centres,
            y=rows[:-1],
            z=np.array(shares, np.float32),
            zmin=0.0,
            zmax=max(top, 1e-3),
            showscale=False,
            hovertemplate="%{x:.3g}: %{z:.2f} % of rows<extra>%{y}</extra>",
        ),
        row=1,
        col=1,
    )
    scale, unit = time_unit(dataset)
    times = _slices(len(dataset), _MAP_COLUMNS)
    sums = np.add.reduceat(np.add.reduceat(term.values, times[:-1]), rows[:-1], axis=1)
    cells = np.outer(np.diff(times), np.diff(rows))
    figure.add_trace(
        go.Heatmap(
            x=times[:-1] * scale,
            y=rows[:-1],
            z=(sums / cells).T.astype(np.float32),
            colorbar={"thickness": 10, "outlinewidth": 0},
            hovertemplate="%{z:.3g}<extra>%{y}</extra>",
        ),
        row=1,
        col=2,
    )
    figure.update_xaxes(title_text=term.labels[0].partition(": ")[2], row=1, col=1)
    figure.update_xaxes(title_text=f"time, episodes end to end [{unit}]", row=1, col=2)
    figure.update_yaxes(title_text=f"index in {term.name}", row=1, col=1)
    return figure


def _side_by_side(titles: list[str], plot_height: int) -> Figure:
    """Return an empty figure of two columns, with titles at the left of the plots."""
    rows = len(titles) // 2
    height = rows * plot_height + (rows - 1) * _ROW_GAP
    figure = make_subplots(
        rows=rows,
        cols=2,
        column_widths=[0.28, 0.72],
        horizontal_spacing=0.06,
        vertical_spacing=_ROW_GAP / height,
        subplot_titles=titles,
    )
    axes = [axis.domain for axis in figure.select_xaxes()]
    named = [axis[0] for axis, title in zip(axes, titles, strict=True) if title]
    for annotation, left in zip(figure.layout.annotations, named, strict=True):
        annotation.update(xanchor="left", x=left, font={"size": 12})
    return figure.update_layout(
        height=height + _ABOVE + _BELOW,
        showlegend=False,
        bargap=0,
        margin={"l": 58, "r": 12, "t": _ABOVE, "b": _BELOW},
    )


def time_unit(dataset: Dataset) -> tuple[float, str]:
    """Return the length of a tick, and the unit that suits the whole dataset."""
    tick = 1.0 / dataset.robot.rate
    whole = tick * len(dataset)
    for unit, size in (("h", 3600.0), ("min", 60.0)):
        if whole >= 2.0 * size:
            return tick / size, unit
    return tick, "s"


def _slices(count: int, most: int) -> NDArray[np.int64]:
    """Return the edges of at most `most` equal parts of `count` rows."""
    return np.unique(np.linspace(0, count, min(count, most) + 1).astype(np.int64))


def _action_labels(robot: Robot) -> list[str]:
    terms = [(field, term.type) for term in robot.action for field in term.field]
    names = action_names(robot)
    return [_label(name, *term) for name, term in zip(names, terms, strict=True)]


def _labels(robot: Robot, term: ObservationTerm) -> tuple[str, ...]:
    """Return a label per value of an observation term: name, field where there is one, unit."""
    fields = [_label(field, field, term.type) for field in term.field]
    if term.source == "action":
        fields = _action_labels(robot)
    width = robot.width(term)
    per_field = width // (len(fields) * term.history)
    sources = [fields[part // per_field % len(fields)] for part in range(width)]
    return tuple(f"{term.name}_{part}: {source}" for part, source in enumerate(sources))


def _label(text: str, field: str, type_name: str) -> str:
    """Append the SI unit of a field where its name tells (REP-103)."""
    message = type_name.rpartition("/")[2].lower()
    path = f".{message}.{field}." if message in ("twist", "pose") else f".{field}."
    for known, unit in _UNITS.items():
        if f".{known}." in path:
            return f"{text} [{unit}]"
    return text
