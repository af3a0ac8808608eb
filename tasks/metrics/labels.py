"""Metrics of classification: accuracy, F1, Matthews' correlation. An answer that is no option counts as wrong.

Rows with a hidden label are left out; where no row has one, the metric is NaN, which is told and written as null.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import numpy as np
from cat_jax_tasks.metrics.target import Target, labelled


def accuracy(targets: Sequence[Target], predictions: Sequence[str]) -> dict[str, float]:
    """Answers that are the right one, or one of the right ones."""
    pairs = labelled(targets, predictions)
    return {"accuracy": _percent(prediction in target.answers for target, prediction in pairs)}


def f1_positive(targets: Sequence[Target], predictions: Sequence[str]) -> dict[str, float]:
    """F1 of the second option, as GLUE has it for paraphrases; an answer that is no option is wrong."""
    true_positive = false_positive = false_negative = 0
    pairs = labelled(targets, predictions)
    for target, prediction in pairs:
        positive = target.options[1]
        if prediction not in target.options:
            prediction = target.options[0] if target.answer == positive else positive
        true_positive += prediction == positive == target.answer
        false_positive += prediction == positive != target.answer
        false_negative += prediction != positive == target.answer
    return {"f1": _f1(true_positive, false_positive, false_negative) if pairs else math.nan}


def matthews(targets: Sequence[Target], predictions: Sequence[str]) -> dict[str, float]:
    """Matthews' correlation, for any number of classes (CoLA's metric); answers that are no option are a class."""
    pairs = labelled(targets, predictions)
    if not pairs:
        return {"matthews": math.nan}
    classes = {text: i for i, text in enumerate(pairs[0][0].options)}
    found = np.zeros((len(classes) + 1, len(classes) + 1))
    for target, prediction in pairs:
        found[classes[str(target.answer)], classes.get(prediction, len(classes))] += 1
    right, count = np.trace(found), found.sum()
    of_target, of_prediction = found.sum(1), found.sum(0)
    spread = (count**2 - of_target @ of_target) * (count**2 - of_prediction @ of_prediction)
    value = (right * count - of_target @ of_prediction) / np.sqrt(spread) if spread else 0.0
    return {"matthews": 100.0 * float(value)}


def commitment_bank(targets: Sequence[Target], predictions: Sequence[str]) -> dict[str, float]:
    """SuperGLUE's metrics of CB: unweighted mean of the classes' F1, accuracy, and their mean as `score`."""
    pairs = labelled(targets, predictions)
    options = pairs[0][0].options if pairs else ()
    of_class = []
    for option in options:
        hits = sum(p == option == t.answer for t, p in pairs)
        wrong = sum(p == option != t.answer for t, p in pairs)
        missed = sum(p != option == t.answer for t, p in pairs)
        of_class.append(_f1(hits, wrong, missed))
    f1 = math.fsum(of_class) / len(of_class) if of_class else math.nan
    exact = _percent(t.answer == p for t, p in pairs)
    return {"score": (f1 + exact) / 2, "f1": f1, "accuracy": exact}


def _f1(hits: int, wrong: int, missed: int) -> float:
    total = 2 * hits + wrong + missed
    return 200.0 * hits / total if total else 0.0


def _percent(right: Iterable[bool]) -> float:
    values = list(right)
    return 100.0 * sum(values) / len(values) if values else math.nan
