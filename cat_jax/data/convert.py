"""From a SeqIO example to a record: tokens checked and trimmed, everything else kept as plain values."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from cat_jax.data.manifest import Recipe
from cat_jax.data.record import Example
from cat_jax.errors import DataError

CONTENT = "content"
"""The raw field by which `data.overlap` knows a row; records do not keep it."""


def plain(value: Any) -> Any:
    """A NumPy or ragged value as JSON-able strings, numbers, booleans and lists of them.

    >>> plain(np.array([b"a", "é".encode()], object)), plain(np.int64(3)), plain(b"x")
    (['a', 'é'], 3, 'x')
    """
    if hasattr(value, "to_list"):  # a ragged tensor
        return plain(value.to_list())
    if isinstance(value, np.ndarray | np.generic):
        return plain(value.tolist())
    if isinstance(value, bytes):
        return value.decode("utf-8", "backslashreplace")
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return value


class Converter:
    """Turns the k-th element of a shard into an example.

    Args:
      recipe: of the store.
      shard: which shard the elements come from.
      vocabularies: SeqIO's, by feature; they give raw fields the text of features that kept none.
    """

    def __init__(self, recipe: Recipe, shard: int, vocabularies: Mapping[str, Any]):
        self._recipe, self._shard, self._vocabularies = recipe, shard, vocabularies

    def __call__(self, k: int, element: Mapping[str, Any]) -> tuple[Example, tuple[str, ...]]:
        """The example, and the features that were cut to their length.

        Raises:
          DataError: an empty target, a token id beyond the vocabulary or that is nothing but padding, or a feature that
            is no sequence of ids.
        """
        if "example_id" in element:
            example_id = str(plain(element["example_id"]))
        else:
            example_id = str(k * self._recipe.num_shards + self._shard)
        tokens, trimmed = {}, []
        for name in self._recipe.features:
            ids = np.asarray(element[name])
            self._check(name, ids, example_id)
            limit = self._recipe.feature_lengths[name]
            if len(ids) > limit:
                trimmed.append(name)
            tokens[name] = ids[:limit].astype(np.int32)
        raw = self._raw(element, tokens) if self._recipe.keep_raw else None
        return Example(example_id, tokens.get("inputs"), tokens["targets"], raw), tuple(trimmed)

    def _check(self, name: str, ids: np.ndarray, example_id: str) -> None:
        task = self._recipe.task
        where = f"example {example_id} of task {task!r}, split {self._recipe.split!r}"
        if ids.ndim != 1 or ids.dtype.kind not in "iu":
            problem = f"{name!r} of {where} is {ids.dtype}{list(ids.shape)}, not a sequence of token ids"
            raise DataError(problem, "add seqio.preprocessors.tokenize to the task", task)
        if name == "targets" and not len(ids):
            raise DataError(
                f"{where} has an empty target", "filter such examples, or append an end-of-sequence token", task
            )
        size = self._recipe.features[name].vocab_size
        if len(ids) and (ids.max() >= size or ids.min() < 0):
            bad = ids[(ids >= size) | (ids < 0)][0]
            problem = f"{name!r} of {where} holds the token id {bad}, but its vocabulary has {size}"
            raise DataError(problem, "give the feature the vocabulary that tokenises it, with its extra_ids", task)
        if not self._recipe.features[name].zero_is_token and not ids.all():
            problem = f"{name!r} of {where} holds id 0 at position {int(np.argmin(ids != 0))}, and id 0 is padding"
            raise DataError(
                problem,
                "drop it in the task's preprocessors, or use a vocabulary that has another pad_id, or None",
                task,
            )

    def _raw(self, element: Mapping[str, Any], tokens: Mapping[str, np.ndarray]) -> dict[str, Any]:
        raw = {name: plain(value) for name, value in element.items() if name not in self._recipe.features}
        for name in ("example_id", CONTENT):
            raw.pop(name, None)
        for name, ids in tokens.items():
            # SeqIO's metrics fall back to the decoded tokens where the text was not kept; so do we, once, here.
            if f"{name}_pretokenized" not in raw:
                raw[f"{name}_pretokenized"] = plain(self._vocabularies[name].decode(ids.tolist()))
        return dict(sorted(raw.items()))
