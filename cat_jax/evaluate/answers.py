"""What a model answered, before anybody reads it as text: rows by example index, kept safe while the rest is computed.

Parts are Parquet files beside the table to come. Each names what it is a part of; one of anything else is deleted.
"""

from __future__ import annotations

import io
import json
import logging
import os
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from cat_jax.files import atomic_write, cannot_write

logger = logging.getLogger(__name__)

ANSWERS = pa.schema(
    [
        pa.field("index", pa.int64(), nullable=False),  # of the example in its store
        pa.field("prediction_tokens", pa.list_(pa.int32())),
        pa.field("token_logprobs", pa.list_(pa.float32())),
        pa.field("token_entropies", pa.list_(pa.float32())),
        pa.field("token_margins", pa.list_(pa.float32())),
        pa.field("steps", pa.int32()),  # in generate mode only: how many tokens each of its beams was given
        pa.field("best_option", pa.int32()),  # the last three in score mode only
        pa.field("option_scores", pa.list_(pa.float32())),
        pa.field("option_lengths", pa.list_(pa.int32())),
    ]
)


def ragged(values: np.ndarray, lengths: np.ndarray) -> pa.ListArray:
    """The first lengths[i] of row i of values [N, L], as lists."""
    keep = np.arange(values.shape[1]) < lengths[:, None]
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
    return pa.ListArray.from_arrays(pa.array(offsets), pa.array(values[keep]))


def answer_rows(columns: Mapping[str, Any]) -> pa.Table:
    """Rows of `ANSWERS`; columns that are not given are null."""
    count = len(columns["index"])
    return pa.table([columns.get(f.name, pa.nulls(count, f.type)) for f in ANSWERS], schema=ANSWERS)


def count_not_finite(rows: pa.Table) -> int:
    """How many of these rows have a log-probability or an option's score that is NaN or infinite."""
    bad = np.zeros(len(rows), bool)
    for name in ("token_logprobs", "option_scores"):
        column = rows[name].combine_chunks()
        wrong = ~np.isfinite(column.flatten().to_numpy(zero_copy_only=False))
        bad[column.value_parent_indices().to_numpy()[wrong]] = True
    return int(bad.sum())


class Parts:
    """The finished answers of one table that is being made, in memory and on disk.

    Args:
      directory: where the part files lie; nobody else writes there.
      identity: JSON-able; what decides the answers. Parts with another identity are not used.
    """

    def __init__(self, directory: pathlib.Path, identity: Mapping[str, Any]):
        self._directory = directory
        self._metadata = {b"identity": json.dumps(identity, sort_keys=True).encode()}
        self._finished: list[pa.Table] = []
        self._unsaved: list[pa.Table] = []
        self._files = 0
        for path in sorted(directory.glob("*.parquet")):
            self._take(path)

    def indices(self) -> np.ndarray:
        """i64[n]: the examples that are answered."""
        tables = [*self._finished, *self._unsaved]
        return np.concatenate([np.zeros(0, np.int64), *(table["index"].to_numpy() for table in tables)])

    def add(self, rows: pa.Table) -> None:
        """Takes rows of `ANSWERS` of examples that are not here yet."""
        self._unsaved.append(rows)

    def save(self) -> None:
        """Writes what was added since the last time to one more file.

        Raises:
          UserError: the disk is full or read-only.
        """
        if not self._unsaved:
            return
        table = pa.concat_tables(self._unsaved)
        buffer = io.BytesIO()
        pq.write_table(table.replace_schema_metadata(self._metadata), buffer, compression="zstd")
        self._files += 1
        atomic_write(self._directory / f"{self._files:05d}.parquet", buffer.getvalue())
        self._finished.append(table)
        self._unsaved = []

    def all(self) -> pa.Table:
        """All rows, by example index."""
        return pa.concat_tables([ANSWERS.empty_table(), *self._finished, *self._unsaved]).sort_by("index")

    def _take(self, path: pathlib.Path) -> None:
        try:
            table = pq.read_table(path)
        except (pa.ArrowInvalid, OSError) as e:
            logger.warning("cannot read %s (%s): its examples are answered again", path, e)
            table = None
        if table is None or table.schema.metadata != self._metadata:
            try:
                os.unlink(path)
            except OSError as e:
                raise cannot_write(path, e) from e
            return
        self._files = int(path.stem)
        self._finished.append(table.replace_schema_metadata(None))
