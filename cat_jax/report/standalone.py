"""curve.svg: the headline curves as one picture for a README, with its own ground, legible on light and dark pages."""

from __future__ import annotations

from html import escape
from typing import Any

from cat_jax.report.chart import line_chart, swatch
from cat_jax.report.figures import quality_curves
from cat_jax.report.look import scope_title, styles
from cat_jax.report.style import CHART, PALETTE

WIDTH, HEIGHT, MARGIN = 760, 400, 20


def standalone_curve(results: dict[str, Any]) -> str:
    """An SVG file: heading, legend, curves of all objectives with interval bands. No script, no fonts, no links."""
    scope, baseline = results["headline_scope"], results["settings"]["baseline"]
    series, axes = quality_curves(results, scope)
    entries: list[tuple[str, int | None, bool]] = [(o, style, False) for o, style in styles(results).items()]
    entries.append((f"random deferral ({baseline})", None, True))
    keys, x, y = [], 0.0, 8.0
    for label, style, dashed in entries:
        width = 48 + 7.2 * len(label)
        if x + width > WIDTH and x > 0:
            x, y = 0.0, y + 20
        keys.append(
            f'{swatch(style, x, y, dashed)}<text class="name" x="{x + 36:.1f}" y="{y + 4:.1f}">{escape(label)}</text>'
        )
        x += width + 12
    title = f"{results['title']}: {scope_title(scope)}"
    chart = line_chart(
        series, axes, width=WIDTH, height=HEIGHT, title=title, description="Quality over the share of queries deferred."
    )
    top = MARGIN + 34 + y + 18
    width, height = WIDTH + 2 * MARGIN, round(top + HEIGHT + MARGIN)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" '
        f'role="img" class="chart"><title>{escape(title)}</title><style>{PALETTE}{CHART}'
        ".ground{fill:var(--bg);stroke:var(--line)}.chart text.heading{font-size:17px;font-weight:600;fill:var(--ink)}"
        f'</style><rect class="ground" x=".5" y=".5" width="{width - 1}" height="{height - 1}" rx="10"/>'
        f'<text class="heading" x="{MARGIN}" y="{MARGIN + 16}">{escape(title)}</text>'
        f'<g transform="translate({MARGIN},{MARGIN + 32})">{"".join(keys)}</g>'
        f'<g transform="translate({MARGIN},{top})">{chart}</g></svg>\n'
    )
