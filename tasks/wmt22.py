"""WMT22's general translation task, all 21 directions of its test set.

Tasks `wmt22_<source>_<target>` with T5's prompt ("translate English to German: ..."),
`wmt22_templates_<source>_<target>` with one of ten prompts, and the mixtures `wmt22` and `wmt22_templates`.

- `test` is sacreBLEU's wmt22 and `validation` its wmt21 (newstest2021), where there was one; all references, the
  original language and the document are raw fields. The metrics' references are the ones that `sacrebleu -t wmt22`
  takes, so figures compare with published ones.
- `train` is what `mtdata get-recipe -ri <recipe> -o $WMT22_MTDATA_DIR/<recipe>` has fetched, where it has, else TFDS's
  wmt19_translate. A direction that has neither is for evaluation only, which `cat-jax tasks` shows.
- Segment scores of a neural metric (COMET, MetricX) are read from the file that `WMT22_SEGMENT_SCORES` names, if it is
  set, and are the headline then: see `metrics.segments`.
"""

from __future__ import annotations

import functools
import itertools
import logging
import os
import pathlib
from collections.abc import Iterator, Sequence
from typing import Any

import sacrebleu
import seqio
import tensorflow as tf
from cat_jax_tasks import catalog, on_disk, rates
from cat_jax_tasks.metrics import segments, texts
from cat_jax_tasks.parallel_text import ParallelText
from cat_jax_tasks.templates import Renderer, Template
from cat_jax_tasks.tfds_source import TfdsSource, as_written
from cat_jax_tasks.vocabulary import text_features

logger = logging.getLogger(__name__)

CAP = 1_000_000
"""Training examples of a direction that its rate in the mixtures counts, at most."""


class Wmt22Source(seqio.DataSource):
    """One direction. A row has texts `source` and `target`, `references` (those of the metric), `all_references` and
    their names, `origlang`, `document`; empty where the split does not know them.

    Args:
      direction: such as `en-de`.
      only: the splits to have of those that there are; None for all.
    """

    def __init__(self, direction: str, only: Sequence[str] | None = None):
        self._direction = direction
        self._table = catalog.read("wmt22.toml")["directions"][direction]
        self._mtdata = mtdata_files(direction)
        self._tfds = None
        if self._mtdata is None and "tfds" in self._table:
            self._tfds = TfdsSource(f"wmt19_translate/{self._table['tfds']}:1.0.0", {"train": "train"})
        splits = ["train"] if self._mtdata or self._tfds else []
        splits += ["validation"] if self._table.get("validation") else []
        super().__init__(splits=[split for split in (*splits, "test") if only is None or split in only])

    def only(self, splits: Sequence[str]) -> Wmt22Source:
        """The same without its other splits."""
        return Wmt22Source(self._direction, splits)

    @property
    def supports_arbitrary_sharding(self) -> bool:
        return True

    def list_shards(self, split: str) -> list[str]:
        return self._tfds.list_shards(split) if split == "train" and self._tfds else [split]

    def num_input_examples(self, split: str) -> int | None:
        if split == "test":
            return int(self._table["test"])
        if split == "train" and self._tfds is not None:
            _tell_of_tfds(self._direction)
            return self._tfds.num_input_examples(split)
        return len(self._text()) if split == "train" and self._mtdata else None

    def rows_at_hand(self, split: str) -> int | None:
        """Rows on this machine's disk, as far as they are counted; None where there is nothing."""
        if split == "train" and self._tfds is not None:
            return self._tfds.rows_at_hand(split)
        return self.num_input_examples(split)

    def get_dataset(
        self,
        split: str | None = None,
        shuffle: bool = True,
        seed: int | None = None,
        shard_info: seqio.ShardInfo | None = None,
        **unused: Any,
    ) -> tf.data.Dataset:
        if split == "train" and self._tfds is not None:
            rows = self._tfds.get_dataset(split, shuffle, seed, shard_info)
            return rows.map(as_written(self._of_tfds), num_parallel_calls=tf.data.AUTOTUNE)
        if split == "train":
            rows = self._of_mtdata(shard_info or seqio.ShardInfo(0, 1))
        else:
            rows = official_set("wmt22" if split == "test" else "wmt21", self._direction)
            rows = rows if shard_info is None else rows.shard(shard_info.num_shards, shard_info.index)
        return rows.map(as_written(lambda row: {**row, "split": tf.constant(split)}))

    def _of_tfds(self, row: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        source, target = self._direction.split("-")
        return {**_plain(row[source], row[target]), "example_id": row["example_id"], "split": row["split"]}

    def _of_mtdata(self, shard: seqio.ShardInfo) -> tf.data.Dataset:
        """A contiguous part of the files; pairs of which a side is empty are left out. Ids are numbers of lines."""
        text = self._text()
        start, stop = (len(text) * k // shard.num_shards for k in (shard.index, shard.index + 1))

        def blocks() -> Iterator[tuple[list[int], list[bytes], list[bytes]]]:
            numbered = zip(itertools.count(start), text.pairs(start, stop))
            while block := list(itertools.islice(numbered, 1024)):
                numbers, pairs = zip(*block, strict=True)
                yield list(numbers), *map(list, zip(*pairs, strict=True))

        signature = tuple(tf.TensorSpec([None], dtype) for dtype in (tf.int64, tf.string, tf.string))
        pairs = tf.data.Dataset.from_generator(blocks, output_signature=signature).unbatch()
        pairs = pairs.filter(lambda k, source, target: (source != "") & (target != ""))
        return pairs.map(
            as_written(lambda k, *pair: {**_plain(*pair), "example_id": tf.strings.as_string(k)}),
            num_parallel_calls=tf.data.AUTOTUNE,
        )

    def _text(self) -> ParallelText:
        assert self._mtdata is not None
        return ParallelText(*self._mtdata)


def _plain(source: tf.Tensor, target: tf.Tensor) -> dict[str, tf.Tensor]:
    nothing = tf.constant("")
    return {
        "source": source,
        "target": target,
        "references": target[None],
        "all_references": target[None],
        "reference_names": nothing[None],
        "origlang": nothing,
        "document": nothing,
    }


@functools.cache
def _tell_of_tfds(direction: str) -> None:
    """Whoever has set the variable does not expect other data."""
    if root := os.environ.get("WMT22_MTDATA_DIR"):
        recipe = catalog.read("wmt22.toml")["directions"][direction].get("recipe")
        words = "WMT22_MTDATA_DIR has no training files of %s (%s/%s/train.<language>): TFDS's wmt19_translate is taken"
        logger.warning(words, direction, root, recipe)


def official_set(name: str, direction: str) -> tf.data.Dataset:
    """A direction of one of sacreBLEU's test sets.

    Raises:
      FileNotFoundError: sacreBLEU has not cached it, and cannot fetch it.
    """
    dataset = sacrebleu.DATASETS[name]
    try:
        files = dict(zip(dataset.fieldnames(direction), dataset.get_files(direction), strict=True))
        official = [pathlib.Path(file) for file in dataset.get_reference_files(direction)]
    except (Exception, SystemExit) as e:
        reason = str(e).strip() or type(e).__name__
        mend = f"run `sacrebleu -t {name} -l {direction} --echo src` where there is a network, and set SACREBLEU"
        raise FileNotFoundError(f"sacreBLEU has no {name}/{direction} ({reason}): {mend}") from e
    # Not splitlines(), which also cuts at the separators that Unicode has within a text.
    texts_ = {field: pathlib.Path(file).read_bytes().decode() for field, file in files.items()}
    columns = {field: text.removesuffix("\n").split("\n") for field, text in texts_.items()}
    names = sorted(field for field in columns if field.partition(":")[0] == "ref")
    chosen = [field for field in names if pathlib.Path(files[field]) in official]
    count = len(columns["src"])
    empty = [""] * count
    return tf.data.Dataset.from_tensor_slices(
        {
            "source": columns["src"],
            "target": columns[chosen[0]],
            "references": list(zip(*(columns[field] for field in chosen), strict=True)),
            "all_references": list(zip(*(columns[field] for field in names), strict=True)),
            "reference_names": [[field.partition(":")[2] or "A" for field in names]] * count,
            "origlang": columns.get("origlang", empty),
            "document": columns.get("docid", empty),
            "example_id": [str(k) for k in range(count)],
        }
    )


def mtdata_files(direction: str) -> tuple[pathlib.Path, pathlib.Path] | None:
    """Where mtdata's merged training files of a direction lie; None if they do not."""
    tables = catalog.read("wmt22.toml")
    recipe = tables["directions"][direction].get("recipe")
    if recipe is None:
        return None
    codes = [tables["languages"][language][1] for language in direction.split("-")]
    return on_disk.mtdata_files(recipe, codes)


@seqio.map_over_dataset
@as_written
def prompted(row: dict[str, Any], renderer: Renderer, templates: int, source_language: str, target_language: str):
    """Inputs by one of the templates, chosen by the example's id."""
    fields = {
        "source": row["source"],
        "answer": row["target"],
        "source_language": tf.constant(source_language),
        "target_language": tf.constant(target_language),
    }
    which = tf.strings.to_hash_bucket_fast(row["example_id"], templates)
    inputs, targets = renderer(fields, which)
    kept = {name: value for name, value in row.items() if name != "target"}
    return {**kept, "inputs": inputs, "targets": targets, "content": row["source"]}


def _add(prefix: str, direction: str, prompts: list[str]) -> None:
    tables = catalog.read("wmt22.toml")
    source, target = direction.split("-")
    templates = [Template(prompt) for prompt in prompts]
    rows = Wmt22Source(direction)
    scored = segments.from_environment()
    tokenize = tables["directions"][direction].get("tokenize", "13a")
    seqio.TaskRegistry.add(
        f"{prefix}_{source}_{target}",
        source=rows,
        preprocessors=[
            functools.partial(
                prompted,
                renderer=Renderer(templates),
                templates=len(templates),
                source_language=tables["languages"][source][0],
                target_language=tables["languages"][target][0],
            ),
            seqio.preprocessors.tokenize,
            seqio.preprocessors.append_eos_after_trim,
        ],
        postprocess_fn=segments.references_of_source,
        metric_fns=[*scored, texts.SacreBleu(tokenize), texts.ChrF()],
        output_features=text_features(),
    )


_TABLES = catalog.read("wmt22.toml")
T5_PROMPT = "translate {source_language} to {target_language}: {source}"
for _prefix, _prompts in (("wmt22", [T5_PROMPT]), ("wmt22_templates", _TABLES["templates"]["straight"])):
    for _direction in _TABLES["directions"]:
        _add(_prefix, _direction, _prompts)
    seqio.MixtureRegistry.add(
        _prefix,
        [f"{_prefix}_{direction.replace('-', '_')}" for direction in _TABLES["directions"]],
        default_rate=rates.examples_up_to(CAP),
    )
