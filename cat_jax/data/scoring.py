"""A SeqIO task's own metrics on predicted texts, and what a cascade needs to score a mix of two models' answers."""

from __future__ import annotations

import dataclasses
import functools
import logging
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from cat_jax.data import bleu, seqio_task
from cat_jax.data.convert import plain
from cat_jax.errors import UserError

logger = logging.getLogger(__name__)

_TRIAL = 48
"""Examples that a metric is tried on, at most."""


@dataclasses.dataclass(frozen=True)
class Scored:
    """The metrics of a table of predictions.

    `kind` says how the headline metric of merged predictions is found: "mean" of `scores`; "bleu", from the sum of
    `statistics` (see `data.bleu`); "function", by the task's functions alone. `scores` holds the headline metric of
    each example alone, None where the function fails on a single example. `higher_is_better` is false where right
    answers score less than empty ones, as under an error rate. `signatures` says by which settings metrics were
    computed, as sacreBLEU does: what a metric function has as `signatures` after the call.
    """

    metrics: dict[str, float]
    headline: str
    kind: str
    scores: list[float | None]
    statistics: list[list[float]] | None = None
    higher_is_better: bool = True
    signatures: Mapping[str, str] = dataclasses.field(default_factory=dict)


OptionScores = Sequence[Sequence[float]] | None
"""Log-likelihoods of each row's options; None where answers were written, not chosen."""

Measure = Callable[[Sequence[int], Sequence[str], OptionScores], dict[str, float]]
"""Metrics of the examples at some indices, given a prediction for each of them."""


def score_table(
    task_name: str,
    predictions: Sequence[str],
    raws: Sequence[Mapping[str, Any]],
    option_scores: OptionScores = None,
    headline: str | None = None,
) -> Scored:
    """Runs the task's postprocessor and metric functions as SeqIO's Evaluator does.

    Args:
      task_name: a registered SeqIO task.
      predictions: decoded texts.
      raws: the raw fields of the same examples (`Example.raw`).
      option_scores: log-likelihoods of each example's options, for metric functions of (targets, scores); a single
        option per example is the target itself and reaches the function as a number.
      headline: the metric to score examples with; the task's first one if None.

    Raises:
      UserError: the task has no metric that applies, none called `headline`, or one that fails on the whole table.
    """
    task = seqio_task.get_task(task_name)
    examples = [as_numpy(raw) for raw in raws]
    everything = range(len(examples))
    metrics: dict[str, float] = {}
    owner: dict[str, Measure] = {}
    for measure in measures(task, examples, option_scores):
        try:
            found = measure(everything, predictions, option_scores)
        except Exception as e:
            problem = f"a metric of task {task_name!r} fails ({type(e).__name__}: {e})"
            raise UserError(problem, "check the task's metric_fns and postprocess_fn on its own targets") from e
        for name, value in found.items():
            if name in metrics:
                raise UserError(f"task {task_name!r} has two metrics called {name!r}", "rename one of them")
            metrics[name], owner[name] = value, measure
    signatures = {}
    for function in task.predict_metric_fns:
        signatures |= getattr(function, "signatures", {})
    if not metrics:
        raise UserError(f"task {task_name!r} has no metric for predicted texts", "give the task metric_fns")
    headline = headline or next(iter(metrics))
    if headline not in metrics:
        raise UserError(f"task {task_name!r} has no metric {headline!r}", f"name one of: {', '.join(metrics)}")

    def headline_of(indices: Sequence[int], texts: Sequence[str]) -> float | None:
        chosen = None if option_scores is None else [option_scores[i] for i in indices]
        try:
            found = owner[headline](indices, texts, chosen).get(headline)
        except Exception:  # a metric need not be defined on every subset
            return None
        return found if found is not None and math.isfinite(found) else None

    scored = _decompose(task, examples, predictions, headline_of, metrics, headline)
    is_better = _higher_is_better(headline_of, examples)
    return dataclasses.replace(scored, higher_is_better=is_better, signatures=signatures)


def has_metrics(task: Any) -> bool:
    """Whether a SeqIO task can be scored: it has a metric of predicted texts or of option scores."""
    objects = [metric for metric in task._metric_objs_constructor_args if hasattr(metric, "actual_compute")]
    return bool(task.predict_metric_fns or task.score_metric_fns or objects)


def check_has_metrics(task: Any) -> None:
    """Refuses a SeqIO task that cannot be scored, before its answers are made.

    Raises:
      UserError: it has no metric.
    """
    if not has_metrics(task):
        raise UserError(f"task {task.name!r} has no metric for predicted texts", "give the task metric_fns")


def as_numpy(raw: Mapping[str, Any]) -> dict[str, Any]:
    """Raw fields as SeqIO hands them to postprocessors: bytes, NumPy scalars and arrays."""
    return {name: _as_numpy(value) for name, value in raw.items()}


def _as_numpy(value: Any) -> Any:
    if isinstance(value, str):
        return value.encode()
    if not isinstance(value, list):
        return None if value is None else np.asarray(value)[()]
    items = [_as_numpy(item) for item in value]
    if any(isinstance(item, bytes) for item in items):
        return np.array(items, object)
    try:
        return np.array(items)
    except ValueError:  # rows of different lengths stay a list
        return items


def measures(task: Any, examples: Sequence[Mapping[str, Any]], option_scores: OptionScores) -> list[Measure]:
    """One for each metric function or object of a task, in its order.

    Args:
      task: of SeqIO.
      examples: their raw fields, as `as_numpy` gives them. What the postprocessor makes of an answer to one of them is
        remembered: the same answers come in many mixtures.
      option_scores: of a whole table, by which it is told whether rows bring one number or several; without, metric
        functions of (targets, scores) are left out.
    """
    targets = [_target(task, example) for example in examples]
    single = all(len(row) == 1 for row in option_scores or ())

    @functools.cache
    def processed(index: int, prediction: str) -> Any:
        return task.postprocess_fn(prediction, example=examples[index], is_target=False)

    def of_predictions(function: Callable[..., Any]) -> Measure:
        def measure(
            indices: Sequence[int], predictions: Sequence[str], option_scores: OptionScores
        ) -> dict[str, float]:
            return _numbers(
                function(targets=[targets[i] for i in indices], predictions=list(map(processed, indices, predictions)))
            )

        return measure

    def of_scores(function: Callable[..., Any]) -> Measure:
        def measure(
            indices: Sequence[int], predictions: Sequence[str], option_scores: OptionScores
        ) -> dict[str, float]:
            rows = list(option_scores or ())
            values = [row[0] for row in rows] if single else rows
            return _numbers(function(targets=[targets[i] for i in indices], scores=values))

        return measure

    def of_object(metric: Any) -> Measure:
        def measure(
            indices: Sequence[int], predictions: Sequence[str], option_scores: OptionScores
        ) -> dict[str, float]:
            chosen = [examples[i] for i in indices]
            collected = metric.from_model_output(chosen, np.array(list(predictions), object), task.output_features)
            return _numbers(collected.actual_compute(chosen, task.output_features)[0])

        return measure

    found = [of_predictions(function) for function in task.predict_metric_fns]
    if option_scores is not None:
        found += [of_scores(function) for function in task.score_metric_fns]
    for metric in task._metric_objs_constructor_args:
        if hasattr(metric, "actual_compute"):
            found.append(of_object(metric))
        else:
            logger.warning("task %r: %s takes token ids, not text; it is left out", task.name, type(metric).__name__)
    if task.predict_with_aux_metric_fns:
        names = ", ".join(getattr(f, "__name__", "?") for f in task.predict_with_aux_metric_fns)
        logger.warning("task %r: metrics of auxiliary values are left out (%s)", task.name, names)
    return found


def _target(task: Any, example: Mapping[str, Any]) -> Any:
    text = example["targets_pretokenized"]
    text = text.decode() if isinstance(text, bytes) else text
    return task.postprocess_fn(text, example=example, is_target=True)


def _numbers(values: Mapping[str, Any]) -> dict[str, float]:
    """The scalars among a metric function's results (SeqIO's texts, images and histograms are for TensorBoard)."""
    if not isinstance(values, Mapping):
        raise TypeError(f"it returned a {type(values).__name__}, not a dict of names and values")
    numbers = {}
    for name, value in values.items():
        array = np.asarray(getattr(value, "value", value))
        if array.ndim == 0 and (np.issubdtype(array.dtype, np.number) or array.dtype == bool):
            numbers[name] = float(array)
    return numbers


def _decompose(
    task: Any,
    examples: Sequence[Mapping[str, Any]],
    predictions: Sequence[str],
    value: Callable[[Sequence[int], Sequence[str]], float | None],
    metrics: dict[str, float],
    headline: str,
) -> Scored:
    """How the headline metric of merged predictions is found; `value` is that metric of some examples, or None."""
    singles = [value([i], [prediction]) for i, prediction in enumerate(predictions)]
    trials = _trials(predictions, _target_texts(examples))
    known = [(trial, found) for trial in trials if (found := value(*trial)) is not None]
    if _same(metrics[headline], _mean(singles)) and all(
        _same(found, _mean([value([i], [t]) for i, t in zip(indices, texts, strict=True)]))
        for (indices, texts), found in known
    ):
        return Scored(metrics, headline, "mean", singles)
    if "bleu" in headline.lower():
        targets = [_target(task, example) for example in examples]

        def rows(indices: Sequence[int], texts: Sequence[str], settings: bleu.BleuSettings) -> Any:
            pairs = zip(indices, texts, strict=True)
            outputs = [task.postprocess_fn(t, example=examples[i], is_target=False) for i, t in pairs]
            return bleu.statistics(outputs, [targets[i] for i in indices], settings)

        for settings in bleu.SETTINGS:
            statistics = rows(range(len(examples)), predictions, settings)
            if (
                statistics
                and _same(metrics[headline], bleu.corpus(statistics))
                and all(_same(found, bleu.corpus(rows(*trial, settings))) for trial, found in known)
            ):
                return Scored(metrics, headline, "bleu", singles, statistics)
    return Scored(metrics, headline, "function", singles)


def _higher_is_better(
    value: Callable[[Sequence[int], Sequence[str]], float | None], examples: Sequence[Mapping[str, Any]]
) -> bool:
    """Whether the targets, taken as answers, score no less than empty answers; True where the metric cannot tell."""
    targets = _target_texts(examples[:_TRIAL])
    right, empty = (value(range(len(targets)), texts) for texts in (targets, [""] * len(targets)))
    return right is None or empty is None or right >= empty


def _target_texts(examples: Sequence[Mapping[str, Any]]) -> list[str]:
    return [str(plain(example["targets_pretokenized"])) for example in examples]


def _trials(predictions: Sequence[str], targets: Sequence[str]) -> list[tuple[list[int], list[str]]]:
    """Subsets of the examples where some answers are others' answers, right ones, or empty.

    A rule that holds for these too is no coincidence: F1 on a table without mistakes equals the mean of the single
    scores, and is no mean.
    """
    count, draw = len(predictions), np.random.default_rng(0)
    trials = []
    for wrong in (0.0, 0.5, 0.5, 1.0):
        indices = np.sort(draw.permutation(count)[:_TRIAL]).tolist()
        texts = [predictions[i] for i in indices]
        for place, i in enumerate(indices):
            if draw.random() < wrong:
                texts[place] = (predictions[int(draw.integers(count))], targets[i], "")[int(draw.integers(3))]
        trials.append((indices, texts))
    return trials


def _mean(values: Sequence[float | None]) -> float | None:
    found = [v for v in values if v is not None]
    return math.fsum(found) / len(found) if found and len(found) == len(values) else None


def _same(left: float | None, right: float | None) -> bool:
    return left is not None and right is not None and math.isclose(left, right, rel_tol=1e-9, abs_tol=1e-9)
