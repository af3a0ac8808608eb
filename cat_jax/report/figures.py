"""The report's figures, drawn from results.json alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from html import escape
from typing import Any

from cat_jax.report.chart import Axes, Series, colour, line_chart, marker, stacked_areas, svg, ticks
from cat_jax.report.labels import metric
from cat_jax.report.look import CELLS, cost_unit, percent, plain, quality_name, scope_title, signed, styles
from cat_jax.report.markup import legend

WIDE, NARROW = (960, 430), (380, 330)
PANEL, LARGE_PANEL = (310, 240), (430, 260)


def both_sizes(series: list[Series], axes: Axes, title: str, description: str) -> str:
    """The chart twice, for a wide page and for a phone; CSS shows one."""
    charts = [
        f'<div class="{css}">{line_chart(series, axes, width=w, height=h, title=title, description=description)}</div>'
        for css, (w, h) in (("wide", WIDE), ("narrow", NARROW))
    ]
    return "".join(charts)


def objective_legend(results: dict[str, Any], random: bool = False, ideal: bool = False) -> str:
    """The legend of all objectives, and of the neutral lines."""
    entries: list[tuple[str, int | None, bool]] = [(o, style, False) for o, style in styles(results).items()]
    baseline = results["settings"]["baseline"]
    if random:
        entries.append((f"random deferral ({baseline})", None, True))
    if ideal:
        entries.append(("ideal deferral", None, False))
    return legend(entries)


def quality_curves(results: dict[str, Any], scope: str, axis: str = "rate") -> tuple[list[Series], Axes]:
    """All objectives' curves of a scope over `rate` or `flops`, and the baseline's random line."""
    curves, baseline = results["curves"][scope], results["settings"]["baseline"]
    rate = results["curves"]["rate"]

    def x(objective: str) -> list[float]:
        return rate if axis == "rate" else curves[objective]["flops"]

    series = [Series("random", x(baseline), curves[baseline]["random"], style=None, dashed=True)]
    series += [
        Series(o, x(o), curves[o]["quality"], curves[o]["low"], curves[o]["high"], style)
        for o, style in styles(results).items()
    ]
    if axis == "rate":
        axes = Axes("share of queries deferred", quality_name(results, scope), percent, plain, (0.0, 1.0))
    else:
        large = curves[baseline]["quality"][-1]
        axes = Axes(
            f"{cost_unit(results)} per query, share of the large model's",
            quality_name(results, scope),
            _whole,
            plain,
            (0.0, max(max(curves[o]["flops"]) for o in curves)),
            point=(1.0, large, "large model alone"),
        )
    return series, axes


def _whole(value: float) -> str:
    return f"{value * 100:.0f} %"


def curve_figure(results: dict[str, Any], scope: str, axis: str = "rate") -> str:
    """The large picture of a scope's curves."""
    series, axes = quality_curves(results, scope, axis)
    curves = results["curves"][scope]
    ends = "; ".join(f"{o} from {plain(curves[o]['quality'][0])}" for o in styles(results))
    large = plain(curves[results["settings"]["baseline"]]["quality"][-1])
    over = "share of queries deferred" if axis == "rate" else f"{cost_unit(results)} per query"
    title = f"{axes.y_label} over {over}: {scope_title(scope)}"
    return both_sizes(series, axes, title, f"One line per objective, all rising to {large}: {ends}.")


def difference_series(results: dict[str, Any], scope: str) -> list[Series]:
    """Each objective's curve minus the baseline's."""
    rate, curves = results["curves"]["rate"], results["curves"][scope]
    found = [(o, style, curves[o]["difference"]) for o, style in styles(results).items()]
    return [Series(o, rate, d["quality"], d["low"], d["high"], style) for o, style, d in found if d is not None]


def difference_figure(results: dict[str, Any], scope: str) -> str:
    """The large picture of the differences; nothing if there is nothing to compare."""
    series = difference_series(results, scope)
    if not series:
        return ""
    baseline = results["settings"]["baseline"]
    axes = Axes("share of queries deferred", f"points above {baseline}", percent, signed, (0.0, 1.0), zero_line=True)
    description = f"Quality of each objective minus that of {baseline} at the same deferral rate; all end at 0."
    return both_sizes(series, axes, f"Difference from {baseline}", description)


def panels(drawn: Sequence[tuple[str, list[Series], Axes, str]], marks: int = 5) -> str:
    """Small multiples of (heading, series, axes, description); nothing if there are none."""
    width, height = _panel_size(len(drawn))
    return grid_of(
        [
            (
                heading,
                line_chart(series, axes, width=width, height=height, title=heading, description=said, marks=marks),
            )
            for heading, series, axes, said in drawn
        ]
    )


def _panel_size(count: int) -> tuple[int, int]:
    return LARGE_PANEL if count in (2, 4) else PANEL


def grid_of(charts: Sequence[tuple[str, str]]) -> str:
    """Charts under their headings, side by side as the page allows: in pairs if there are two or four."""
    if not charts:
        return ""
    css = "grid-of pairs" if len(charts) in (2, 4) else "grid-of"
    inside = "".join(f"<figure><h3>{escape(heading)}</h3>{chart}</figure>" for heading, chart in charts)
    return f'<div class="{css}">{inside}</div>'


def scope_panels(results: dict[str, Any], scopes: list[str]) -> str:
    """Small multiples: the curves of each scope."""
    drawn = [(scope_title(s), *quality_curves(results, s), "All objectives' deferral curves.") for s in scopes]
    return panels(drawn)


def ideal_panels(results: dict[str, Any], scope: str) -> str:
    """Small multiples: each objective between random and ideal deferral; nothing where ideal is not defined."""
    rate, curves = results["curves"]["rate"], results["curves"][scope]
    shown = [(o, style) for o, style in styles(results).items() if curves[o]["ideal"] is not None]
    values = [v for o, _ in shown for name in ("ideal", "quality", "random") for v in curves[o][name] if v is not None]
    drawn = []
    for objective, style in shown:
        curve = curves[objective]
        y_range = (min(values) - 1, max(values) + 1)
        axes = Axes("share of queries deferred", quality_name(results, scope), percent, plain, (0.0, 1.0), y_range)
        series = [
            Series("ideal", rate, curve["ideal"], style=None),
            Series("random", rate, curve["random"], style=None, dashed=True),
            Series(objective, rate, curve["quality"], style=style),
        ]
        drawn.append((objective, series, axes, "The objective's curve, with random and ideal deferral."))
    return panels(drawn)


def forest(results: dict[str, Any], name: str) -> tuple[str, str] | None:
    """Differences of one metric from the baseline, with intervals: a row per scope and objective.

    Returns:
      (heading, chart), or None if there is nothing to compare.
    """
    look, shown = styles(results), metric(name)
    rows = [
        (scope, objective, found[objective][name])
        for scope in results["scopes"]
        for found in [results["differences"][scope]]
        for objective in look
        if objective in found and found[objective].get(name, {}).get("mean") is not None
    ]
    if not rows:
        return None
    bounds = [0.0, *(v for *_, e in rows for v in (e["mean"], *(e["interval"] or ()), *e["seeds"].values()))]
    margin = 0.05 * (max(bounds) - min(bounds)) or 0.5
    low, high = min(bounds) - margin, max(bounds) + margin
    width, height, parts, now = 330, 8.0, [], ""

    def x(value: float) -> float:
        return 18 + (value - low) / (high - low) * (width - 36)

    for scope, objective, e in rows:
        if scope != now:
            now, height = scope, height + 22
            parts.append(f'<text class="name halo" x="0" y="{height:.1f}">{escape(_short(scope_title(scope)))}</text>')
        height += 17
        tip = f"{objective}: {shown.show_estimate(e, signed=True)}"
        parts.append(f"<g><title>{escape(tip)}</title>{_whisker(e, look[objective], x, height)}</g>")
    bottom = height + 14
    axis = []
    for t in ticks(low, high, 4):
        kind = "zero" if t == 0 else "grid"
        axis.append(f'<line class="{kind}" x1="{x(t):.1f}" x2="{x(t):.1f}" y1="12" y2="{bottom:.1f}"/>')
        axis.append(f'<text class="tick" x="{x(t):.1f}" y="{bottom + 14:.1f}" text-anchor="middle">{signed(t)}</text>')
    heading = f"{shown.label} minus {results['settings']['baseline']}"
    said = "A bar per scope and objective; 0 is no difference."
    return heading, svg([*axis, *parts], width, round(bottom + 22), heading, said)


def _whisker(estimate: dict[str, Any], style: int, x: Callable[[float], float], y: float) -> str:
    """An interval as a bar, seeds as rings, the mean as the objective's marker."""
    low, high = estimate["interval"] or (estimate["mean"], estimate["mean"])
    css = colour(style)
    bar = f'<line class="line {css}" x1="{x(low):.1f}" x2="{x(high):.1f}" y1="{y:.1f}" y2="{y:.1f}"/>'
    seeds = estimate["seeds"].values() if len(estimate["seeds"]) > 1 else ()
    rings = "".join(f'<circle class="hollow {css}" cx="{x(v):.1f}" cy="{y:.1f}" r="2"/>' for v in seeds)
    return bar + rings + marker(style, x(estimate["mean"]), y)


def _short(value: str, most: int = 46) -> str:
    return value if len(value) <= most else value[: most - 1] + "…"


TRAINING_CELLS = {
    "cells/both_right": "both right",
    "cells/student_only_right": "only the small model right",
    "cells/teacher_only_right": "only the large model right",
    "cells/both_wrong": "both wrong",
}


def training_panels(results: dict[str, Any]) -> str:
    """The four cells over training, a panel per objective."""
    found = {o: results["training"].get(o, {}).get("series", {}) for o in styles(results)}
    found = {o: series for o, series in found.items() if all(name in series for name in TRAINING_CELLS)}
    width, height = _panel_size(len(found))
    axes = Axes("step", "share of target tokens", lambda v: f"{v:g}", percent)
    said = "Stacked from the bottom: " + ", ".join(TRAINING_CELLS.values()) + "."
    charts = []
    for objective, series in found.items():
        layers = [(label, series[name]) for name, label in TRAINING_CELLS.items()]
        title = f"Four cells over training: {objective}"
        chart = stacked_areas(series["step"], layers, axes, width=width, height=height, title=title, description=said)
        charts.append((objective, chart))
    return grid_of(charts)


def training_lines(results: dict[str, Any]) -> str:
    """The kept fraction and the token accuracy of all objectives over steps."""
    drawn = []
    for name, label in (("kept_fraction", "Target tokens kept"), ("student_accuracy", "Small model's token accuracy")):
        found = [(o, style, results["training"].get(o, {}).get("series", {})) for o, style in styles(results).items()]
        series = [Series(o, s["step"], s[name], style=style) for o, style, s in found if name in s]
        if series:
            axes = Axes("step", "share of target tokens", lambda v: f"{v:g}", percent)
            drawn.append((label, series, axes, "A line per objective."))
    return panels(drawn)


CELL_LABELS = list(CELLS.values())
