"""Metrics of numbers written as text."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence

from cat_jax_tasks.metrics.target import Target, labelled
from scipy import stats


def pearson_spearman(targets: Sequence[Target], predictions: Sequence[str]) -> dict[str, float]:
    """Correlations of STS-B; an answer that is no number is taken as -1. 0 where all answers are the same."""
    pairs = labelled(targets, predictions)
    if len(pairs) < 2:
        return {"pearson": math.nan, "spearman": math.nan}
    expected, found = [number(str(t.answer)) for t, _ in pairs], [number(p) for _, p in pairs]
    if len(set(found)) == 1 < len(set(expected)):
        return {"pearson": 0.0, "spearman": 0.0}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", stats.ConstantInputWarning)
        pearson, spearman = stats.pearsonr(expected, found)[0], stats.spearmanr(expected, found)[0]
    return {"pearson": 100.0 * float(pearson), "spearman": 100.0 * float(spearman)}


def number(text: str, default: float = -1.0) -> float:
    """A text as a finite number.

    >>> number("3.8"), number("nan"), number("many")
    (3.8, -1.0, -1.0)
    """
    try:
        value = float(text)
    except ValueError:
        return default
    return value if math.isfinite(value) else default
