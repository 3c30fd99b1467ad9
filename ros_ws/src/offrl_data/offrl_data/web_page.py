"""A web page that needs no network: its figures, all their numbers and plotly's script are inside.

Headings sort their table by a click, and colours follow the reader's light or dark scheme.
"""

import os
from collections.abc import Iterable, Sequence
from contextlib import suppress
from html import escape
from importlib.resources import files
from pathlib import Path
from string import Template
from typing import Any

from offrl_contract import InputError
from plotly.offline import get_plotlyjs

Figure = Any
"""A plotly figure or trace; plotly has no types."""
Cell = str | int | float
Section = tuple[str, str, str]
"""Heading, a sentence that explains it, content; all HTML."""


class Plots:
    """The figures of a page, each drawn by the page's script into a division of its own."""

    def __init__(self) -> None:
        self._figures: list[str] = []

    def place(self, figure: Figure) -> str:
        """Return the division of a figure."""
        number = len(self._figures)
        figure.layout.template = None
        self._figures.append(figure.to_json())
        return (
            f'<div class="plot" id="figure-{number}" style="height:{figure.layout.height}px"></div>'
        )

    def as_json(self) -> str:
        """Return all figures, as text that may stand inside a script element."""
        return f"[{','.join(self._figures)}]".replace("<", "\\u003c")


def web_page(
    brand: str,
    title: str,
    subtitle: str,
    head: Iterable[str],
    sections: Sequence[Section],
    plots: Plots,
) -> str:
    """Return a page: what stands before its sections (HTML), then the sections, each with a link.

    `brand` says which command made it; brand, title and subtitle are text.
    """
    parts = list(head)
    links = []
    for heading, sentence, content in sections:
        anchor = heading.lower().replace(" ", "-")
        links.append(f'<a href="#{anchor}">{heading}</a>')
        parts.append(
            f'<section id="{anchor}"><h2>{heading}</h2><p>{sentence}</p>{content}</section>'
        )
    return Template(files("offrl_data").joinpath("web_page.html").read_text("utf-8")).substitute(
        brand=escape(brand),
        title=escape(title),
        subtitle=escape(subtitle),
        links="".join(links),
        content="\n".join(parts),
        figures=plots.as_json(),
        plotly=get_plotlyjs(),
    )


def write_whole(content: str, out: Path) -> int:
    """Write a page, which appears only when it is whole; return its size in bytes.

    Raises InputError where it cannot be written.
    """
    encoded = content.encode()
    beside = out.with_name(f".{out.name}.{os.getpid()}.tmp")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with beside.open("wb") as file:
            file.write(encoded)
            file.flush()
            os.fsync(file.fileno())
        os.replace(beside, out)
    except OSError as error:
        raise InputError(f"{out}: cannot be written: {error}") from error
    finally:
        with suppress(OSError):
            beside.unlink(missing_ok=True)
    return len(encoded)


def table(head: Sequence[str], rows: Sequence[Sequence[Cell]], numeric: Sequence[str]) -> str:
    """Return a table whose headings sort it; numeric columns stand right."""
    kinds = [' class="number"' if name in numeric else "" for name in head]
    top = "".join(f"<th{kind}>{escape(name)}</th>" for name, kind in zip(head, kinds, strict=True))
    lines = []
    for row in rows:
        cells = zip(row, kinds, strict=True)
        lines.append("".join(f"<td{kind}>{escape(str(cell))}</td>" for cell, kind in cells))
    body = "".join(f"<tr>{line}</tr>" for line in lines)
    return f"<table><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table>"


def panel(content: str, kind: str = "") -> str:
    """Return a panel; kind `scroll` limits its height."""
    return f'<div class="panel {kind}">{content}</div>'


def cards(numbers: Iterable[tuple[str, str, str]]) -> str:
    """Return numbers to see first: what each is, its value, what else there is to say."""
    boxes = (
        f'<div class="card"><span>{escape(label)}</span><b>{escape(value)}</b>'
        f"<span>{escape(more)}</span></div>"
        for label, value, more in numbers
    )
    return f'<div class="cards">{"".join(boxes)}</div>'
