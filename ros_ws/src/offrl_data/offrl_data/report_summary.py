"""What a dataset's numbers and its conversion report say, in words: no figures, no HTML."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from offrl_contract.sampling import action_names, observation_names

from offrl_data.dataset import Dataset
from offrl_data.series import MAX_CLOCK_OFFSET

BagEntry = Mapping[str, Any]
"""One bag of the conversion report, as BagReport.as_dict gives it."""

_UNITS = (("d", 86400.0), ("h", 3600.0), ("min", 60.0), ("s", 1.0))
_AT_LIMIT = 1e-3
"""How near to a limit counts as at it, as a part of the range."""
_CELLS = 20
"""Equal parts of a command's range, to say how much of it was visited."""
_VISITED = 1e-3
"""Share of the rows from which on a part counts as visited."""
_OFTEN = 0.2
"""Share of the rows at a limit from which on it is worth a remark."""


@dataclass(frozen=True)
class Remark:
    """Something odd, and the bags that show it."""

    text: str
    bags: tuple[str, ...] = ()


@dataclass(frozen=True)
class Coverage:
    """How much of its range one command used."""

    name: str
    low: float
    high: float
    usual: tuple[float, float]
    """1st and 99th percentile."""
    visited: float
    """Share of the range, in parts of a twentieth, that holds at least 0.1 % of the rows."""
    at_limit: float
    """Share of the rows at either limit."""


def bag_entries(dataset: Dataset) -> list[BagEntry]:
    """Return the conversion report; empty for a dataset that no bag was converted to."""
    entries: list[BagEntry] = dataset.metadata.get("report") or []
    return entries


def dropped_ticks(entries: Sequence[BagEntry]) -> Counter[str]:
    """Return how many ticks were dropped over all bags, by reason."""
    reasons: Counter[str] = Counter()
    for entry in entries:
        reasons.update(entry["dropped"])
    return reasons


def duration(seconds: float) -> str:
    """Return a time in the unit that reads best."""
    for unit, size in _UNITS:
        if abs(seconds) >= size:
            digits = 1 if abs(seconds) < 100.0 * size else 0
            return f"{seconds / size:.{digits}f} {unit}"
    return f"{seconds * 1e3:.1f} ms"


def coverage(dataset: Dataset) -> list[Coverage]:
    """Return how much of its range each command used."""
    found = []
    names = action_names(dataset.robot)
    columns = dataset.actions.T.astype(np.float64)
    for name, (low, high), values in zip(names, dataset.robot.limits, columns, strict=True):
        near = _AT_LIMIT * (high - low)
        first, last = np.percentile(values, [1.0, 99.0])
        counts, _ = np.histogram(values, _CELLS, (low, high))
        found.append(
            Coverage(
                name=name,
                low=low,
                high=high,
                usual=(float(first), float(last)),
                visited=float((counts >= _VISITED * len(values)).mean()),
                at_limit=float(((values <= low + near) | (values >= high - near)).mean()),
            )
        )
    return found


def remarks(dataset: Dataset) -> list[Remark]:
    """Return what is odd, each thing once with the bags that show it."""
    by_text: dict[str, list[str]] = {}
    for entry in bag_entries(dataset):
        for text in _of_bag(entry):
            by_text.setdefault(text, []).append(entry["bag"])
    found = [Remark(text, tuple(bags)) for text, bags in by_text.items()]
    return [*found, *_of_rows(dataset)]


def _of_bag(entry: BagEntry) -> Iterator[str]:
    """Yield what is odd in one bag, whatever lists and counts its report holds."""
    for topic in entry["topics"]:
        offset = topic["header_offset"]
        if offset is not None and abs(offset) > MAX_CLOCK_OFFSET:
            side = "behind" if offset < 0 else "ahead of"
            yield (
                f"{topic['topic']}: the header clock is {duration(abs(offset))} {side} "
                "the receive clock"
            )
        if topic["malformed"]:
            yield f"{topic['topic']}: {topic['malformed']} malformed messages"
    if entry["clipped_commands"]:
        yield f"{entry['clipped_commands']} commands outside the limits, clipped to them"
    if entry["ticks"] and not entry["transitions"]:
        yield "not one of its ticks could be used"
    for key, value in entry.items():
        if isinstance(value, list):
            yield from (each for each in value if isinstance(each, str))
        elif isinstance(value, dict) and key != "dropped":
            counts = ", ".join(f"{name} {count}" for name, count in value.items() if count)
            if counts:
                yield f"{key.replace('_', ' ')}: {counts}"


def _of_rows(dataset: Dataset) -> Iterator[Remark]:
    """Yield what is odd in the rows themselves."""
    robot = dataset.robot
    for kind, names, values in (
        ("observed", observation_names(robot), dataset.observations),
        ("commanded", action_names(robot), dataset.actions),
    ):
        still = [name for name, same in zip(names, _constant(values), strict=True) if same]
        if still:
            shown = ", ".join(still[:6]) + (f" and {len(still) - 6} more" if len(still) > 6 else "")
            yield Remark(f"{kind} but never changing: {shown}")
    for each in coverage(dataset):
        if each.at_limit >= _OFTEN:
            yield Remark(f"{each.name} is at a limit in {100.0 * each.at_limit:.0f} % of the rows")
    if robot.terminal != "False" and not dataset.terminals.any():
        yield Remark("the terminal condition never came true: every episode ends with the log")


def _constant(values: NDArray[np.float32]) -> NDArray[np.bool_]:
    same: NDArray[np.bool_] = values.min(axis=0) == values.max(axis=0)
    return same
