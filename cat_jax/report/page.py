"""report.html: one self-contained file, no network and no script. Every number in it is read from results.json."""

from __future__ import annotations

from html import escape
from typing import Any

from cat_jax.cascade.summary import rate_name
from cat_jax.report import figures, sections
from cat_jax.report.look import cost_unit, scope_title
from cat_jax.report.markup import figure, prose, section
from cat_jax.report.prose import findings, lede, method
from cat_jax.report.style import CHART, PAGE, PALETTE

DEFINITIONS = {
    "Deferral": "The small model answers every query. If its confidence is below the threshold, the large model "
    "answers as well, and its answer is given. Queries of equal confidence are deferred together.",
    "Quality": "The task's own metric of the merged output, on 0 to 100. Means are averaged over examples; corpus "
    "metrics such as BLEU are computed anew on every merged output.",
    "AUC-DF": "Area under quality over the deferral rate: the mean quality over all rates (Gupta et al. 2024).",
    "AUC-DF over random": "AUC-DF minus that of deferring at random, which is the mean of the two models' qualities.",
    "Share of ideal": "AUC-DF over random, as a share of what an oracle gets that knows for each query which model is "
    "better. It can rise while the small model gets worse: never read it alone.",
    "AUROC": "Chance that an answer that is right is surer than one that is wrong.",
    "QNC": "Quality-neutral cost: the least cost at which the cascade is as good as the large model, as a ratio to the "
    "large model's own cost. Above 1, the cascade saves nothing at full quality.",
    "{unit} saved at N % of large": "Share of the large model's {unit} saved by the cheapest point of the curve with "
    "N % of the large model's quality. Negative: such quality costs more than asking the large model at once.",
    "{unit}": "Of answering, as the models' tables state them. The small model's are paid on every query.",
    "Same rate in each task": "Every task defers the same share of its own queries, so that no gain can come from "
    "deferring one task more than another.",
}


def render_report(results: dict[str, Any]) -> str:
    """The page as HTML text.

    Args:
      results: the content of results.json, and nothing else: two equal results give equal pages.
    """
    scope = results["headline_scope"]
    parts = [
        ("curves", "Quality against deferral", _curves(results, scope)),
        ("tasks", "Task by task", _tasks(results, scope)),
        ("made-of", "What the differences are made of", _made_of(results)),
        ("cost", "Quality against cost", _cost(results, scope)),
        ("thresholds", "Thresholds", sections.threshold_table(results)),
        ("cells", "Who is right", sections.cells_table(results)),
        ("training", "During training", sections.training_section(results)),
        ("samples", "Answers to read", sections.samples_table(results)),
        ("rules", "Confidence rules", sections.rules_table(results)),
        ("configs", "Configurations", sections.configs_section(results)),
        ("definitions", "What the numbers mean", _definitions(cost_unit(results))),
    ]
    parts = [part for part in parts if part[2]]
    links = "".join(f'<a href="#{anchor}">{escape(heading)}</a> ' for anchor, heading, _ in parts)
    body = f'{_header(results)}<nav aria-label="Contents">{links}</nav>'
    body += f"<main>{''.join(section(*part) for part in parts)}</main>"
    body += "<footer>Every number on this page is in results.json beside it.</footer>"
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<title>{escape(results['title'])}</title><style>{PALETTE}{CHART}{PAGE}</style></head>"
        f"<body>{body}</body></html>\n"
    )


def _header(results: dict[str, Any]) -> str:
    said = "".join(
        f'<li><strong>{escape(subject)}</strong>: {prose(numbers)} <span class="verdict">{prose(verdict)}</span></li>'
        for subject, numbers, verdict in findings(results)
    )
    listed = f'<ul class="findings">{said}</ul>' if said else ""
    return (
        f'<header><h1>{escape(results["title"])}</h1><p class="lede">{prose(lede(results))}</p>{listed}'
        f'{sections.objectives_table(results)}<p class="note">{prose(method(results))}</p></header>'
    )


def _curves(results: dict[str, Any], scope: str) -> str:
    shown = figure(
        figures.objective_legend(results, random=True) + figures.curve_figure(results, scope),
        f"{escape(scope_title(scope))}. At 0 % the small model alone, at 100 % the large model alone; between, the "
        "least confident queries are deferred first. Bands are intervals.",
    )
    apart = figures.difference_figure(results, scope)
    if apart:
        apart = "<h3>The same curves, minus the baseline's</h3>" + figure(
            figures.objective_legend(results) + apart,
            "Where a band leaves out 0, the objective differs from the baseline at that rate, by examples resampled.",
        )
    return shown + apart


def _tasks(results: dict[str, Any], scope: str) -> str:
    others = [s for s in results["scopes"] if s != scope]
    if not others:
        return ""
    panels = figures.objective_legend(results, random=True) + figures.scope_panels(results, others)
    return panels + f"<details><summary>All numbers by task</summary>{sections.scopes_table(results)}</details>"


def _made_of(results: dict[str, Any]) -> str:
    names = ["auc_df", "small_quality", rate_name(results["settings"]["headline_rate"])]
    drawn = [found for found in (figures.forest(results, name) for name in names) if found is not None]
    note = '<p class="note">Filled marks are means over seeds, rings single seeds, bars intervals.</p>' if drawn else ""
    legend = figures.objective_legend(results) if drawn else ""
    return legend + note + figures.grid_of(drawn) + sections.made_of(results)


def _cost(results: dict[str, Any], scope: str) -> str:
    shown = figure(
        figures.objective_legend(results, random=True) + figures.curve_figure(results, scope, "flops"),
        "The small model is paid for on every query, so deferring everything costs more than 100 %.",
    )
    ideal = figures.ideal_panels(results, scope)
    if ideal:
        ideal = (
            "<h3>Between random and ideal deferral</h3>"
            '<p class="note">Dashed: random. Thin and solid: an oracle that knows which model is better.</p>' + ideal
        )
    return shown + sections.metrics_tables(results) + ideal


def _definitions(unit: str) -> str:
    said = ((escape(text.format(unit=unit)) for text in item) for item in DEFINITIONS.items())
    return f"<dl>{''.join(f'<dt>{name}</dt><dd>{meaning}</dd>' for name, meaning in said)}</dl>"
