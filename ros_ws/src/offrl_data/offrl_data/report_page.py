"""One web page that shows a dataset; plotly's script and all numbers are inside it."""

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from html import escape
from pathlib import Path

import numpy as np

from offrl_data.dataset import Dataset
from offrl_data.report_figures import (
    MOST_BAGS,
    command_maps,
    episodes_figure,
    gaps_figure,
    path_figure,
    ticks_figure,
)
from offrl_data.report_summary import (
    BagEntry,
    Remark,
    bag_entries,
    coverage,
    dropped_ticks,
    duration,
    remarks,
)
from offrl_data.report_terms import (
    POINTS,
    SLICES,
    TermData,
    action_terms,
    observation_terms,
    reward_term,
    term_figure,
)
from offrl_data.series import MAX_CLOCK_OFFSET
from offrl_data.web_page import Plots, Section, cards, panel, table, web_page, write_whole

MOST_EPISODES = 5000
"""Episodes in the table."""
_MOST_REMARKS = 20
_MOST_NAMES = 3


def write_page(dataset: Dataset, name: str, out: Path) -> int:
    """Write the page, which appears only when it is whole; return its size in bytes.

    Raises InputError where it cannot be written.
    """
    return write_whole(page(dataset, name), out)


def page(dataset: Dataset, name: str) -> str:
    """Return the page of a dataset."""
    plots, robot = Plots(), dataset.robot
    sections = list(_sections(dataset, plots))
    subtitle = (
        f"Robot {robot.robot} at {robot.rate:g} Hz, values in SI units. "
        "In any figure, drag to zoom and double-click to go back."
    )
    head = [_cards(dataset), _remarks(remarks(dataset))]
    return web_page("offrl report", name, subtitle, head, sections, plots)


def _sections(dataset: Dataset, plots: Plots) -> Iterator[Section]:
    """Yield the sections that this dataset has something to show in."""
    entries = bag_entries(dataset)
    yield (
        "Returns",
        "The return of an episode is the sum of its rewards. A terminal ended the task, a timeout "
        "only the log.",
        panel(plots.place(episodes_figure(dataset))) + _term(reward_term(dataset), dataset, plots),
    )
    yield _commands(dataset, plots)
    if dataset.path is not None:
        yield (
            "Path",
            "Where the robot was by its odometry, a line per episode. The policy does not see it.",
            panel(plots.place(path_figure(dataset.path, dataset))),
        )
    yield (
        "Observations",
        "What the policy sees, term by term: how the values are distributed, and their course. "
        f"The outermost bins take the last 0.1 % of the values on either side.{_thinned(dataset)}",
        "".join(_term(term, dataset, plots) for term in observation_terms(dataset)),
    )
    if entries:
        yield _bags(dataset, entries, plots)
    yield _episodes(dataset)
    yield _origin(dataset, entries)


def _cards(dataset: Dataset) -> str:
    """Return the numbers to see first."""
    robot, entries, returns = dataset.robot, bag_entries(dataset), dataset.returns()
    terminals = int(dataset.terminals.sum())
    seconds = len(dataset) / robot.rate
    numbers = [
        (
            "rows",
            f"{len(dataset):,}".replace(",", " "),
            f"{robot.observation_size} observed, {robot.action_size} commanded values each",
        ),
        (
            "episodes",
            str(len(returns)),
            f"{terminals} ended by a terminal, {len(returns) - terminals} by a timeout",
        ),
        (
            "time driven",
            duration(seconds),
            f"median episode {duration(float(np.median(dataset.lengths)) / robot.rate)}",
        ),
        (
            "return",
            f"{_figure(returns.mean())} ± {_figure(returns.std())}",
            f"mean ± standard deviation; {_figure(returns.min())} to {_figure(returns.max())}",
        ),
    ]
    if entries:
        used = sum(entry["transitions"] > 0 for entry in entries)
        dropped = dropped_ticks(entries)
        ticks = sum(entry["ticks"] for entry in entries)
        share = 100.0 * dropped.total() / max(ticks, 1)
        main = ", ".join(f"{reason} ({count})" for reason, count in dropped.most_common(2))
        numbers += [
            (
                "bags used",
                f"{used} of {len(entries)}",
                f"{duration(sum(entry['seconds'] for entry in entries))} of recording",
            ),
            ("ticks dropped", f"{share:.1f} %", f"mostly: {main}" if main else "none"),
        ]
    return cards(numbers)


def _figure(value: float) -> str:
    """Return three digits at least, and no power of ten."""
    return f"{value:.0f}" if abs(value) >= 100.0 else f"{value:.3g}"


def _remarks(found: Sequence[Remark]) -> str:
    """Return what is odd as a list, or that nothing is."""
    if not found:
        return '<div class="panel">Nothing odd was found.</div>'
    lines = []
    for remark in found[:_MOST_REMARKS]:
        names = ", ".join(remark.bags[:_MOST_NAMES])
        if len(remark.bags) > _MOST_NAMES:
            names += f" and {len(remark.bags) - _MOST_NAMES} more"
        where = f" <small>{escape(names)}</small>" if names else ""
        lines.append(f"<li>{escape(remark.text)}{where}</li>")
    if len(found) > _MOST_REMARKS:
        lines.append(f"<li>and {len(found) - _MOST_REMARKS} more</li>")
    return f'<div class="panel warn"><h3>To look at</h3><ul>{"".join(lines)}</ul></div>'


def _commands(dataset: Dataset, plots: Plots) -> Section:
    """Return what was commanded, against the limits."""
    rows = [
        (
            each.name,
            f"{each.low:g} to {each.high:g}",
            f"{each.usual[0]:.3g} to {each.usual[1]:.3g}",
            f"{100 * each.visited:.0f} %",
            f"{100 * each.at_limit:.1f} %",
        )
        for each in coverage(dataset)
    ]
    head = ("command", "limits", "98 % lie in", "range visited", "at a limit")
    note = (
        "<p>Range visited: of 20 equal parts of the range, the share that holds at least 0.1 % of "
        "the rows each.</p>"
    )
    content = panel(table(head, rows, numeric=head[1:]) + note)
    maps = command_maps(dataset)
    if maps is not None:
        caption = "<p>How often two commands were given together; blank where never.</p>"
        content = f'<div class="two">{content}{panel(caption + plots.place(maps))}</div>'
    content += "".join(_term(term, dataset, plots) for term in action_terms(dataset))
    sentence = (
        "What was commanded, within the limits of the robot file (dotted). A policy can be "
        "trusted only where commands were tried."
    )
    return "Commands", sentence, content


def _term(term: TermData, dataset: Dataset, plots: Plots) -> str:
    """Return the panel of one term."""
    title = f"<h3>{escape(term.name)}</h3><p>{escape(term.source)}</p>"
    return panel(title + plots.place(term_figure(term, dataset)))


def _bags(dataset: Dataset, entries: Sequence[BagEntry], plots: Plots) -> Section:
    """Return what became of each bag, and how its topics ran."""
    limits = dataset.robot.episode.gap, MAX_CLOCK_OFFSET
    ticks, gaps = ticks_figure(entries), gaps_figure(entries, limits)
    height = max(ticks.layout.height, gaps.layout.height)
    drawn = [panel(plots.place(each.update_layout(height=height))) for each in (ticks, gaps)]
    figures = f'<div class="two">{"".join(drawn)}</div>'
    some = f" The {MOST_BAGS} that lost most are drawn." if len(entries) > MOST_BAGS else ""
    sentence = (
        "A tick becomes a row when every term is fresh and a command is in force; the others are "
        f"dropped, by their first reason.{some} Dotted: the pause that ends an episode "
        f"({limits[0]:g} s), and the clock offset from which on header stamps are useless "
        f"({limits[1]:g} s)."
    )
    return "Bags", sentence, figures + _bag_table(entries) + _topic_table(entries)


def _bag_table(entries: Sequence[BagEntry]) -> str:
    rows = []
    for entry in entries:
        dropped = sum(entry["dropped"].values())
        share = f"{100.0 * dropped / entry['ticks']:.1f}" if entry["ticks"] else "-"
        reason = max(entry["dropped"], key=entry["dropped"].__getitem__, default="-")
        counts = (entry["transitions"], entry["episodes"], entry["terminals"])
        rows.append((str(entry["bag"]), f"{entry['seconds']:.1f}", *counts, share, reason))
    head = ("bag", "seconds", "rows", "episodes", "terminals", "dropped [%]", "mostly")
    return panel(table(head, rows, numeric=head[1:6]), "scroll")


def _topic_table(entries: Sequence[BagEntry]) -> str:
    rows = []
    for entry in entries:
        for topic in entry["topics"]:
            offset = topic["header_offset"]
            rows.append(
                (
                    str(entry["bag"]),
                    topic["topic"],
                    topic["messages"],
                    f"{topic['rate']:.1f}",
                    f"{topic['longest_gap']:.2f}",
                    "-" if offset is None else f"{offset:+.4f}",
                    topic["malformed"],
                )
            )
    numeric = ("messages", "rate [Hz]", "longest gap [s]", "header clock [s]", "malformed")
    return panel(table(("bag", "topic", *numeric), rows, numeric), "scroll")


def _episodes(dataset: Dataset) -> Section:
    """Return the table of episodes."""
    returns = dataset.returns()
    shown = min(len(returns), MOST_EPISODES)
    rows = [
        (
            index,
            dataset.sources[index],
            _utc(int(dataset.stamps[index])),
            int(dataset.starts[index]),
            int(dataset.lengths[index]),
            f"{dataset.lengths[index] / dataset.robot.rate:.1f}",
            f"{returns[index]:.3f}",
            "terminal"
            if dataset.terminals[dataset.starts[index] + dataset.lengths[index] - 1]
            else "timeout",
        )
        for index in range(shown)
    ]
    head = ("episode", "from", "began (UTC)", "first row", "rows", "seconds", "return", "ended by")
    numeric = ("episode", "first row", "rows", "seconds", "return")
    some = f" The first {shown} of {len(returns)}." if shown < len(returns) else ""
    sentence = f"All episodes in the order of the file; click a heading to sort.{some}"
    return "Episodes", sentence, panel(table(head, rows, numeric), "scroll")


def _origin(dataset: Dataset, entries: Sequence[BagEntry]) -> Section:
    """Return where the dataset is from: digests, bag hashes, robot file."""
    lines = [("dataset digest", dataset.digest), ("robot file digest", dataset.robot.digest())]
    lines += [(str(entry["bag"]), str(entry["xxh128"])) for entry in entries]
    lines += [
        (f"images/{name}", "×".join(map(str, shape))) for name, shape in dataset.images.items()
    ]
    listed = panel(table(("what", "identity (of bags: xxh128)"), lines, numeric=()), "scroll long")
    robot = panel(f"<pre><code>{escape(dataset.robot.to_yaml())}</code></pre>", "scroll")
    content = f'<div class="two">{listed}{robot}</div>'
    return "Origin", "What this dataset was made from, and its robot file.", content


def _thinned(dataset: Dataset) -> str:
    """Say how a long series is drawn."""
    if len(dataset) <= POINTS:
        return ""
    return f" Over time: range (shaded) and mean of each of {SLICES} equal stretches."


def _utc(stamp: int) -> str:
    """Return a stamp [ns] as date and time; "-" where unknown."""
    if not stamp:
        return "-"
    return datetime.fromtimestamp(stamp / 1e9, UTC).strftime("%Y-%m-%d %H:%M:%S")
