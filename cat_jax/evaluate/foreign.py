"""Rows of answers that another program wrote: JSON lines or Parquet, one example a row, named as a table's columns.

    {"example_id": "17", "prediction": "yes", "input_length": 212, "prediction_length": 3}
    {"example_id": "17", "prediction": "yes", "flops": 2.1e12, "token_logprobs": [-0.02, -0.71, -0.0]}
    {"example_id": "17", "option_scores": [-1.9, -0.3], "cost": 0.0004}

`task` and `split` are needed only where example ids of several tasks or splits are the same.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from cat_jax.data.row_files import RowFiles
from cat_jax.errors import UserError

_MEND = "docs/evaluation.md shows what a row has"

_TOKENS = ("token_logprobs", "token_entropies", "token_margins")
_COUNTS = ("input_length", "prediction_length")
_AMOUNTS = ("flops", "cost")

COLUMNS = ("prediction_tokens", *_TOKENS, "option_scores", "option_lengths", *_COUNTS, *_AMOUNTS)
"""Fields that all rows of a table have, or none."""

ROWS = RowFiles(frozenset({"example_id", "prediction", "task", "split", *COLUMNS}), "the answers", _MEND)

_ROUNDING = 1e-2
"""How far above 0 a log-probability may lie: programs compute them in bfloat16, too."""


@dataclasses.dataclass(frozen=True)
class ForeignAnswer:
    """One row, and where it is for messages; `fields` holds what it has of `COLUMNS`."""

    where: str
    example_id: str
    prediction: str | None
    task: str | None
    split: str | None
    fields: Mapping[str, Any]


def read_answers(path: str) -> Iterator[ForeignAnswer]:
    """The rows of a file, by its ending: .jsonl or .parquet.

    Raises:
      UserError: the file is missing or of another kind, or a row has something that cannot be; names file and row.
    """
    for where, fields in ROWS.read(path):
        if "example_id" not in fields:
            raise UserError(f"{where} has no example_id", _MEND)
        row = ForeignAnswer(
            where=where,
            example_id=str(fields["example_id"]),
            prediction=fields.get("prediction"),
            task=fields.get("task"),
            split=fields.get("split"),
            fields={name: fields[name] for name in COLUMNS if name in fields},
        )
        _check(row)
        yield row


def _check(row: ForeignAnswer) -> None:
    where = f"{row.where} (example {row.example_id})"
    if row.prediction is not None and not isinstance(row.prediction, str):
        raise UserError(f"{where}: the prediction {row.prediction!r} is no text", "put it in quotes")
    for name, value in row.fields.items():
        if problem := _problem(name, value):
            raise UserError(f"{where}: {name} {problem}", _MEND)
    for group in (("prediction_tokens", *_TOKENS), ("option_scores", "option_lengths")):
        counts = {name: len(row.fields[name]) for name in group if name in row.fields}
        if len(set(counts.values())) > 1:
            said = ", ".join(f"{count} {name}" for name, count in counts.items())
            raise UserError(f"{where} has {said}", "give equally many, or leave some out")


def _problem(name: str, value: Any) -> str:
    """What is wrong with a field's value; nothing if it can be."""
    if name in _COUNTS:
        return "" if _is_whole(value) and value >= 0 else f"is {value!r}, no number of tokens"
    if name in _AMOUNTS:
        number = isinstance(value, int | float) and not isinstance(value, bool)
        return "" if number and np.isfinite(value) and value > 0 else f"is {value!r}, no number above 0"
    if not isinstance(value, list):
        return "is no list"
    if name in ("prediction_tokens", "option_lengths"):
        least = 0 if name == "prediction_tokens" else 1
        fits = all(_is_whole(one) and one >= least for one in value)
        return "" if fits else f"has something else than whole numbers from {least} on"
    try:
        numbers = np.asarray(value)
    except ValueError:  # lists of different lengths
        return "is no list of numbers"
    if numbers.ndim != 1 or (value and numbers.dtype.kind not in "iuf") or not np.isfinite(numbers).all():
        return "is no list of finite numbers"
    if name == "token_logprobs" and (numbers > _ROUNDING).any():
        return f"has {numbers.max():g}, which is no natural logarithm of a probability"
    return ""


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
