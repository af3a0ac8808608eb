"""The report's figures, drawn from results.json alone."""

from __future__ import annotations

from html import escape
from typing import Any

from cat_jax.cascade.chart import Axes, Series, line_chart, marker, stacked_areas, svg, ticks
from cat_jax.cascade.labels import metric
from cat_jax.cascade.look import CELLS, percent, plain, quality_name, scope_title, signed, styles
from cat_jax.cascade.markup import legend

WIDE, NARROW, PANEL = (960, 430), (380, 330), (310, 240)


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
        longest = max(max(curves[o]["flops"]) for o in curves)
        axes = Axes(
            "FLOPs per query, share of the large model's", quality_name(results, scope), _whole, plain, (0.0, longest)
        )
    return series, axes


def _whole(value: float) -> str:
    return f"{value * 100:.0f} %"


def curve_figure(results: dict[str, Any], scope: str, axis: str = "rate") -> str:
    """The large picture of a scope's curves."""
    series, axes = quality_curves(results, scope, axis)
    curves = results["curves"][scope]
    ends = "; ".join(
        f"{o} from {plain(curves[o]['quality'][0])} to {plain(curves[o]['quality'][-1])}" for o in styles(results)
    )
    over = "share of queries deferred" if axis == "rate" else "FLOPs per query"
    return both_sizes(
        series, axes, f"{axes.y_label} over {over}: {scope_title(scope)}", f"One line per objective: {ends}."
    )


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


def panel(series: list[Series], axes: Axes, heading: str, title: str, description: str, marks: int = 0) -> str:
    """A small chart under a heading."""
    width, height = PANEL
    chart = line_chart(series, axes, width=width, height=height, title=title, description=description, marks=marks)
    return f"<figure><h3>{escape(heading)}</h3>{chart}</figure>"


def scope_panels(results: dict[str, Any], scopes: list[str]) -> str:
    """Small multiples: the curves of each scope."""
    panels = []
    for scope in scopes:
        series, axes = quality_curves(results, scope)
        heading = scope_title(scope)
        panels.append(panel(series, axes, heading, f"{axes.y_label}, {heading}", "All objectives' deferral curves.", 5))
    return f'<div class="grid-of">{"".join(panels)}</div>'


def ideal_panels(results: dict[str, Any], scope: str) -> str:
    """Small multiples: each objective between random and ideal deferral; nothing where ideal is not defined."""
    rate, curves = results["curves"]["rate"], results["curves"][scope]
    shown = [(o, s) for o, s in styles(results).items() if curves[o]["ideal"] is not None]
    values = [v for o, _ in shown for name in ("ideal", "quality", "random") for v in curves[o][name]]
    panels = []
    for objective, style in shown:
        curve = curves[objective]
        low, high = min(values), max(values)
        axes = Axes("deferred", quality_name(results, scope), percent, plain, (0.0, 1.0), (low - 1, high + 1))
        series = [
            Series("ideal", rate, curve["ideal"], style=None),
            Series("random", rate, curve["random"], style=None, dashed=True),
            Series(objective, rate, curve["quality"], style=style),
        ]
        panels.append(panel(series, axes, objective, f"{objective} between random and ideal", "Three lines.", 5))
    return f'<div class="grid-of">{"".join(panels)}</div>' if panels else ""


def forest(results: dict[str, Any], name: str) -> str:
    """Differences of one metric from the baseline, with intervals: a row per scope and objective."""
    look, shown = styles(results), metric(name)
    rows = [
        (scope, objective, found[objective][name])
        for scope in results["scopes"]
        for found in [results["differences"][scope]]
        for objective in look
        if objective in found and found[objective][name]["mean"] is not None
    ]
    if not rows:
        return ""
    bounds = [v for *_, e in rows for v in (e["mean"], *(e["interval"] or ()), *e["seeds"].values())] + [0.0]
    margin = 0.05 * (max(bounds) - min(bounds)) or 0.5
    low, high = min(bounds) - margin, max(bounds) + margin
    width, left, line = PANEL[0] + 20, 10, 17
    parts, y, scope_now = [], 8.0, ""

    def x(value: float) -> float:
        return left + (value - low) / (high - low) * (width - 2 * left)

    for scope, objective, e in rows:
        if scope != scope_now:
            y, scope_now = y + 22, scope
            parts.append(f'<text class="name" x="0" y="{y:.1f}">{escape(_short(scope_title(scope), 46))}</text>')
        y += line
        value = f"{objective}: {shown.show_estimate(e, signed=True)}"
        drawn = f'<line class="line s{look[objective] % 7}" x1="{x((e["interval"] or [e["mean"]] * 2)[0]):.1f}" x2="{x((e["interval"] or [e["mean"]] * 2)[1]):.1f}" y1="{y:.1f}" y2="{y:.1f}"/>'
        seeds = "".join(
            f'<circle class="hollow s{look[objective] % 7}" cx="{x(v):.1f}" cy="{y:.1f}" r="2"/>'
            for v in e["seeds"].values()
        )
        parts.append(
            f"<g><title>{escape(value)}</title>{drawn}{seeds if len(e['seeds']) > 1 else ''}{marker(look[objective], x(e['mean']), y)}"
            f'<rect class="touch" x="0" y="{y - line / 2:.1f}" width="{width}" height="{line}"/></g>'
        )
    bottom = y + 14
    axis = [
        f'<line class="{"zero" if t == 0 else "grid"}" x1="{x(t):.1f}" x2="{x(t):.1f}" y1="12" y2="{bottom:.1f}"/>'
        for t in ticks(low, high, 4)
    ]
    axis += [
        f'<text class="tick" x="{x(t):.1f}" y="{bottom + 14:.1f}" text-anchor="middle">{signed(t)}</text>'
        for t in ticks(low, high, 4)
    ]
    heading = f"{shown.label} minus {results['settings']['baseline']}"
    chart = svg(
        [*axis, *parts], width, round(bottom + 22), heading, "A bar per scope and objective; 0 is no difference."
    )
    return f"<figure><h3>{escape(heading)}</h3>{chart}</figure>"


def _short(value: str, most: int) -> str:
    return value if len(value) <= most else value[: most - 1] + "…"


TRAINING_CELLS = {
    "cells/both_right": "both right",
    "cells/student_only_right": "only the small model right",
    "cells/teacher_only_right": "only the large model right",
    "cells/both_wrong": "both wrong",
}


def training_panels(results: dict[str, Any]) -> str:
    """The four cells over training, a panel per objective."""
    panels = []
    for objective in styles(results):
        series = results["training"].get(objective, {}).get("series", {})
        if not all(name in series for name in TRAINING_CELLS):
            continue
        axes = Axes("step", "share of target tokens", lambda v: f"{v:g}", percent)
        layers = [(label, series[name]) for name, label in TRAINING_CELLS.items()]
        chart = stacked_areas(
            series["step"],
            layers,
            axes,
            width=PANEL[0],
            height=PANEL[1],
            title=f"Four cells over training: {objective}",
            description="Stacked from the bottom: " + ", ".join(TRAINING_CELLS.values()) + ".",
        )
        panels.append(f"<figure><h3>{escape(objective)}</h3>{chart}</figure>")
    return f'<div class="grid-of">{"".join(panels)}</div>' if panels else ""


def kept_panel(results: dict[str, Any], name: str, label: str) -> str:
    """One training series of all objectives over steps; nothing if none logged it."""
    found = [(o, style, results["training"].get(o, {}).get("series", {})) for o, style in styles(results).items()]
    series = [Series(o, s["step"], s[name], style=style) for o, style, s in found if name in s]
    if not series:
        return ""
    axes = Axes("step", label, lambda v: f"{v:g}", percent)
    return panel(series, axes, label.capitalize(), label, "A line per objective.", 5)


CELL_LABELS = list(CELLS.values())
