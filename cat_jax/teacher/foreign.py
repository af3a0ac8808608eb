"""Rows of a signal that another program wrote: JSON lines or Parquet, one example a row.

    {"example_id": "17", "target_tokens": [5, 9, 1], "top1_correct": [true, false, true]}
    {"example_id": "17", "target_tokens": [5, 9, 1], "top_ids": [[5, 8], ...], "top_logprobs": [[-0.1, -2.4], ...]}

`target_tokens` are the ids that the teacher was scored on, the store's own, end of sequence included. `top_ids` and
`top_logprobs` give each of them the teacher's likeliest ids at temperature 1, natural logarithms, in any order and
number. `task` and `split` are needed only where example ids of several tasks or splits are the same.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from cat_jax.data.row_files import RowFiles
from cat_jax.errors import UserError

_MEND = "docs/teachers.md shows what a row has"

ROWS = RowFiles(
    frozenset({"example_id", "target_tokens", "top1_correct", "top_ids", "top_logprobs", "task", "split"}),
    "the signal",
    _MEND,
)


@dataclasses.dataclass(frozen=True)
class ForeignRow:
    """One row, and where it is for messages."""

    where: str
    example_id: str
    target_tokens: Sequence[int]
    top1_correct: Sequence[bool] | None
    top_ids: Sequence[Sequence[int]] | None
    top_logprobs: Sequence[Sequence[float]] | None
    task: str | None
    split: str | None


def read_rows(path: str) -> Iterator[ForeignRow]:
    """The rows of a file, by its ending: .jsonl or .parquet.

    Raises:
      UserError: the file is missing or of another kind, or a row lacks something; names file and row.
    """
    for where, fields in ROWS.read(path):
        yield _row(where, fields)


def _row(where: str, fields: Mapping[str, Any]) -> ForeignRow:
    missing = [name for name in ("example_id", "target_tokens") if name not in fields]
    if missing:
        raise UserError(f"{where} has no {missing[0]}", _MEND)
    if ("top_ids" in fields) != ("top_logprobs" in fields):
        raise UserError(f"{where} has one of top_ids and top_logprobs", "give both, or top1_correct alone")
    if "top1_correct" not in fields and "top_ids" not in fields:
        raise UserError(f"{where} has neither top1_correct nor top_ids and top_logprobs", _MEND)
    tokens = fields["target_tokens"]
    if not isinstance(tokens, list):
        raise UserError(f"{where}: target_tokens is no list", _MEND)
    for name in ("target_tokens", "top1_correct", "top_ids", "top_logprobs"):
        values = fields.get(name)
        if values is not None and (not isinstance(values, list) or len(values) != len(tokens)):
            raise UserError(f"{where}: {name} is no list of one entry for each of target_tokens", _MEND)
    return ForeignRow(
        where=where,
        example_id=str(fields["example_id"]),
        target_tokens=tokens,
        top1_correct=fields.get("top1_correct"),
        top_ids=fields.get("top_ids"),
        top_logprobs=fields.get("top_logprobs"),
        task=fields.get("task"),
        split=fields.get("split"),
    )
