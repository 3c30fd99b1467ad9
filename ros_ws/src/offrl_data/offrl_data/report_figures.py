"""Figures of episodes, commands, path and bags."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from offrl_contract.sampling import action_names
from plotly import graph_objects as go
from plotly.subplots import make_subplots

from offrl_data.dataset import Dataset
from offrl_data.report_summary import BagEntry, dropped_ticks
from offrl_data.report_terms import BLUE, LIMIT_LINE, RED, Span, bars, bounded, counted
from offrl_data.web_page import Figure

MOST_BAGS = 24
"""Bags in the figure of dropped ticks; those that lost most, where there are more."""
MOST_MARKERS = 2000
MOST_PAIRS = 3
"""Maps of command pairs."""
PATH_POINTS = 6000

_ORANGE, _TEAL, _VIOLET, _GREY = "#d98324", "#2a9d8f", "#8a63c9", "#8b93a1"
_RETURN_COLOURS = ("#c8503c", "#d98324", "#a3a06a", "#4d9bb5", "#2f62c4")
_REASON_COLOURS = (_ORANGE, _TEAL, _VIOLET, RED, "#c9a227", "#6d8f4e")
_LEGEND = {
    "orientation": "h",
    "x": 0,
    "y": 1.0,
    "xanchor": "left",
    "yanchor": "bottom",
    "traceorder": "normal",
}
_TIMES = ((1e-3, "1 ms"), (1.0, "1 s"), (60.0, "1 min"), (3600.0, "1 h"), (86400.0, "1 d"))
_TIMES_NEAR = ((1e-4, "0.1 ms"), (1e-2, "10 ms"), (0.1, "0.1 s"), (10.0, "10 s"))
_YEARS = ((31557600.0, "1 y"), (3155760000.0, "100 y"))
_EPISODE_BINS = 30
_LABEL = 30
"""Characters of a bag's name beside its bar."""
_PARTS = 24
"""Cells of a command map along either side, between the limits."""


def episodes_figure(dataset: Dataset) -> Figure:
    """Draw how returns and durations are distributed, and the returns in the order of the file."""
    figure = make_subplots(rows=1, cols=3, column_widths=[0.3, 0.3, 0.4], horizontal_spacing=0.07)
    returns = dataset.returns()
    seconds = dataset.lengths / dataset.robot.rate
    ended = dataset.terminals[dataset.starts + dataset.lengths - 1]
    order = np.arange(len(returns))
    if len(order) > MOST_MARKERS:
        order = np.unique(np.linspace(0, len(returns) - 1, MOST_MARKERS).astype(np.int64))
    for name, colour, mask in (("terminal", BLUE, ended), ("timeout", _ORANGE, ~ended)):
        if not mask.any():
            continue
        for column, values in enumerate((returns, seconds), start=1):
            counts, edges = counted(values[mask], bounded(values), _EPISODE_BINS)
            figure.add_trace(bars(counts, edges, colour, "episodes"), row=1, col=column)
        shown = order[mask[order]]
        figure.add_trace(
            go.Scatter(
                x=shown,
                y=returns[shown],
                mode="markers",
                marker={"color": colour, "size": 6, "opacity": 0.75},
                name=f"ended by a {name}",
                hovertemplate="episode %{x}: %{y:.3g}<extra></extra>",
            ),
            row=1,
            col=3,
        )
    for column, text in enumerate(
        ("return", "duration [s]", "episode, in the order of the file"), 1
    ):
        figure.update_xaxes(title_text=text, row=1, col=column)
    figure.update_yaxes(title_text="episodes", row=1, col=1)
    figure.update_yaxes(title_text="return", row=1, col=3)
    return figure.update_layout(
        height=270, barmode="stack", bargap=0, legend=_LEGEND, margin=_margin(52, 8)
    )


def command_maps(dataset: Dataset) -> Figure | None:
    """Draw how often neighbouring commands were given together; None for a single command."""
    names = action_names(dataset.robot)
    pairs = [(i, i + 1) for i in range(0, len(names) - 1, 2)][:MOST_PAIRS]
    if not pairs:
        return None
    figure = make_subplots(rows=1, cols=len(pairs), horizontal_spacing=0.1)
    for column, (across, up) in enumerate(pairs, start=1):
        limits = [dataset.robot.limits[across], dataset.robot.limits[up]]
        x, y = dataset.actions[:, across], dataset.actions[:, up]
        counts, x_edges, y_edges = np.histogram2d(x, y, _PARTS, limits)
        shares = 100.0 * counts.T / len(dataset)
        shares[shares == 0.0] = np.nan
        figure.add_trace(
            go.Heatmap(
                x=(x_edges[1:] + x_edges[:-1]) / 2,
                y=(y_edges[1:] + y_edges[:-1]) / 2,
                z=np.log10(shares).astype(np.float32),
                customdata=shares.astype(np.float32),
                showscale=False,
                hovertemplate="%{x:.3g}, %{y:.3g}: %{customdata:.2f} % of rows<extra></extra>",
            ),
            row=1,
            col=column,
        )
        figure.update_xaxes(title_text=names[across], range=limits[0], row=1, col=column)
        figure.update_yaxes(title_text=names[up], range=limits[1], row=1, col=column)
    return figure.update_layout(height=250, margin=_margin(60, 12))


def path_figure(path: NDArray[np.float32], dataset: Dataset) -> Figure:
    """Draw where the robot was (N, 2), the episodes coloured in five groups by their return."""
    returns = dataset.returns()
    groups = min(len(_RETURN_COLOURS), len(returns))
    ranked = np.argsort(np.argsort(returns, kind="stable"), kind="stable")
    group_of = ranked * groups // len(returns)
    colours = [
        _RETURN_COLOURS[i * (len(_RETURN_COLOURS) - 1) // max(groups - 1, 1)] for i in range(groups)
    ]
    stride = -(-len(path) // PATH_POINTS)
    figure = go.Figure()
    for group, colour in enumerate(colours):
        members = np.flatnonzero(group_of == group)
        pieces = []
        for episode in members:
            start, length = int(dataset.starts[episode]), int(dataset.lengths[episode])
            pieces += [path[start : start + length : stride], np.full((1, 2), np.nan, np.float32)]
        x, y = np.concatenate(pieces).T
        low, high = returns[members].min(), returns[members].max()
        figure.add_trace(
            go.Scatter(
                x=x,
                y=y,
                mode="lines",
                line={"color": colour, "width": 1.6},
                name=f"return {low:.3g} to {high:.3g}" if len(members) > 1 else f"return {low:.3g}",
                hovertemplate="%{x:.2f} m, %{y:.2f} m<extra></extra>",
            )
        )
    begins = path[dataset.starts]
    figure.add_trace(
        go.Scatter(
            x=begins[:, 0],
            y=begins[:, 1],
            mode="markers",
            marker={"color": _GREY, "size": 6, "symbol": "circle-open"},
            name="start of an episode",
            hoverinfo="skip",
        )
    )
    figure.update_xaxes(title_text="x [m]")
    figure.update_yaxes(title_text="y [m]", scaleanchor="x")
    return figure.update_layout(height=460, margin=_margin(52, 12))


def ticks_figure(entries: Sequence[BagEntry]) -> Figure:
    """Draw the share of each bag's ticks that became rows, and why the others did not."""
    worst = sorted(entries, key=lambda e: e["transitions"] / max(e["ticks"], 1))[:MOST_BAGS]
    shown = [entry for entry in entries if entry in worst][::-1]
    places = np.arange(len(shown))
    main = [reason for reason, _ in dropped_ticks(entries).most_common(len(_REASON_COLOURS))]
    parts = {"kept": ([entry["transitions"] for entry in shown], BLUE)}
    for reason, colour in zip(main, _REASON_COLOURS, strict=False):
        parts[reason] = ([entry["dropped"].get(reason, 0) for entry in shown], colour)
    others = [sum(n for why, n in e["dropped"].items() if why not in main) for e in shown]
    if any(others):
        parts["other reasons"] = (others, _GREY)
    ticks = np.array([max(entry["ticks"], 1) for entry in shown])
    figure = go.Figure()
    for name, (counts, colour) in parts.items():
        figure.add_trace(
            go.Bar(
                y=places,
                x=100.0 * np.array(counts) / ticks,
                customdata=counts,
                orientation="h",
                name=name,
                marker={"color": colour, "line": {"width": 0}},
                hovertemplate="%{customdata} ticks (%{x:.1f} %)<extra>%{fullData.name}</extra>",
            )
        )
    figure.update_xaxes(title_text="% of the bag's ticks", range=[0, 100])
    names = [_shortened(str(entry["bag"])) for entry in shown]
    figure.update_yaxes(automargin=True, tickvals=places, ticktext=names)
    height = 160 + 24 * len(shown)
    return figure.update_layout(
        height=height, barmode="stack", bargap=0.3, legend=_LEGEND, margin=_margin(20, 8)
    )


def gaps_figure(entries: Sequence[BagEntry], limits: Span) -> Figure:
    """Draw longest gap and offset of the header clock, a dot per bag and topic, with limits [s]."""
    figure = make_subplots(rows=1, cols=2, shared_yaxes=True, horizontal_spacing=0.1)
    found = [(t["topic"], entry["bag"], t) for entry in entries for t in entry["topics"]]
    order = list(dict.fromkeys(topic for topic, _, _ in found))
    columns = (
        ("longest_gap", "longest gap", BLUE),
        ("header_offset", "|header clock offset|", RED),
    )
    for column, ((key, title, beyond), limit) in enumerate(zip(columns, limits, strict=True), 1):
        dots = [(topic, bag, t[key]) for topic, bag, t in found if t[key]]
        dots = sorted(dots, key=lambda dot: -abs(dot[2]))[:MOST_MARKERS]
        seconds = np.abs([value for _, _, value in dots])
        figure.add_trace(
            go.Scatter(
                x=seconds,
                y=[topic for topic, _, _ in dots],
                mode="markers",
                marker={
                    "color": np.where(seconds > limit, beyond, BLUE).tolist(),
                    "size": 8,
                    "opacity": 0.7,
                },
                customdata=[(bag, f"{value:+.4g}") for _, bag, value in dots],
                hovertemplate="%{customdata[1]} s<extra>%{customdata[0]}</extra>",
                showlegend=False,
            ),
            row=1,
            col=column,
        )
        figure.add_vline(limit, row=1, col=column, line=LIMIT_LINE)
        axis = _time_axis(np.append(seconds, limit))
        figure.update_xaxes(axis, title_text=title, row=1, col=column)
    figure.update_yaxes(categoryorder="array", categoryarray=order[::-1], automargin=True)
    return figure.update_layout(height=70 + 30 * max(len(order), 3), margin=_margin(20, 12))


def _time_axis(seconds: NDArray[np.float64]) -> dict[str, Any]:
    """Return a logarithmic axis that holds these times, with ticks in the units people say."""
    low = np.floor(np.log10(seconds.min()) - 0.1)
    high = np.ceil(np.log10(seconds.max()) + 0.1)
    ticks = [*_TIMES, *(_TIMES_NEAR if high - low < 7 else _YEARS)]
    return {
        "type": "log",
        "range": [low, high],
        "tickvals": [value for value, _ in ticks],
        "ticktext": [text for _, text in ticks],
    }


def _shortened(name: str) -> str:
    return name if len(name) <= _LABEL else f"…{name[1 - _LABEL :]}"


def _margin(left: int, top: int) -> dict[str, int]:
    return {"l": left, "r": 12, "t": top, "b": 38}
