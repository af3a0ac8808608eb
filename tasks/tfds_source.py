"""TFDS as a source that says of every row where it is from: its id, its split, and the text by which it is known."""

from __future__ import annotations

import functools
import logging
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import seqio
import tensorflow as tf
import tensorflow_datasets as tfds
from cat_jax_tasks import on_disk

logger = logging.getLogger(__name__)

as_written = tf.autograph.experimental.do_not_convert
"""Functions of rows that branch on no tensor go through this: AutoGraph would rewrite each, for a second a data set."""


class TfdsSource(seqio.TfdsDataSource):
    """`seqio.TfdsDataSource` whose rows also hold `example_id` (of TFDS), `split` (as the task calls it) and `content`.

    TFDS's ids do not depend on slices or the order of reading: the row keeps its id in `train[-200:]`. Of a smaller
    copy than the official one the source takes what there is (`on_disk.splits_there`).

    Args:
      name: as TFDS has it, with configuration and version.
      splits: {the task's split: TFDS's split or slice}.
    """

    def __init__(self, name: str, splits: Mapping[str, str]):
        there = on_disk.splits_there(name, splits)
        self._name, self._asked, self._is_empty = name, dict(splits), not there
        super().__init__(name, splits=there or dict(splits))

    def get_dataset(
        self,
        split: str | None = None,
        shuffle: bool = True,
        seed: int | None = None,
        shard_info: seqio.ShardInfo | None = None,
        **unused: Any,
    ) -> tf.data.Dataset:
        split = split or "train"
        builder = self._prepared()
        theirs, is_empty = self.tfds_dataset._map_split(split), False
        if shard_info is not None:
            sizes = {name: info.num_examples for name, info in builder.info.splits.items()}
            part = on_disk.part_of(theirs, sizes, shard_info.index, shard_info.num_shards)
            is_empty = on_disk.rows_of(part, sizes) == 0  # more shards than rows: TFDS knows no slice of none
            theirs = theirs if is_empty else part
        rows = builder.as_dataset(
            split=theirs,
            shuffle_files=shuffle,
            read_config=tfds.ReadConfig(add_tfds_id=True, shuffle_seed=seed, skip_prefetch=True, try_autocache=False),
        )
        rows = rows.take(0) if is_empty else rows
        return rows.map(as_written(functools.partial(_with_origin, split=split)), num_parallel_calls=tf.data.AUTOTUNE)

    @property
    def supports_arbitrary_sharding(self) -> bool:
        """A shard is a slice by rows: of one file each reads its own part, where SeqIO's would read all of it."""
        return True

    def list_shards(self, split: str) -> Sequence[str]:
        self._prepared()
        return super().list_shards(split)

    def num_input_examples(self, split: str) -> int | None:
        """Rows before preprocessing; the data is downloaded first where it is not on disk, as they are unknown then."""
        self._prepared()
        return super().num_input_examples(split)

    def rows_at_hand(self, split: str) -> int | None:
        """Rows on this machine's disk, or in the bucket that TFDS_DATA_DIR names; None where there is nothing."""
        found = on_disk.rows(self._name, self._asked).get(split)
        if found is None and "://" in os.environ.get("TFDS_DATA_DIR", "") and self.tfds_dataset.builder.is_prepared():
            return super().num_input_examples(split)
        return found

    def _prepared(self) -> tfds.core.DatasetBuilder:
        """The builder, with its data on disk: downloaded as TFDS does it where it is not.

        Raises:
          FileNotFoundError: it is not there and cannot be had.
        """
        name = self.tfds_dataset.name
        if self._is_empty:
            asked = ", ".join(self._asked.values())
            raise FileNotFoundError(f"{on_disk.directory_of(name)} has none of the splits {asked}: mend that copy")
        root = os.environ.get("TFDS_DATA_DIR", "")
        if root and "://" not in root and not os.path.isdir(root):
            raise FileNotFoundError(f"TFDS_DATA_DIR names {root}, which is no directory: mend it, or make it")
        builder = None
        try:
            builder = self.tfds_dataset.builder
            if not builder.is_prepared():
                logger.warning("TFDS has no %s at %s: it is fetched", name, on_disk.directory_of(name))
                builder.download_and_prepare()
        except Exception as e:
            reason = str(e).strip().splitlines()[0][:160] if str(e).strip() else type(e).__name__
            mend = f"set TFDS_DATA_DIR, or run `tfds build {name}` where there is a network"
            by_hand = getattr(builder, "MANUAL_DOWNLOAD_INSTRUCTIONS", None)
            if by_hand:
                mend = f"its files come by hand: {' '.join(by_hand.split())[:300]}"
            raise FileNotFoundError(
                f"TFDS has no {name} at {on_disk.directory_of(name)}, nor can it be had ({reason}): {mend}"
            ) from e
        return builder


ORIGIN = ("example_id", "split", "content")
"""What every row has besides its features; preprocessors hand it on."""


def _with_origin(row: dict[str, Any], split: str) -> dict[str, Any]:
    features = {name: value for name, value in row.items() if name != "tfds_id"}
    return {**features, "example_id": row["tfds_id"], "split": tf.constant(split), "content": content(features)}


def content(row: Mapping[str, Any]) -> tf.Tensor:
    """The two longest of a row's texts, the longest first: the same in data sets that call them otherwise.

    A list of texts is one text, texts within a feature count, and names, dates and numbers of rows do not.
    """
    texts = list(_texts(row))
    if not texts:
        return tf.constant("")
    stacked = tf.stack(texts)
    longest = tf.argsort(tf.strings.length(stacked), direction="DESCENDING", stable=True)[:2]
    return tf.strings.reduce_join(tf.gather(stacked, longest), separator="\n")


_NAMES = re.compile(r"(.*_)?(id|uid|idx|date|user|url|link|filename)|.*(Id|ID|Anonymized)")
"""Features that say which row it is, not what it holds."""


def _texts(row: Mapping[str, Any]) -> Iterator[tf.Tensor]:
    for name, value in row.items():
        if _NAMES.fullmatch(name):
            continue
        if isinstance(value, dict):
            yield from _texts(value)
        elif isinstance(value, tf.RaggedTensor) and value.dtype == tf.string:
            yield tf.strings.reduce_join(value.flat_values, separator=" ")
        elif isinstance(value, tf.Tensor) and value.dtype == tf.string:
            yield value if value.shape.rank == 0 else tf.strings.reduce_join(tf.reshape(value, [-1]), separator=" ")
