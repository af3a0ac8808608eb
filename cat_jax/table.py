"""The per-example table: what a model answered, and how sure it was. One Parquet file per model, task and split.

Tables are joined by example id, never by position. `evaluate` writes them; `cascade` needs nothing else.
"""

from __future__ import annotations

import dataclasses
import io
import json
import os
import pathlib
import urllib.parse
from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from cat_jax.errors import UserError
from cat_jax.files import atomic_write

VERSION = 1

FLOPS = "FLOPs"
"""The unit of cost of every table that `evaluate` makes; one that was imported may have another."""

SCHEMA = pa.schema(
    [
        pa.field("example_id", pa.string(), nullable=False),
        pa.field("task", pa.string(), nullable=False),
        pa.field("input", pa.string()),
        pa.field("target", pa.string()),
        # The text that the metric saw: the decoded tokens, or in score mode the best option.
        pa.field("prediction", pa.string()),
        pa.field("prediction_tokens", pa.list_(pa.int32())),
        # Per generated token, end-of-sequence included; in score mode, of the best option's tokens.
        pa.field("token_logprobs", pa.list_(pa.float32())),
        pa.field("token_entropies", pa.list_(pa.float32())),
        pa.field("token_margins", pa.list_(pa.float32())),  # log-probability of the best minus the second best token
        pa.field("input_length", pa.int32(), nullable=False),
        pa.field("target_length", pa.int32(), nullable=False),
        pa.field("prediction_length", pa.int32(), nullable=False),
        pa.field("options", pa.list_(pa.string())),  # score mode only
        pa.field("option_scores", pa.list_(pa.float32())),  # summed log-probability of each option
        pa.field("option_lengths", pa.list_(pa.int32())),
        # Of answering this example with this model: in FLOPs, where they are known, or in the table's own unit.
        pa.field("flops", pa.float64()),
        pa.field("cost", pa.float64()),
        pa.field("score", pa.float64()),  # the metric of this example alone, on the metric's own scale
        # Sufficient statistics of a corpus metric: the corpus value is a function of their sum over examples.
        pa.field("statistics", pa.list_(pa.float64())),
        # Of a metric over groups of rows, such as a question's answers: which rows belong together.
        pa.field("group", pa.string()),
        # Raw fields of the example that `evaluate` was asked to keep, as a JSON object.
        pa.field("fields", pa.string()),
    ]
)


@dataclasses.dataclass(frozen=True)
class TableInfo:
    """What a table is of; kept in the Parquet file's metadata.

    `metric` names the headline metric, `metric_kind` how a merged output is scored: "mean" (of `score`), "bleu"
    (from the summed `statistics`), or "function" (only the task's own function can tell). `metrics` holds every
    metric of the task on the whole table. `higher_is_better` is false for a headline metric such as an error rate, of
    which the cascade draws nothing. `cost_unit` is what an answer is paid in: FLOPs, the column `flops`; or another,
    the column `cost`. `parameters` is None where nobody knows.
    `checkpoint`, `store_fingerprint`, `mode` and `settings` decide the answers: equal ones, equal answers.
    """

    task: str
    split: str
    model: str
    mode: str  # "generate" or "score"
    metric: str
    metric_kind: str
    metrics: Mapping[str, float]
    store_fingerprint: str
    parameters: int | None
    checkpoint: str = ""
    step: int = 0
    settings: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    higher_is_better: bool = True
    signatures: Mapping[str, str] = dataclasses.field(default_factory=dict)  # of metrics, as sacreBLEU writes them
    cost_unit: str = FLOPS
    version: int = VERSION


def table_path(tables_dir: str | os.PathLike, model: str, task: str, split: str) -> pathlib.Path:
    """Where the table of a model on a task's split lies; characters that a path cannot hold are percent-quoted.

    In the split dots are, too, so that no two pairs of task and split meet.

    >>> str(table_path("tables", "cat_xent-0", "super_glue:cb", "test"))
    'tables/cat_xent-0/super_glue%3Acb.test.parquet'
    """
    quoted = urllib.parse.quote(task, safe=" []+,=")
    return pathlib.Path(tables_dir) / model / f"{quoted}.{quoted_split(split)}.parquet"


def quoted_split(split: str) -> str:
    """A split as the name of a table's file has it.

    >>> quoted_split("newstest.2021")
    'newstest%2E2021'
    """
    return urllib.parse.quote(split, safe=" []+,=").replace(".", "%2E")


def write_table(path: str | os.PathLike, rows: Mapping[str, Sequence[Any]], info: TableInfo) -> None:
    """Writes columns `rows` (missing nullable columns become null), sorted by example id, atomically.

    Equal rows in any order give equal bytes.

    Raises:
      UserError: an example id occurs twice, or the file cannot be written.
    """
    count = len(rows["example_id"])
    columns = [pa.array(rows.get(field.name, [None] * count), field.type) for field in SCHEMA]
    table = pa.Table.from_arrays(columns, schema=SCHEMA).sort_by("example_id")
    ids = table.column("example_id")
    if len(ids.unique()) != count:
        raise UserError(f"{count - len(ids.unique())} example ids occur twice in {path}", "run `cat-jax prepare` again")
    metadata = {b"cat_jax": json.dumps(dataclasses.asdict(info), sort_keys=True).encode()}
    buffer = io.BytesIO()
    pq.write_table(table.replace_schema_metadata(metadata), buffer, compression="zstd")
    atomic_write(path, buffer.getvalue())


def read_table(path: str | os.PathLike) -> tuple[pa.Table, TableInfo]:
    """The table in `path` and what it is of.

    Raises:
      UserError: the file is missing, is not a table of ours, or has another version.
    """
    path = pathlib.Path(path)
    mend = f"delete {path.parent} and start `cat-jax run` again, or run `cat-jax evaluate`: it is then written anew"
    try:
        table = pq.read_table(path)
    except FileNotFoundError as e:
        there = ", ".join(sorted(other.parent.name for other in path.parent.parent.glob(f"*/{path.name}")))
        raise UserError(
            f"no per-example table at {path}" + (f" (of other models there is one: {there})" if there else ""),
            "mend the model's name, or run `cat-jax evaluate` for it",
        ) from e
    except (pa.ArrowInvalid, OSError) as e:
        raise UserError(f"cannot read the per-example table {path} ({e})", mend) from e
    raw = (table.schema.metadata or {}).get(b"cat_jax")
    if raw is None:
        raise UserError(f"{path} is Parquet, but not a per-example table", "name a file that `cat-jax evaluate` wrote")
    fields = json.loads(raw)
    if fields.get("version") != VERSION:
        raise UserError(f"{path} is a table of version {fields.get('version')}, this program reads {VERSION}", mend)
    return table, TableInfo(**fields)
