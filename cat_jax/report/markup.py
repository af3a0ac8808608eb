"""Pieces of HTML. Every text that comes from data goes through `escape`."""

from __future__ import annotations

import dataclasses
import itertools
import re
import zlib
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from cat_jax.report.chart import swatch
from cat_jax.report.labels import Metric


@dataclasses.dataclass(frozen=True)
class Cell:
    """A table cell: markup that is already safe, and its CSS classes."""

    html: str
    css: str = ""


def text(value: Any, css: str = "") -> Cell:
    """A cell of plain text."""
    return Cell(escape(str(value)), css)


def number(value: str, css: str = "", note: str = "") -> Cell:
    """A right-aligned number, with a smaller note below it."""
    below = f'<span class="ci">{escape(note)}</span>' if note else ""
    return Cell(escape(value) + below, f"n {css}".strip())


def estimate_cell(metric: Metric, estimate: Mapping[str, Any] | None, signed: bool = False, best: bool = False) -> Cell:
    """An estimate with its interval below."""
    if estimate is None:
        return number("–")
    bounds = metric.show_interval(estimate["interval"], signed)
    return number(metric.show(estimate["mean"], signed), "best" if best else "", bounds)


def prose(value: str) -> str:
    """Escaped text in which neither an interval nor a percentage is broken across lines.

    >>> prose("<b> 30 % [1, 2]")
    '&lt;b&gt; <span class="nb">30 %</span> <span class="nb">[1, 2]</span>'
    """
    return re.sub(r"\[[^\]<>&]+\]( %)?|[\d.,]+ %", r'<span class="nb">\g<0></span>', escape(value))


def table(
    caption: str,
    head: Sequence[str],
    rows: Sequence[Sequence[Cell]],
    numeric: Sequence[bool],
    marked: Sequence[int] = (),
) -> str:
    """A table that scrolls sideways by itself when the page is narrow.

    The first column heads its rows; where it says the same in rows that follow one another, it is written once.

    Args:
      caption: what it shows, as safe markup.
      head: column headings, plain text.
      rows: cells.
      numeric: which columns hold numbers, for the headings' alignment.
      marked: rows with a shaded ground.
    """
    heads = "".join(
        f'<th scope="col"{" class=n" if n else ""}>{escape(h)}</th>' for h, n in zip(head, numeric, strict=True)
    )
    body, i = [], 0
    for first, group in itertools.groupby(rows, key=lambda row: row[0]):
        members = list(group)
        scope = "row" if len(members) == 1 else f'rowgroup" rowspan="{len(members)}'
        start = f'<th scope="{scope}"{_css(first)}>{first.html}</th>'
        for row in members:
            cells = "".join(f"<td{_css(cell)}>{cell.html}</td>" for cell in row[1:])
            body.append(f"<tr{' class=large' if i in marked else ''}>{start}{cells}</tr>")
            start, i = "", i + 1
    name = f"t{zlib.crc32((caption + ''.join(head)).encode()):08x}"
    return (
        f'<figure class="tabular"><figcaption id="{name}">{caption}</figcaption>'
        f'<div class="scroll" tabindex="0" role="region" aria-labelledby="{name}"><table aria-labelledby="{name}">'
        f"<thead><tr>{heads}</tr></thead><tbody>{''.join(body)}</tbody></table></div></figure>"
    )


def _css(cell: Cell) -> str:
    return f' class="{cell.css}"' if cell.css else ""


def figure(content: str, caption: str) -> str:
    """A figure with a caption of safe markup."""
    return f"<figure>{content}<figcaption>{caption}</figcaption></figure>"


def legend(entries: Sequence[tuple[str, int | None, bool]]) -> str:
    """A legend of (label, style, dashed) lines."""
    items = "".join(
        f'<li><svg viewBox="0 0 30 16" aria-hidden="true">{swatch(style, 0, 8, dashed)}</svg>{escape(label)}</li>'
        for label, style, dashed in entries
    )
    return f'<ul class="legend">{items}</ul>'


def box_legend(labels: Sequence[str]) -> str:
    """A legend of filled boxes in the colours c0, c1, ..."""
    items = "".join(f'<li><span class="box c{i}"></span>{escape(label)}</li>' for i, label in enumerate(labels))
    return f'<ul class="legend">{items}</ul>'


def section(anchor: str, heading: str, *content: str) -> str:
    """A section with a heading that the page's contents can point at; nothing if it has no content."""
    inside = "".join(content)
    return f'<section id="{anchor}"><h2>{escape(heading)}</h2>{inside}</section>' if inside else ""
