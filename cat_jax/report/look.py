"""What figures and tables share: objectives' styles, titles of scopes, numbers on axes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

from cat_jax.cascade.inputs import EQUAL_RATES, POOLED
from cat_jax.report.labels import MINUS, NOTHING

T = TypeVar("T")

CELLS = {
    "both_right": "both right",
    "small_only_right": "only the small model right",
    "large_only_right": "only the large model right",
    "both_wrong": "both wrong",
}


def styles(results: dict[str, Any]) -> dict[str, int]:
    """The look of each objective, the same in every figure: 0, neutral grey, is the baseline."""
    baseline = results["settings"]["baseline"]
    others = [o for o in results["objectives"] if o != baseline]
    return {baseline: 0} | {objective: i for i, objective in enumerate(others, 1)}


def by_objective(results: Mapping[str, Any], found: Mapping[str, T]) -> dict[str, T]:
    """`found[objective]` in the experiment's order: results.json is sorted by name."""
    return {objective: found[objective] for objective in results["objectives"] if objective in found}


def tasks(results: Mapping[str, Any]) -> list[str]:
    """The tasks in the experiment's order."""
    return [scope.removeprefix("task:") for scope in results["scopes"] if scope.startswith("task:")]


def cost_unit(results: Mapping[str, Any]) -> str:
    """What answers are paid in."""
    return results.get("cost_unit", "FLOPs")


def scope_title(scope: str) -> str:
    """A scope in words.

    >>> scope_title("pooled"), scope_title("task:spell_en")
    ('All tasks, one threshold', 'spell_en')
    """
    named = {POOLED: "All tasks, one threshold", EQUAL_RATES: "All tasks, same rate in each"}
    return named.get(scope, scope.removeprefix("task:"))


def quality_name(results: dict[str, Any], scope: str) -> str:
    """What the quality axis of a scope shows."""
    metrics = {t["metric"] for t in results["tasks"].values()}
    if scope.startswith("task:"):
        return results["tasks"][scope.removeprefix("task:")]["metric"]
    return metrics.pop() if len(metrics) == 1 else "mean of the tasks' metrics"


def percent(value: float) -> str:
    """A share as a whole percentage, or with a digit where that matters.

    >>> percent(0.3), percent(0.125)
    ('30 %', '12.5 %')
    """
    return f"{round(value * 100, 6):g} %".replace("-", MINUS)


def plain(value: float | None) -> str:
    """A tick or tooltip of quality; a dash where it is not defined.

    >>> plain(40.0), plain(48.2345), plain(-0.5), plain(None)
    ('40', '48.23', '−0.5', '–')
    """
    if value is None:
        return NOTHING
    return f"{value:.2f}".rstrip("0").removesuffix(".").replace("-", MINUS)


def signed(value: float | None) -> str:
    """A tick or tooltip of a difference; a dash where it is not defined.

    >>> signed(0.0), signed(2.25), signed(-1.0), signed(None)
    ('0', '+2.25', '−1', '–')
    """
    if value is None:
        return NOTHING
    return "0" if abs(value) < 0.005 else ("+" if value > 0 else "") + plain(value)


def thousands(value: float) -> str:
    r"""A whole number with narrow spaces, that do not break, between thousands.

    >>> thousands(18500) == "18\N{NARROW NO-BREAK SPACE}500"
    True
    """
    return f"{value:,.0f}".replace(",", "\N{NARROW NO-BREAK SPACE}")
