"""From token ids to a table: texts, metrics, FLOPs. The only room of evaluation that needs SeqIO's tasks."""

from __future__ import annotations

import dataclasses
import json
import logging
import shutil
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from cat_jax.data import seqio_task
from cat_jax.data.record import Example
from cat_jax.data.scoring import Scored, score_table
from cat_jax.evaluate.job import Job
from cat_jax.evaluate.options import FIELD
from cat_jax.files import cannot_write
from cat_jax.models.flops import generation_flops, parameter_count
from cat_jax.table import TableInfo, read_table, write_table

logger = logging.getLogger(__name__)


def write_answers(job: Job, answers: pa.Table, config: Any, keep_fields: Sequence[str] = ()) -> None:
    """Writes the table of a job, then forgets the parts it was made of. The task's module must be loaded.

    Args:
      job: the table to write.
      answers: rows of `ANSWERS` for every example, by index.
      config: of the model, for its FLOPs.
      keep_fields: raw fields of the examples that the table's column `fields` keeps.

    Raises:
      UserError: a metric of the task fails, or the disk is full.
    """
    examples = job.store.read(answers["index"].to_numpy())
    predictions = _texts(job, answers, [example.raw or {} for example in examples])
    asked = job.store.lengths[:, 0]
    columns = {name: answers[name].combine_chunks() for name in _COPIED}
    columns |= {
        "input_length": asked,
        "prediction_length": _list_lengths(answers, "prediction_tokens"),
        "flops": _flops(config, asked, answers, job.settings),
    }
    write_columns(job, examples, predictions, columns, keep_fields, parameters=parameter_count(config))
    _forget_parts(job)


def write_columns(
    job: Job,
    examples: Sequence[Example],
    predictions: Sequence[str],
    columns: Mapping[str, Any],
    keep_fields: Sequence[str] = (),
    **info: Any,
) -> None:
    """Scores the answers to all examples of a store and writes their table. The task's module must be loaded.

    Args:
      job: the table to write.
      examples: all, in the store's order.
      predictions: what the metrics see of each.
      columns: of the table, in that order: input_length and prediction_length, and whatever is known beside.
      keep_fields: raw fields of the examples that the table's column `fields` keeps.
      **info: further fields of the table's `TableInfo`.

    Raises:
      UserError: a metric of the task fails, or the disk is full.
    """
    raws = [example.raw or {} for example in examples]
    for name in keep_fields:
        if not any(name in raw for raw in raws):
            there = ", ".join(sorted(set().union(*raws)))
            words = "warning: no example of %s (%s) has the field %r to keep; they have %s"
            logger.warning(words, job.store.task, job.store.split, name, there)
    scored = _score(job, predictions, raws, columns.get("option_scores"))
    rows = {
        **columns,
        "example_id": [example.example_id for example in examples],
        "task": [job.store.task] * len(examples),
        "input": [str(raw.get("inputs_pretokenized", "")) for raw in raws],
        "target": [str(raw["targets_pretokenized"]) for raw in raws],
        "prediction": predictions,
        "target_length": job.store.lengths[:, 1],
        "options": [raw[FIELD] for raw in raws] if job.mode == "score" else [None] * len(examples),
        **_columns(scored, len(examples)),
        "group": groups(raws),
        "fields": kept(raws, keep_fields),
    }
    write_table(job.path, rows, TableInfo(**job.identity(), **_stated(scored), **info))
    logger.info("%s: %s %.4g", job.label, scored.headline, scored.metrics[scored.headline])


def rescore(job: Job, keep_fields: Sequence[str] = ()) -> None:
    """Scores a finished table again with the task's metrics as they are now. Its module must be loaded.

    Args:
      job: the table.
      keep_fields: raw fields of the examples that its column `fields` keeps from now on; () leaves it as it is.

    Raises:
      UserError: the table is broken, a metric of the task fails, or the disk is full.
    """
    table, info = read_table(job.path)
    raws = {example.example_id: example.raw or {} for example in job.store}
    rows = {name: table[name].combine_chunks() for name in table.column_names}
    ordered = [raws[name] for name in table["example_id"].to_pylist()]
    scored = _score(job, table["prediction"].to_pylist(), ordered, table["option_scores"])
    rows |= {**_columns(scored, len(table)), "group": groups(ordered)}
    if keep_fields:
        rows["fields"] = kept(ordered, keep_fields)
    write_table(job.path, rows, dataclasses.replace(info, **_stated(scored)))
    logger.info("%s: %s %.4g", job.label, scored.headline, scored.metrics[scored.headline])


def kept(raws: Sequence[Mapping[str, Any]], names: Sequence[str]) -> list[str | None]:
    """Of each example the raw fields called `names` that it has, as JSON; None where it has none of them.

    >>> kept([{"origlang": "en", "x": 1}, {}], ["origlang", "document"])
    ['{"origlang": "en"}', None]
    """
    found = [{name: raw[name] for name in names if name in raw} for raw in raws]
    return [json.dumps(fields, ensure_ascii=False) if fields else None for fields in found]


def groups(raws: Sequence[Mapping[str, Any]]) -> list[str | None]:
    """Of each example the raw field `group`, for metrics of several rows together; None where it has none.

    >>> groups([{"group": "7-2"}, {"group": 3}, {}])
    ['7-2', '3', None]
    """
    return [None if raw.get("group") is None else str(raw["group"]) for raw in raws]


def _score(job: Job, predictions: Sequence[str], raws: Sequence[dict[str, Any]], option_scores: Any) -> Scored:
    return score_table(job.store.task, predictions, raws, option_scores.to_pylist() if job.mode == "score" else None)


def _columns(scored: Scored, count: int) -> dict[str, Any]:
    """What a table's rows have of a scoring."""
    return {"score": scored.scores, "statistics": scored.statistics or [None] * count}


def _stated(scored: Scored) -> dict[str, Any]:
    """What a table's `TableInfo` has of it."""
    return {
        "signatures": dict(scored.signatures),
        "metric": scored.headline,
        "metric_kind": scored.kind,
        "metrics": scored.metrics,
        "higher_is_better": scored.higher_is_better,
    }


_COPIED = (
    "prediction_tokens",
    "token_logprobs",
    "token_entropies",
    "token_margins",
    "option_scores",
    "option_lengths",
)


def _texts(job: Job, answers: pa.Table, raws: Sequence[dict[str, Any]]) -> list[str]:
    """What the metrics see: the decoded tokens, or the text of the chosen option."""
    if job.mode == "score":
        return [str(raw[FIELD][best]) for raw, best in zip(raws, answers["best_option"].to_pylist(), strict=True)]
    vocabulary = seqio_task.vocabulary(job.store.task)
    return [seqio_task.decode(vocabulary, tokens) for tokens in answers["prediction_tokens"].to_pylist()]


def _flops(config: Any, input_lengths: np.ndarray, answers: pa.Table, settings: Mapping[str, Any]) -> np.ndarray:
    """f64[N]: reading the input once, then writing all beams, or feeding each option as `decode.score` does."""
    # The state after the input predicts the first token of every beam or option: each is fed from its second token on.
    first = config.answer_flops(input_lengths, 1)
    if answers["option_lengths"].null_count:
        steps, beams = answers["steps"].to_numpy(), settings["decoding"].get("beams", 1)
        return generation_flops(config, input_lengths, steps, beams)
    of_example = np.repeat(np.arange(len(first)), _list_lengths(answers, "option_lengths"))
    lengths = np.maximum(answers["option_lengths"].combine_chunks().flatten().to_numpy(), 1)
    rest = config.answer_flops(input_lengths[of_example], lengths) - first[of_example]
    return first + np.bincount(of_example, weights=rest, minlength=len(first))


def _list_lengths(answers: pa.Table, column: str) -> np.ndarray:
    return np.array([len(row) for row in answers[column].to_pylist()], np.int64)


def _forget_parts(job: Job) -> None:
    try:
        if job.parts_dir.exists():
            shutil.rmtree(job.parts_dir)
    except OSError as e:
        raise cannot_write(job.parts_dir, e) from e
