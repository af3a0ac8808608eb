"""Rows of a signal that another program wrote: JSON lines or Parquet, one example a row.

    {"example_id": "17", "target_tokens": [5, 9, 1], "top1_correct": [true, false, true]}
    {"example_id": "17", "target_tokens": [5, 9, 1], "top_ids": [[5, 8], ...], "top_logprobs": [[-0.1, -2.4], ...]}

`target_tokens` are the ids that the teacher was scored on, the store's own, end of sequence included. `top_ids` and
`top_logprobs` give each of them the teacher's likeliest ids at temperature 1, natural logarithms, in any order and
number. `task` and `split` are needed only where example ids of several tasks or splits are the same.
"""

from __future__ import annotations

import dataclasses
import difflib
import hashlib
import json
import pathlib
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from cat_jax.errors import UserError

_FIELDS = {"example_id", "target_tokens", "top1_correct", "top_ids", "top_logprobs", "task", "split"}
_BATCH_ROWS = 1024
_MEND = "docs/teachers.md shows what a row has"


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
    file = pathlib.Path(path)
    readers = {".jsonl": _json_lines, ".parquet": _parquet}
    if file.suffix not in readers:
        raise UserError(f"{path} is neither .jsonl nor .parquet", "give the file the ending of what it is")
    if not file.is_file():
        raise UserError(f"there is no file {path}", "name the files of the signal to import")
    for where, fields in readers[file.suffix](file):
        yield _row(where, fields)


def files_digest(paths: Sequence[str]) -> str:
    """A name for the content of files, in their order."""
    digest = hashlib.sha256()
    for path in paths:
        try:
            with open(path, "rb") as file:
                digest.update(hashlib.file_digest(file, "sha256").digest())
        except OSError as e:
            raise UserError(f"cannot read {path} ({e.strerror})", "name the files of the signal to import") from e
    return digest.hexdigest()


def _json_lines(file: pathlib.Path) -> Iterator[tuple[str, Any]]:
    with file.open("rb") as lines:
        for number, line in enumerate(lines, 1):
            where = f"{file} line {number}"
            if not line.strip():
                continue
            try:
                yield where, json.loads(line)
            except ValueError as e:  # not of UTF-8 either
                raise UserError(f"{where} is not JSON ({e})", _MEND) from e


def _parquet(file: pathlib.Path) -> Iterator[tuple[str, Any]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.ParquetFile(file)
        _refuse_misspelt(str(file), table.schema_arrow.names)
        columns = [name for name in table.schema_arrow.names if name in _FIELDS]
        number = 0
        for batch in table.iter_batches(_BATCH_ROWS, columns=columns):
            for fields in batch.to_pylist():
                number += 1
                yield f"{file} row {number}", fields
    except (pa.ArrowException, OSError) as e:
        raise UserError(f"{file} is not a Parquet file ({e})", _MEND) from e


def _refuse_misspelt(where: str, names: Iterable[str]) -> None:
    """Fields of one's own are let be; one that is nearly ours, where ours is lacking, is meant for it."""
    names = list(names)
    for name in names:
        close = difflib.get_close_matches(name, _FIELDS - set(names), n=1, cutoff=0.8)
        if name not in _FIELDS and close:
            raise UserError(f"{where} has a field {name!r}", f"did you mean {close[0]}? {_MEND}")


def _row(where: str, fields: Any) -> ForeignRow:
    if not isinstance(fields, dict):
        raise UserError(f"{where} is no object with fields", _MEND)
    _refuse_misspelt(where, fields)
    fields = {name: value for name, value in fields.items() if value is not None}
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
