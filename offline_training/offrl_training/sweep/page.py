"""The page of a sweep: one row per configuration, learning curves, one row per trial."""

from collections.abc import Iterator, Sequence

import numpy as np
from offrl_data.web_page import Cell, Figure, Plots, Section, cards, panel, table, web_page
from plotly import graph_objects as go
from plotly.subplots import make_subplots

from offrl_training.sweep.results import Result, metric_names

_COLOURS = (
    "#3b7dd8", "#c8503c", "#3f9b5a", "#9a63c4", "#c98a1b", "#2aa5a5", "#d1589b", "#7d8794",
)  # fmt: skip
_DASHES = ("solid", "dash", "dot", "dashdot")
_ROW_HEIGHT = 250
_LEGEND_HEIGHT = 22
_ABOVE = 60

_Groups = dict[str, list[Result]]
"""Results by configuration."""


def sweep_page(name: str, results: Sequence[Result], origin: Sequence[tuple[str, str]]) -> str:
    """Return the page of a sweep; `origin` says, line by line, what it was made from."""
    plots = Plots()
    groups: _Groups = {}
    for result in results:
        groups.setdefault(result.trial.configuration, []).append(result)
    metrics = metric_names(results)
    sections = [_configurations(groups, metrics)]
    if metrics:
        sections.append(_curves(groups, metrics, plots))
    sections.append(_trials(results))
    sections.append(("Origin", "What was swept.", panel(table(("what", "value"), origin, ()))))
    subtitle = "In any figure, drag to zoom and double-click to go back."
    return web_page("offrl sweep", name, subtitle, [_cards(results, groups)], sections, plots)


def _cards(results: Sequence[Result], groups: _Groups) -> str:
    states = [result.outcome.state for result in results]
    kept = sum(result.outcome.attempts == 0 for result in results)
    begun = sum(result.outcome.attempts for result in results)
    return cards(
        (
            ("trials", str(len(results)), f"{len(groups)} configurations"),
            ("finished", str(states.count("finished")), f"{kept} of them before this command"),
            ("failed", str(states.count("failed")), f"{states.count('interrupted')} interrupted"),
            ("attempts", str(begun), "by this command"),
        )
    )


def _configurations(groups: _Groups, metrics: Sequence[str]) -> Section:
    """Return the newest metrics, mean and deviation over seeds."""
    rows: list[list[Cell]] = []
    for name, results in groups.items():
        finished = [result for result in results if result.outcome.state == "finished"]
        found = ([result.last(metric) for result in finished] for metric in metrics)
        cells = [_spread([value for value in values if value is not None]) for values in found]
        rows.append([name, f"{len(finished)} of {len(results)}", *cells])
    head = ("configuration", "finished", *metrics)
    sentence = (
        "The last value of each metric, mean ± standard deviation over the seeds that finished. "
        "Held-out errors say how well the log is fitted, not how well a policy drives."
    )
    return "Configurations", sentence, panel(table(head, rows, head[1:]), "scroll")


def _spread(values: Sequence[float]) -> str:
    if not values:
        return "-"
    deviation = f" ± {np.std(values, ddof=1):.2g}" if len(values) > 1 else ""
    return f"{np.mean(values):.4g}{deviation}"


def _curves(groups: _Groups, metrics: Sequence[str], plots: Plots) -> Section:
    """Return every metric over the steps, a colour per configuration."""
    rows = (len(metrics) + 1) // 2
    legend = _LEGEND_HEIGHT * len(groups)
    height = _ROW_HEIGHT * rows + _ABOVE + legend
    figure = make_subplots(
        rows=rows,
        cols=2,
        subplot_titles=list(metrics),
        horizontal_spacing=0.07,
        vertical_spacing=min(0.3, 70 / height),
    )
    for index, (name, results) in enumerate(groups.items()):
        turn, colour = divmod(index, len(_COLOURS))
        line = {"color": _COLOURS[colour], "dash": _DASHES[turn % len(_DASHES)]}
        for place, metric in enumerate(metrics):
            row, column = divmod(place, 2)
            for trace in _lines(name, results, metric, line):
                trace.showlegend = trace.showlegend and place == 0
                figure.add_trace(trace, row=row + 1, col=column + 1)
    for place in range(max(len(metrics) - 2, 0), len(metrics)):
        row, column = divmod(place, 2)
        figure.update_xaxes(title_text="step", row=row + 1, col=column + 1)
    figure.update_layout(
        height=height,
        margin={"l": 50, "r": 12, "t": _ABOVE + legend, "b": 38},
        legend={"yref": "container", "y": 1.0, "yanchor": "top", "x": 0.0, "orientation": "v"},
    )
    sentence = "Thick: mean over seeds; thin: each seed. Click a configuration to hide or show it."
    return "Learning curves", sentence, panel(plots.place(figure))


def _lines(
    name: str, results: Sequence[Result], metric: str, line: dict[str, str]
) -> Iterator[Figure]:
    """Yield the mean of a metric over seeds, at the steps that all of them have, and each seed."""
    curves = [result.curves[metric] for result in results if metric in result.curves]
    courses = [dict(zip(*curve, strict=True)) for curve in curves]
    common = sorted(set.intersection(*map(set, courses))) if courses else []
    mean = [float(np.mean([course[step] for course in courses])) for step in common]
    group = {"name": name, "legendgroup": name, "mode": "lines"}
    yield go.Scatter(x=common, y=mean, line={**line, "width": 2}, showlegend=True, **group)
    if len(curves) > 1:
        for steps, values in curves:
            thin = {"line": {**line, "width": 1}, "opacity": 0.4, "hoverinfo": "skip"}
            yield go.Scatter(x=steps, y=values, showlegend=False, **thin, **group)


def _trials(results: Sequence[Result]) -> Section:
    rows = []
    for result in results:
        outcome = result.outcome
        numbers = (result.trial.training.seed, outcome.attempts, result.step)
        rows.append((result.trial.name, outcome.state, *numbers, outcome.error))
    head = ("trial", "state", "seed", "attempts", "step", "error")
    content = panel(table(head, rows, ("seed", "attempts", "step")), "scroll")
    return "Trials", "Each has a run folder of its own, to go on with or to export.", content
