"""The table of objectives for a terminal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cat_jax.cascade.summary import rate_name
from cat_jax.report.labels import NOTHING, Metric, metric
from cat_jax.report.look import by_objective, cost_unit, percent, scope_title
from cat_jax.report.prose import findings


def objectives_table(results: Mapping[str, Any]) -> str:
    """The headline numbers as aligned text, with the differences from the baseline below."""
    scope, settings = results["headline_scope"], results["settings"]
    summary, rate = by_objective(results, results["summary"][scope]), settings["headline_rate"]
    names = [
        n for n in ("small_quality", "large_quality", "auc_df", rate_name(rate)) if n in next(iter(summary.values()))
    ]
    head = ["objective", "seeds", "small alone", "large alone", "AUC-DF", f"at {percent(rate)} deferral"][
        : 2 + len(names)
    ]
    head += [f"{cost_unit(results)} small/large", "tokens kept"]
    share, rows = Metric("", "share"), []
    for objective, found in summary.items():
        kept = results["training"].get(objective, {}).get("kept_fraction")
        cells = [
            metric(n).show(found[n]["mean"]) if n == "large_quality" else metric(n).show_estimate(found[n])
            for n in names
        ]
        rows.append(
            [
                objective,
                str(len(found["auc_df"]["seeds"])),
                *cells,
                share.show(found["small_cost"]["mean"]),
                NOTHING if kept is None else share.show(kept["mean"]),
            ]
        )
    widths = [max(len(row[i]) for row in [head, *rows]) for i in range(len(head))]
    lines = [f"{scope_title(scope)} ({settings['test_split']}, {results['examples']} examples)"]
    for row in [head, *rows]:
        cells = [
            cell.ljust(w) if i == 0 else cell.rjust(w) for i, (cell, w) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append("  ".join(cells).rstrip())
    lines += [f"{subject}: {numbers} {verdict}" for subject, numbers, verdict in findings(results)]
    return "\n".join(lines)
