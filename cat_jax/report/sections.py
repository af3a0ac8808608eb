"""The report's tables and sections, each made from results.json alone."""

from __future__ import annotations

from html import escape
from typing import Any

from cat_jax.cascade.inputs import EQUAL_RATES
from cat_jax.cascade.summary import kept_name, rate_name
from cat_jax.report import figures
from cat_jax.report.labels import NOTHING, Metric, metric
from cat_jax.report.look import CELLS, by_objective, cost_unit, percent, scope_title, tasks
from cat_jax.report.markup import Cell, box_legend, estimate_cell, number, prose, table, text
from cat_jax.report.prose import routing_sentences

SHARE = Metric("", "share")


def best_of(summary: dict[str, Any], name: str) -> float | None:
    """The best mean of a metric over objectives; None if there is but one, or the metric has no better side."""
    values = [m[name]["mean"] for m in summary.values() if isinstance(m[name]["mean"], float)]
    direction = metric(name).better
    return direction * max(direction * v for v in values) if len(values) > 1 and direction else None


def _leads(estimate: dict[str, Any], best: float | None) -> bool:
    """Whether an estimate is the `best_of` its metric: a mean that is not defined never is."""
    return best is not None and estimate["mean"] == best


def objectives_table(results: dict[str, Any]) -> str:
    """The headline: a row per objective, and the large model's."""
    scope, settings = results["headline_scope"], results["settings"]
    summary = by_objective(results, results["summary"][scope])
    apart, baseline = results["differences"][scope], settings["baseline"]
    names = ["small_quality", "auc_df", rate_name(settings["headline_rate"])]
    if names[2] not in next(iter(summary.values())):
        names.pop()
    best = {name: best_of(summary, name) for name in names}
    head = ["Objective", "Alone", *(metric(n).label for n in names[1:])]
    head += [f"AUC-DF minus {baseline}", "Spread over seeds", "Tokens kept"]
    rows = []
    for objective, found in summary.items():
        cells = [estimate_cell(metric(n), found[n], best=_leads(found[n], best[n])) for n in names]
        cells.append(
            estimate_cell(metric("auc_df"), apart[objective]["auc_df"], True)
            if objective in apart
            else text(NOTHING, "n")
        )
        cells.append(number(Metric("", "ratio").show(found["auc_df"]["spread"])))
        kept = results["training"].get(objective, {}).get("kept_fraction")
        cells.append(number(SHARE.show(None if kept is None else kept["mean"])))
        rows.append([text(objective), *cells])
    large = next(iter(summary.values()))["large_quality"]
    rows.append(
        [text(results["large"]), estimate_cell(metric("large_quality"), large), *[text(NOTHING, "n")] * (len(head) - 2)]
    )
    caption = (
        f"{escape(scope_title(scope))}. Alone: the model without a cascade; AUC-DF is the mean quality over all "
        "deferral rates; the spread is the standard deviation of AUC-DF over training seeds; tokens kept is the mean "
        "share of target tokens that the training loss counted. Bold: the highest mean."
    )
    return table(caption, head, rows, [False, *[True] * (len(head) - 1)], marked=[len(rows) - 1])


def metrics_tables(results: dict[str, Any]) -> str:
    """All other metrics of the headline scope: of each curve alone, and against the baseline's."""
    scope, settings, unit = results["headline_scope"], results["settings"], cost_unit(results)
    summary, apart = by_objective(results, results["summary"][scope]), results["differences"][scope]
    alone = ["gain_over_random", "share_of_ideal", "auroc", "qnc", *map(kept_name, settings["kept"])]
    rows = [[text(o), *(estimate_cell(metric(n), found[n]) for n in alone)] for o, found in summary.items()]
    head = ["Objective", *(metric(n, unit).label for n in alone)]
    first = table(f"{escape(scope_title(scope))}.", head, rows, [False, *[True] * len(alone)])
    rates = [n for n in map(rate_name, settings["rates"]) if n != rate_name(settings["headline_rate"])]
    against = ["flops_saved", "quality_gained"]
    rows = [
        [
            text(o),
            *(estimate_cell(metric(n), found[n]) for n in rates),
            *(estimate_cell(metric(n), apart.get(o, {}).get(n), True) for n in against),
        ]
        for o, found in summary.items()
    ]
    baseline, rate = settings["baseline"], percent(settings["headline_rate"])
    head = ["Objective", *(metric(n).label for n in rates)]
    head += [f"{unit} saved at {baseline}'s quality", f"Quality gained at {baseline}'s {unit}"]
    caption = f"Quality at other rates; the last two columns compare at {escape(baseline)}'s point of {rate} deferral."
    return first + table(caption, head, rows, [False, *[True] * (len(head) - 1)])


def scopes_table(results: dict[str, Any]) -> str:
    """Small alone, AUC-DF and the headline rate of every scope and objective."""
    rate = rate_name(results["settings"]["headline_rate"])
    names = [n for n in ("small_quality", "large_quality", "auc_df", rate) if n in _first(results)]
    rows = []
    for scope in results["scopes"]:
        summary = by_objective(results, results["summary"][scope])
        best = {name: best_of(summary, name) if name != "large_quality" else None for name in names}
        for objective, found in summary.items():
            cells = [estimate_cell(metric(n), found[n], best=_leads(found[n], best[n])) for n in names]
            rows.append([text(scope_title(scope)), text(objective), *cells])
    head = ["Scope", "Objective", *(metric(n).label for n in names)]
    return table("Every task by itself, and pooled.", head, rows, [False, False, *[True] * len(names)])


def _first(results: dict[str, Any]) -> dict[str, Any]:
    return next(iter(by_objective(results, results["summary"][results["headline_scope"]]).values()))


def made_of(results: dict[str, Any]) -> str:
    """Where a lead comes from: a better small model, a better order, routing between tasks."""
    apart = by_objective(results, results["differences"][results["headline_scope"]])
    baseline, rate = results["settings"]["baseline"], results["settings"]["headline_rate"]
    parts = []
    if apart:
        names = ["small_quality", "gain_over_random", "auc_df"]
        labels = ["Small alone", "AUC-DF over random", "AUC-DF"]
        rows = [
            [text(o), *(estimate_cell(metric(n), found[n], signed=True) for n in names)] for o, found in apart.items()
        ]
        caption = (
            f"Points above {escape(baseline)}. AUC-DF is the random line's area, which rises by half of what the small "
            "model alone gains, plus the area over it, which the order of deferral earns."
        )
        parts.append(table(caption, ["Objective", *labels], rows, [False, True, True, True]))
    if EQUAL_RATES in results["scopes"]:
        parts.append("".join(f"<p>{prose(line)}</p>" for line in routing_sentences(results)))
        names = tasks(results)
        routing = by_objective(results, results["routing"])
        rows = [[text(o), *(number(SHARE.show(share[t])) for t in names)] for o, share in routing.items()]
        caption = f"Share of each task's queries that is deferred when one threshold defers {percent(rate)} of all."
        parts.append(table(caption, ["Objective", *names], rows, [False, *[True] * len(names)]))
    return "".join(parts)


def threshold_table(results: dict[str, Any]) -> str:
    """Thresholds of the headline scope: picked on validation, what they do on test."""
    rows = []
    scope = next(iter(results["thresholds"]), "")
    for row in results["thresholds"].get(scope, []):
        thresholds = " / ".join(_threshold(t) for t in row["thresholds"].values())
        cells = [Cell(prose(row["words"])), text(row["objective"]), number(thresholds)]
        for name in ("rate", "quality", "flops"):
            shown = metric(name)
            if name != "flops":
                cells.append(number(NOTHING if row["validation"] is None else shown.show(row["validation"][name])))
            cells.append(estimate_cell(shown, None if row["test"] is None else row["test"][name]))
        rows.append(cells)
    if not rows:
        return ""
    test, validation = results["settings"]["test_split"], results["settings"]["validation_split"]
    head = ["Target", "Objective", "Threshold by seed"]
    head += [f"{label}, {split}" for label in ("Deferred", "Quality") for split in (validation, test)]
    head.append(f"{metric('flops', cost_unit(results)).label}, {test}")
    lacking = [task for task in tasks(results) if task not in results["threshold_tasks"]]
    without = escape(f", without {', '.join(lacking)}, of which there is no {validation}") if lacking else ""
    caption = (
        f"{escape(scope_title(scope))}{without}. Confidences below the threshold are deferred. It is picked "
        f"on {escape(validation)} to meet the target there, then held fixed; the columns of {escape(test)} say what it "
        "does."
    )
    return table(caption, head, rows, [False, False, *[True] * 6])


def _threshold(value: float | str | None) -> str:
    if value is None:
        return "none meets it"
    if isinstance(value, str):
        return {"inf": "defer all", "-inf": "defer none"}[value]
    return f"{value:.4g}".replace("-", "−")


def cells_table(results: dict[str, Any]) -> str:
    """The four cells of the test answers."""
    rows = []
    for scope in (s for s in results["scopes"] if s in results["cells"]):
        for objective, cells in by_objective(results, results["cells"][scope]).items():
            if cells is None:
                continue
            bar = "".join(
                f'<span class="c{i}" style="width:{cells[name] * 100:.2f}%" title="{label}"></span>'
                for i, (name, label) in enumerate(CELLS.items())
            )
            shares = [number(SHARE.show(cells[name])) for name in CELLS]
            rows.append(
                [
                    text(scope_title(scope)),
                    text(objective),
                    Cell(f'<div class="bar" aria-hidden="true">{bar}</div>'),
                    *shares,
                ]
            )
    if not rows:
        return ""
    head = ["Scope", "Objective", "", *(label[0].upper() + label[1:] for label in CELLS.values())]
    caption = "Answers of the test split. What only the large model gets right is what deferral can gain."
    return box_legend(figures.CELL_LABELS) + table(caption, head, rows, [False, False, False, True, True, True, True])


def samples_table(results: dict[str, Any]) -> str:
    """Rows to read."""
    samples = results["samples"]
    if samples is None or not samples["rows"]:
        return ""
    rows = []
    for row in samples["rows"]:
        answers = []
        for side in ("small", "large"):
            used = "used" if row["answered_by"] == side else ""
            right = row[f"{side}_right"]
            mark = (
                ""
                if right is None
                else f' <span class="{"right" if right else "wrong"}">{"✓ right" if right else "✗ wrong"}</span>'
            )
            answers.append(Cell(escape(row[side]) + mark, f"text {used}".strip()))
        rows.append(
            [
                text(row["task"]),
                text(row["input"], "text"),
                text(row["target"], "text"),
                *answers,
                number(f"{float(row['confidence']):.3g}".replace("-", "−")),
                Cell(f"{row['answered_by']}<span class='ci'>{escape(row['case'])}</span>"),
            ]
        )
    validation = escape(results["settings"]["validation_split"])
    caption = (
        f"Small model: {escape(samples['student'])}, the one with the highest AUC-DF on {validation}. Threshold "
        f"{_threshold(samples['threshold'])}, picked there to {escape(samples['words'])}. The answer that the cascade "
        "gives is marked. Rows are taken from each case in turn: how often a case occurs is in the tables above, not "
        "here."
    )
    head = ["Task", "Input", "Target", "Small model", "Large model", "Confidence", "Who answered"]
    return table(caption, head, rows, [False, False, False, False, False, True, False])


def rules_table(results: dict[str, Any]) -> str:
    """Confidence rules side by side; nothing if there is but one."""
    if len(results["rules"]) < 2:
        return ""
    names = [n for n in ("auc_df", rate_name(results["settings"]["headline_rate"]), "auroc") if n in _first(results)]
    rows = [
        [text(rule), text(objective), *(estimate_cell(metric(n), found[n]) for n in names)]
        for rule in results["settings"]["rules"]
        for objective, found in by_objective(results, results["rules"][rule]).items()
    ]
    caption = (
        f"{escape(scope_title(results['headline_scope']))}. The first rule is the one that the rest of this page uses."
    )
    return table(
        caption, ["Rule", "Objective", *(metric(n).label for n in names)], rows, [False, False, *[True] * len(names)]
    )


def training_section(results: dict[str, Any]) -> str:
    """The four cells and the kept fraction over training."""
    areas, lines = figures.training_panels(results), figures.training_lines(results)
    note = (
        '<p class="note">Target tokens of training batches, teacher-forced: not the answers of the test split. Runs of '
        "steps are averaged, and seeds.</p>"
    )
    if areas:
        areas = box_legend(list(figures.TRAINING_CELLS.values())) + areas
    if lines:
        lines = figures.objective_legend(results) + lines
    return note + areas + lines if areas or lines else ""


def configs_section(results: dict[str, Any]) -> str:
    """The operative configurations."""
    return "".join(
        f"<details><summary>{escape(name)}</summary><pre>{escape(content)}</pre></details>"
        for name, content in sorted(results["configs"].items())
    )
