"""Line charts as SVG text: no library, no script. Colours are CSS variables, so that light and dark share one file.

A line is told from the others by its colour, its dashes and its markers' shape: none of the three alone is needed.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from html import escape

import numpy as np

COLOURS = 7
"""Series colours --s0 to --s6; series beyond them reuse a colour with other dashes and another marker."""

_DASHES = ("", "7 3", "", "2 3", "9 3 2 3", "5 2", "1 2")
_MARKERS = 4


@dataclasses.dataclass(frozen=True)
class Series:
    """One line. `style` numbers its look; None draws a thin neutral line without markers.

    A value or bound may be None, which is not drawn: a metric need not be defined everywhere, a correlation of constant
    answers, say.
    """

    label: str
    x: Sequence[float]
    y: Sequence[float | None]
    low: Sequence[float | None] | None = None
    high: Sequence[float | None] | None = None
    style: int | None = 0
    dashed: bool = False


@dataclasses.dataclass(frozen=True)
class Axes:
    """What a chart's axes show. `x_text` and `y_text` write ticks and tooltips; ranges default to those of the data."""

    x_label: str
    y_label: str
    x_text: Callable[[float], str]
    y_text: Callable[[float], str]
    x_range: tuple[float, float] | None = None
    y_range: tuple[float, float] | None = None
    zero_line: bool = False
    point: tuple[float, float | None, str] | None = None  # one place of its own: x, y and its name


@dataclasses.dataclass(frozen=True)
class Frame:
    """Where data land on the picture: the plot's box in pixels, and the ranges that fill it."""

    left: float
    right: float
    top: float
    bottom: float
    x_range: tuple[float, float]
    y_range: tuple[float, float]

    def x(self, value: float) -> float:
        """Pixels from the left."""
        low, high = self.x_range
        return self.left + (value - low) / (high - low) * (self.right - self.left)

    def y(self, value: float) -> float:
        """Pixels from the top."""
        low, high = self.y_range
        return self.bottom - (value - low) / (high - low) * (self.bottom - self.top)


def ticks(low: float, high: float, most: int) -> list[float]:
    """At most `most` + 1 round numbers within [low, high], 1, 2, 2.5 or 5 times a power of ten apart.

    >>> ticks(0, 1, 5), ticks(33, 67, 4)
    ([0.0, 0.2, 0.4, 0.6, 0.8, 1.0], [40.0, 50.0, 60.0])
    """
    rough = (high - low) / max(most, 1)
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(m * power for m in (1, 2, 2.5, 5, 10) if m * power >= rough * (1 - 1e-9))
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [round(i * step, 12) for i in range(first, last + 1)]


def line_chart(
    series: Sequence[Series], axes: Axes, *, width: int, height: int, title: str, description: str, marks: int = 10
) -> str:
    """The chart as an `<svg>` element.

    Args:
      series: drawn in order, the last on top; neutral ones should come first.
      axes: labels, number formats and ranges.
      width: of the drawing, in pixels at its natural size.
      height: likewise.
      title: short name, for screen readers.
      description: one or two sentences that say what is seen, for screen readers.
      marks: markers per line; each has its value as a tooltip. 0 for none.
    """
    frame = _frame(series, axes, width, height)
    parts = [_axes(frame, axes, width), _point(frame, axes)]
    parts += [_band(s, frame) for s in series]
    parts += [_line(s, frame) for s in series]
    if marks:
        parts += [_marks(s, frame, axes, marks) for s in series]
    return svg(parts, width, height, title, description)


def svg(parts: Sequence[str], width: int, height: int, title: str, description: str) -> str:
    """An `<svg>` element with a title and a description for those who cannot see it."""
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" '
        f'role="img" class="chart"><title>{escape(title)}</title><desc>{escape(description)}</desc>'
        f"{''.join(parts)}</svg>"
    )


def _frame(series: Sequence[Series], axes: Axes, width: int, height: int) -> Frame:
    x_range = axes.x_range or _spread([s.x for s in series], 0.0)
    y_range = axes.y_range or _spread([v for s in series for v in (s.y, s.low, s.high) if v is not None], 0.06)
    widest = max(len(axes.y_text(t)) for t in ticks(*y_range, most=5))
    return Frame(12 + 7 * widest, width - 20, 26, height - 40, x_range, y_range)


def _spread(values: Sequence[Sequence[float | None]], margin: float) -> tuple[float, float]:
    flat = np.concatenate([np.asarray(v, dtype=np.float64) for v in values])
    flat = flat[np.isfinite(flat)]
    low, high = (float(flat.min()), float(flat.max())) if len(flat) else (0.0, 1.0)
    if high - low < 1e-9:
        low, high = low - 0.5, high + 0.5
    return low - margin * (high - low), high + margin * (high - low)


def _axes(frame: Frame, axes: Axes, width: int) -> str:
    parts = []
    for value in ticks(*frame.y_range, most=5):
        y = frame.y(value)
        parts.append(_rule("zero" if axes.zero_line and value == 0 else "grid", frame.left, frame.right, y, y))
        parts.append(_words("tick", frame.left - 6, y + 4, axes.y_text(value), "end"))
    for value in ticks(*frame.x_range, most=10 if width > 560 else 5):
        x = frame.x(value)
        parts.append(_rule("axis", x, x, frame.bottom, frame.bottom + 4))
        parts.append(_words("tick", x, frame.bottom + 17, axes.x_text(value), "middle"))
    parts.append(_rule("axis", frame.left, frame.right, frame.bottom, frame.bottom))
    parts.append(_words("label", 2, 13, axes.y_label))
    parts.append(_words("label", frame.right, frame.bottom + 34, axes.x_label, "end"))
    return "".join(parts)


def _rule(css: str, x1: float, x2: float, y1: float, y2: float) -> str:
    return f'<line class="{css}" x1="{x1:.1f}" x2="{x2:.1f}" y1="{y1:.1f}" y2="{y2:.1f}"/>'


def _words(css: str, x: float, y: float, words: str, anchor: str = "start") -> str:
    return f'<text class="{css}" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(words)}</text>'


def _point(frame: Frame, axes: Axes) -> str:
    if axes.point is None or axes.point[1] is None:
        return ""
    x, y, label = frame.x(axes.point[0]), frame.y(axes.point[1]), axes.point[2]
    ring = f'<circle class="hollow neutral" cx="{x:.1f}" cy="{y:.1f}" r="4.5"/>'
    return ring + _words("name", x - 8, y - 10, label, "end")


def _runs(x: Sequence[float], *lines: Sequence[float | None]) -> list[np.ndarray]:
    """f64[1 + L, n] each: x and the L lines wherever all are defined, run by run; no gap is bridged.

    >>> [run.tolist() for run in _runs([0, 1, 2, 3], [5, None, 7, 8])]
    [[[0.0], [5.0]], [[2.0, 3.0], [7.0, 8.0]]]
    """
    values = np.array([x, *lines], dtype=np.float64)  # None is NaN
    inside = np.flatnonzero(np.isfinite(values).all(axis=0))
    parts = np.split(inside, np.flatnonzero(np.diff(inside) > 1) + 1)
    return [values[:, part] for part in parts if len(part)]


def _points(x: np.ndarray, y: np.ndarray, frame: Frame) -> str:
    return " ".join(f"{frame.x(a):.1f},{frame.y(b):.1f}" for a, b in zip(x.tolist(), y.tolist(), strict=True))


def _outline(x: np.ndarray, upper: np.ndarray, lower: np.ndarray, frame: Frame) -> str:
    """The corners of the area between two lines."""
    return f"{_points(x, upper, frame)} {_points(x[::-1], lower[::-1], frame)}"


def _band(series: Series, frame: Frame) -> str:
    if series.low is None or series.high is None:
        return ""
    return "".join(
        f'<polygon class="band {colour(series.style)}" points="{_outline(x, high, low, frame)}"/>'
        for x, high, low in _runs(series.x, series.high, series.low)
    )


def _line(series: Series, frame: Frame) -> str:
    dash = "4 4" if series.dashed else dashes(series.style)
    attribute = f' stroke-dasharray="{dash}"' if dash else ""
    kind = "line" if series.style is not None else "line thin"
    return "".join(
        f'<polyline class="{kind} {colour(series.style)}"{attribute} points="{_points(x, y, frame)}"/>'
        for x, y in _runs(series.x, series.y)
    )


def _marks(series: Series, frame: Frame, axes: Axes, marks: int) -> str:
    """Markers at even distances, each with a larger invisible disc that shows the value under the pointer."""
    if series.style is None:
        return ""
    parts = []
    for i in sorted({round(i) for i in np.linspace(0, len(series.x) - 1, marks + 1)}):
        at = series.y[i]
        if at is None:
            continue
        value = axes.y_text(at)
        if series.low is not None and series.high is not None:
            low, high = series.low[i], series.high[i]
            value += "" if low is None or high is None else f" [{axes.y_text(low)}, {axes.y_text(high)}]"
        tip = f"{series.label}: {value} at {axes.x_text(series.x[i])}"
        x, y = frame.x(series.x[i]), frame.y(at)
        parts.append(
            f"<g><title>{escape(tip)}</title>{marker(series.style, x, y)}"
            f'<circle class="touch" cx="{x:.1f}" cy="{y:.1f}" r="8"/></g>'
        )
    return "".join(parts)


def colour(style: int | None) -> str:
    """The CSS class of a series' colour."""
    return "neutral" if style is None else f"s{style % COLOURS}"


def dashes(style: int | None) -> str:
    """The dash pattern of a series' line; empty for a solid one."""
    return "" if style is None else _DASHES[(style + style // COLOURS) % len(_DASHES)]


def marker(style: int, x: float, y: float) -> str:
    """The marker of a series: disc, square, triangle or diamond."""
    kind, css = (style + style // COLOURS) % _MARKERS, f'class="mark {colour(style)}"'
    if kind == 0:
        return f'<circle {css} cx="{x:.1f}" cy="{y:.1f}" r="2.8"/>'
    shapes = {
        1: [(-2.6, -2.6), (2.6, -2.6), (2.6, 2.6), (-2.6, 2.6)],
        2: [(0, -3.6), (3.4, 2.6), (-3.4, 2.6)],
        3: [(0, -3.7), (3.7, 0), (0, 3.7), (-3.7, 0)],
    }
    return f'<polygon {css} points="{" ".join(f"{x + a:.1f},{y + b:.1f}" for a, b in shapes[kind])}"/>'


def swatch(style: int | None, x: float = 0, y: float = 8, dashed: bool = False) -> str:
    """A piece of line with its marker, 30 pixels wide, for a legend."""
    dash = "4 4" if dashed else dashes(style)
    attribute = f' stroke-dasharray="{dash}"' if dash else ""
    kind = "line" if style is not None else "line thin"
    line = f'<line class="{kind} {colour(style)}"{attribute} x1="{x:.1f}" x2="{x + 30:.1f}" y1="{y:.1f}" y2="{y:.1f}"/>'
    return line + ("" if style is None else marker(style, x + 15, y))


def stacked_areas(
    x: Sequence[float],
    layers: Sequence[tuple[str, Sequence[float | None]]],
    axes: Axes,
    *,
    width: int,
    height: int,
    title: str,
    description: str,
) -> str:
    """Layers that add up to 1, one above the other, in the colours of CSS classes c0, c1, ... from the bottom.

    Nothing is drawn where one of them is None.
    """
    x_range = (float(x[0]), float(x[-1])) if x[-1] > x[0] else (float(x[0]) - 0.5, float(x[0]) + 0.5)
    frame = Frame(12 + 7 * len(axes.y_text(1.0)), width - 20, 26, height - 40, x_range, (0.0, 1.0))
    parts = []
    for at, *heights in _runs(x, *(values for _, values in layers)):
        below = np.zeros(len(at))
        for i, ((label, _), height) in enumerate(zip(layers, heights, strict=True)):
            above = below + height
            outline = _outline(at, above, below, frame)
            parts.append(f'<polygon class="cell c{i}" points="{outline}"><title>{escape(label)}</title></polygon>')
            below = above
    return svg([*parts, _axes(frame, axes, width)], width, height, title, description)
