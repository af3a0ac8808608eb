"""The options that an example lists, as the model would have to write them."""

from __future__ import annotations

import functools

import numpy as np

from cat_jax.data import seqio_task
from cat_jax.data.store import ExampleStore
from cat_jax.errors import UserError

FIELD = "options"
"""The raw field, a list of texts, that a task leaves in its examples for rank classification."""


def has_options(store: ExampleStore) -> bool:
    """Whether the examples of a store list options (judged by the first)."""
    raw = store[0].raw if len(store) else None
    return bool(raw and raw.get(FIELD))


def encode_options(store: ExampleStore) -> list[list[np.ndarray]]:
    """For each example the token ids of each option, with an end-of-sequence token where targets have one.

    The module that registers the task must be loaded.

    Raises:
      UserError: an example without options.
    """
    vocabulary = seqio_task.vocabulary(store.task)
    feature = store.manifest.features["targets"]
    end = [feature.eos_id] if feature.add_eos else []

    @functools.cache
    def encode(text: str) -> np.ndarray:
        return np.array([*vocabulary.encode(text), *end], np.int32)

    found = []
    for example in store:
        options = (example.raw or {}).get(FIELD)
        if not isinstance(options, list) or not options:
            raise UserError(
                f"example {example.example_id} of {store.task} ({store.split}) lists no options to choose from",
                f"give the task a feature {FIELD!r}, a list of texts, or evaluate with mode='generate'",
            )
        found.append([encode(str(option)) for option in options])
        if not all(map(len, found[-1])):
            raise UserError(
                f"example {example.example_id} of {store.task} ({store.split}) has an option without a single token",
                "leave empty options out of the task, or evaluate with mode='generate'",
            )
    return found
