"""Sentences made from numbers: they say what was measured, whatever that is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from cat_jax.cascade.inputs import EQUAL_RATES, POOLED
from cat_jax.cascade.summary import rate_name
from cat_jax.report.labels import clear, cost_text, metric
from cat_jax.report.look import by_objective, cost_unit, percent, thousands


def count(number: int, one: str, many: str | None = None) -> str:
    """A number with its noun.

    >>> count(1, "seed"), count(4, "task")
    ('1 seed', '4 tasks')
    """
    return f"{thousands(number)} {one if number == 1 else many or one + 's'}"


def lede(results: Mapping[str, Any]) -> str:
    """What was compared, in one paragraph."""
    models, settings = results["models"], results["settings"]
    small = [m for m in models.values() if m["role"] == "small"]
    large = models[results["large"]]
    seeds = len({m["seed"] for m in small})
    costs = [m["flops"] / large["flops"] for m in small]
    cost = percent(round(sum(costs) / len(costs), 3))
    paid = cost_text(large["flops"], cost_unit(results))
    return (
        f"{count(len(results['objectives']), 'training objective')}, {count(seeds, 'seed')}, "
        f"{count(len(results['tasks']), 'task')}, {count(results['examples'], 'example')} of the "
        f"{settings['test_split']} split. A small model{_size(small)} answers every query; those of low "
        f"confidence ({settings['rules'][0]}) go to {results['large']}{_size([large])}. "
        f"Asking the small model costs {cost} of the {paid} that the large one spends on a query."
    )


def _size(models: Sequence[Mapping[str, Any]]) -> str:
    """The parameters of models in brackets; nothing where those of one are not known."""
    sizes = sorted({m["parameters"] for m in models if m["parameters"] is not None})
    if not sizes or any(m["parameters"] is None for m in models):
        return ""
    return f" ({' to '.join(map(thousands, sorted({sizes[0], sizes[-1]})))} parameters)"


def findings(results: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """(subject, numbers, verdict) in the headline scope: of a large model no better, then of each objective that
    is compared with the baseline.
    """
    settings, scope = results["settings"], results["headline_scope"]
    rate = settings["headline_rate"]
    lines = _nothing_to_defer(results)
    for objective, found in by_objective(results, results["differences"][scope]).items():
        area, fixed = found["auc_df"], found.get(rate_name(rate))
        numbers = f"AUC-DF {_points(area)}"
        if fixed is not None:
            numbers += f"; quality at {percent(rate)} deferral {_points(fixed)}"
        said = verdict(area, settings["baseline"], results["resamples"][scope])
        lines.append((f"{objective} minus {settings['baseline']}", numbers + ".", said))
    return lines


_ENDS = ("small_quality", "large_quality", "auc_df")


def _nothing_to_defer(results: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """Says so where small models answer as well as the large one: curves may then lead nowhere."""
    summary = by_objective(results, results["summary"][results["headline_scope"]])
    small, large, area = ({o: found[n]["mean"] for o, found in summary.items()} for n in _ENDS)
    equal = [o for o in summary if small[o] is not None and large[o] is not None and small[o] >= large[o]]
    if not equal:
        return []
    numbers = f"no better than the small models of {', '.join(equal)}."
    known = [o for o in equal if area[o] is not None]
    if any(area[o] > small[o] for o in known):
        said = "Deferring gains where they err on different queries: see the curves."
    elif known == equal:
        said = "Deferring to it gains them nothing on average: train a better one."
    else:
        said = "Whether deferring gains on average is not known, for AUC-DF is not defined: see the curves."
    return [(results["large"], numbers, said)]


def _points(estimate: Mapping[str, Any]) -> str:
    shown = metric("auc_df")
    number = f"{shown.show(estimate['mean'], signed=True)} points"
    return f"{number} {shown.show_interval(estimate['interval'], signed=True)}".strip()


def verdict(estimate: Mapping[str, Any], baseline: str, resamples: int) -> str:
    """What the intervals of an AUC-DF difference, from so many resamples, allow to say."""
    if estimate["mean"] is None:
        return "AUC-DF is not defined, for the metric has no value for some of the merged answers."
    found = clear(estimate)
    if found is None:
        if not resamples:
            return "No interval was computed."
        return "There is no interval, for AUC-DF is not defined in some of the resamples."
    side = "above" if estimate["mean"] > 0 else "below"
    text = f"AUC-DF is {side} {baseline}'s." if found else f"AUC-DF is not clearly different from {baseline}'s."
    if estimate["nested"] is not None:
        low, high = estimate["nested"]
        bounds = metric("auc_df").show_interval(estimate["nested"], signed=True)
        kept = low > 0 or high < 0
        if found and not kept:
            text += f" With training seeds resampled as well the interval is {bounds}, which holds 0."
        else:
            text += f" With training seeds resampled as well: {bounds}."
    return text


def routing_sentences(results: Mapping[str, Any]) -> list[str]:
    """How much of each lead at the headline rate remains when every task defers the same share."""
    if EQUAL_RATES not in results["scopes"]:
        return []
    settings, name = results["settings"], rate_name(results["settings"]["headline_rate"])
    shown, lines = metric(name), []
    for objective, pooled in by_objective(results, results["differences"][POOLED]).items():
        equal = results["differences"][EQUAL_RATES][objective]
        if name in pooled:
            lines.append(
                f"{objective} minus {settings['baseline']} at {percent(settings['headline_rate'])} deferral: "
                f"{shown.show(pooled[name]['mean'], signed=True)} points under one threshold, "
                f"{shown.show(equal[name]['mean'], signed=True)} with the same rate in each task."
            )
    return lines


def method(results: Mapping[str, Any]) -> str:
    """How the intervals were made."""
    settings, count = results["settings"], results["resamples"][results["headline_scope"]]
    if not count:
        return "No intervals were computed."
    level = percent(settings["level"])
    return (
        f"Brackets and bands are {level} percentile intervals of {thousands(count)} bootstrap "
        "resamples of the test examples, the same resamples for every model, the trained models held fixed; "
        "numbers are means over seeds."
    )
