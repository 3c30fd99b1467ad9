"""The verb `convert`, and what `inspect` shows of bags and datasets."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import tyro
from numpy.typing import NDArray
from offrl_contract import InputError, load_robot
from offrl_contract.definitions import DEFAULT_DISTRO
from offrl_contract.memory import keep_freed_memory
from rich.console import Console
from rich.measure import Measurement
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from offrl_data.bags import Bag, find_bags
from offrl_data.conversion import BagReport, convert_bags
from offrl_data.dataset import load_dataset
from offrl_data.message_definitions import MessageDefinitions
from offrl_data.output import require_other
from offrl_data.topic_fields import content


@dataclass(frozen=True)
class ConvertConfig:
    """Turn bags into one dataset file."""

    bags: Annotated[tuple[Path, ...], tyro.conf.Positional]
    """Bags: .bag, .db3 or .mcap files, rosbag2 directories, or folders of them."""
    robot: str
    """Robot file, or the name of a shipped one (ackermann, diffdrive, neato, panda, racecar)."""
    out: Path
    """Dataset file to write."""
    msgs: Path | None = None
    """Folder of .msg files, for types that neither the bag nor the distribution defines."""
    distro: str = DEFAULT_DISTRO
    """ROS 2 distribution of the recording, for bags that carry no definitions."""
    jobs: int = 1
    """Bags that are converted at the same time; the dataset does not depend on it."""
    strict: bool = False
    """Refuse bags that can be read only in part, instead of reporting what was lost."""
    sim_time: bool = False
    """Time everything by /clock, as a node with use_sim_time does: for logs of a simulator."""
    resume: bool = False
    """Keep the bags that an interrupted conversion has finished."""


def convert(argv: list[str]) -> None:
    """Run `offrl convert`. Raises InputError."""
    config = tyro.cli(ConvertConfig, prog="offrl convert", args=argv)
    if config.jobs < 1:
        raise InputError(f"--jobs {config.jobs}: at least 1 is needed")
    if not config.bags:
        raise InputError("no bags: give files, rosbag2 directories, or folders of them")
    robot = load_robot(config.robot)
    require_other(config.out, [Path(config.robot)])
    definitions = MessageDefinitions(config.distro, config.msgs)
    bags = find_bags(list(config.bags))
    keep_freed_memory()
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.percentage:.0f} %"))
    with Progress(*columns, TimeRemainingColumn(), transient=True) as progress:
        task = progress.add_task(f"{len(bags)} bags", total=float(len(bags)))
        reports = convert_bags(
            bags,
            robot,
            config.out,
            definitions,
            jobs=config.jobs,
            strict=config.strict,
            resume=config.resume,
            sim_time=config.sim_time,
            advance=lambda fraction: progress.advance(task, fraction),
        )
    _print_reports(reports)
    dataset = load_dataset(config.out)
    print(
        f"{config.out}: {len(dataset)} transitions in {len(dataset.lengths)} episodes, "
        f"observation {robot.observation_size}, action {robot.action_size}, robot {robot.digest()}"
    )


def inspect_bag(
    path: Path, topic: str | None = None, msgs: Path | None = None, distro: str = DEFAULT_DISTRO
) -> None:
    """Print the topics of a bag, or of each bag in a folder; or the fields of one of them.

    Raises InputError, at the end, for those that cannot be opened.
    """
    definitions = MessageDefinitions(distro, msgs)
    errors: list[InputError] = []
    for each in find_bags([path]):
        try:
            if topic is None:
                _print_topics(each)
            else:
                _print_fields(each, topic, definitions)
        except InputError as error:
            errors.append(error)
    if errors:
        raise InputError("\n".join(map(str, errors)))


def _print_topics(path: Path) -> None:
    with Bag(path) as bag:
        table = Table(title=bag.name)
        counts = bag.counts()
        for column in ("topic", "type", "messages", "definition"):
            _add_column(table, column, number=column == "messages")
        for topic in bag.topics.values():
            has = "in the bag" if topic.channels[0].definition else "none"
            table.add_row(topic.name, topic.type_name, str(counts[topic.name]), has)
        _show(table)
        _print_oddities(bag)


def _print_fields(path: Path, name: str, definitions: MessageDefinitions) -> None:
    with Bag(path) as bag:
        topic = bag.topic(name)
        found = content(bag, topic, definitions)
        table = Table(title=f"{bag.name}: {name}, {topic.type_name}")
        for column in ("field", "type", "entries", "in the first message"):
            _add_column(table, column, number=column == "entries")
        for field in found.fields:
            table.add_row(field.path, field.type_name, field.entries, field.shown)
        _show(table)
        pace = f"{found.rate:.1f} Hz, longest gap {found.longest_gap:.2f} s"
        print(
            f"{found.messages} message{'s' * (found.messages != 1)}"
            + (f", {pace}" if found.rate else "")
        )
        _print_oddities(bag)


def _print_oddities(bag: Bag) -> None:
    for note in bag.notes:
        print(f"note: {note}")
    for loss in bag.losses.lines:
        print(f"lost: {loss}")


def inspect_dataset(path: Path) -> None:
    """Print a summary of a dataset file. Raises InputError."""
    dataset = load_dataset(path)
    robot = dataset.robot
    returns = dataset.returns()
    table = Table(title=f"{path.name}: robot {robot.robot} ({robot.digest()}), {robot.rate:g} Hz")
    for column in ("term", "from", "entries", "min", "mean", "max"):
        _add_column(table, column, number=column not in ("term", "from"))
    for term in robot.observation:
        values = dataset.observations[:, robot.observation_slices[term.name]]
        source = term.topic or "the command in force"
        table.add_row(term.name, source, str(values.shape[1]), *_range(values))
    start = 0
    for action in robot.action:
        values = dataset.actions[:, start : start + action.parts]
        start += action.parts
        table.add_row(action.name, f"{action.topic} (action)", str(action.parts), *_range(values))
    table.add_row("reward", robot.reward, "1", *_range(dataset.rewards))
    _show(table)
    print(
        f"{len(dataset)} transitions, {len(returns)} episodes "
        f"({int(dataset.terminals.sum())} ended by a terminal), "
        f"return {returns.mean():.3g} mean, {returns.min():.3g} to {returns.max():.3g}"
    )


def _range(values: NDArray[np.float32]) -> list[str]:
    return [f"{values.min():.3g}", f"{values.mean():.3g}", f"{values.max():.3g}"]


def _print_reports(reports: list[BagReport]) -> None:
    """Print what was kept and dropped, then what was odd."""
    table = Table(title="bags")
    for column in ("bag", "seconds", "ticks", "kept", "episodes", "terminals"):
        _add_column(table, column, number=column != "bag")
    topics = Table(title="topics")
    for column in ("bag", "topic", "messages", "rate [Hz]", "longest gap [s]", "header clock"):
        _add_column(topics, column, number=column not in ("bag", "topic"))
    for report in reports:
        counts = (report.ticks, report.transitions, report.episodes, report.terminals)
        table.add_row(report.bag, f"{report.seconds:.1f}", *map(str, counts))
        for topic in report.topics:
            row = (f"{topic.rate:.1f}", f"{topic.longest_gap:.2f}", _offset(topic.header_offset))
            name = report.bag if topic is report.topics[0] else ""
            topics.add_row(name, topic.topic, str(topic.messages), *row)
    _show(table, topics)
    for report in reports:
        for line in _remarks(report):
            print(f"{report.bag}: {line}")


def _remarks(report: BagReport) -> Iterator[str]:
    """Yield what a reader of the report should know beyond the tables."""
    if report.dropped:
        reasons = (f"{count} {reason}" for reason, count in report.dropped.items())
        yield f"dropped ticks: {', '.join(reasons)}"
    malformed = sum(topic.malformed for topic in report.topics)
    if malformed:
        yield f"{malformed} malformed messages"
    for topic in report.topics:
        for name, counts in topic.values.items():
            found = [f"{counts[key]} {words}" for key, words in _COUNTED.items() if counts[key]]
            lengths = sorted(map(int, counts["lengths"]))
            if counts["most_missing"]:
                found.append(f"up to {counts['most_missing']:.1%} of one message missing")
            if counts["scarce"]:
                found.append(f"{counts['scarce']} messages with more than max_missing")
            if len(lengths) > 1:
                found.append(f"{len(lengths)} lengths, {lengths[0]} to {lengths[-1]}")
            if found:
                yield f"{name}, {counts['values']} values: {', '.join(found)}"
    if report.clipped_commands:
        yield f"{report.clipped_commands} commands outside the limits, clipped to them"
    yield from report.notes
    for loss in report.losses:
        yield f"lost: {loss}"


_COUNTED = {
    "nan": "NaN",
    "inf": "infinite",
    "out_of_range": "out of the sensor's range",
    "clipped": "clipped",
}


def _offset(seconds: float | None) -> str:
    """Return header minus receive time in the unit that reads best."""
    if seconds is None:
        return "-"
    for unit, size in (("d", 86400.0), ("s", 1.0)):
        if abs(seconds) >= size:
            return f"{seconds / size:+.1f} {unit}"
    return f"{seconds * 1e3:+.1f} ms"


def _add_column(table: Table, name: str, number: bool) -> None:
    """Add a column that shows its entries whole, over several lines where they are long."""
    table.add_column(name, justify="right" if number else "left", overflow="fold")


def _show(*tables: Table) -> None:
    """Print tables with names as they are; in a file or a pipe, each row is one line."""
    console = Console(highlight=False, markup=False, emoji=False)
    if not console.is_terminal:
        unbounded = console.options.update(width=10_000)
        needed = [Measurement.get(console, unbounded, table).maximum for table in tables]
        console.width = max(console.width, *needed)
    for table in tables:
        console.print(table)
