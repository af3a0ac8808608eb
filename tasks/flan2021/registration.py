"""Registers the data sets of the templates' files as SeqIO tasks, and their mixtures."""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable, Mapping
from typing import Any

import seqio
import tensorflow as tf
from cat_jax_tasks import catalog, rates
from cat_jax_tasks.flan2021.prompts import Prompts
from cat_jax_tasks.flan2021.views.fields import option_at
from cat_jax_tasks.metrics.registry import scoring
from cat_jax_tasks.tfds_source import TfdsSource
from cat_jax_tasks.vocabulary import text_features

View = Callable[[Mapping[str, Any]], dict[str, tf.Tensor]]


def view_of(entry: catalog.Entry) -> View:
    """The function that makes the fields of a row of a data set.

    Raises:
      ValueError: its table names a view that there is not, or neither a view nor a label.
    """
    file, name = entry.details["file"], entry.details.get("view")
    if name is not None:
        views = importlib.import_module(f"cat_jax_tasks.flan2021.views.{file}")
        view = getattr(views, name, None)
        if view is None:
            raise ValueError(f"{entry.name} names the view {name!r}, and views/{file}.py has none")
        return view
    if "label" not in entry.details:
        raise ValueError(f"{entry.name} has neither a view nor a label in {file}.toml")
    return functools.partial(labelled, **entry.details["label"])


def labelled(
    row: Mapping[str, Any], feature: str, options: tuple[str, ...] = (), option_fields: tuple[str, ...] = ()
) -> dict[str, tf.Tensor]:
    """A row's texts as they are, and the text of its label, "" where that is hidden.

    Args:
      row: of TFDS.
      feature: the label, an integer.
      options: texts of the labels, or
      option_fields: the features that hold them.
    """
    texts = {name: value for name, value in row.items() if isinstance(value, tf.Tensor) and value.dtype == tf.string}
    choices = tf.stack([row[name] for name in option_fields]) if option_fields else tf.constant(list(options))
    return {
        **{name: value for name, value in texts.items() if value.shape.rank == 0},
        "options": choices,
        "answer": option_at(choices, row[feature]),
    }


def _add(entry: catalog.Entry) -> None:
    how = scoring(entry.metrics)
    seqio.TaskRegistry.add(
        entry.name,
        source=TfdsSource(entry.source, entry.splits),
        preprocessors=[
            Prompts(entry, view_of(entry)),
            seqio.preprocessors.tokenize,
            seqio.preprocessors.append_eos_after_trim,
        ],
        postprocess_fn=how.postprocess,
        metric_fns=list(how.functions),
        output_features=text_features(),
    )


for _entry in catalog.flan2021():
    _add(_entry)
for _mixture in catalog.of_flan2021():
    seqio.MixtureRegistry.add(
        _mixture.name, list(_mixture.tasks), default_rate=rates.examples_up_to(catalog.FLAN2021_CAP)
    )
