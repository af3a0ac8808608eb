"""From word to sound and back: four SeqIO tasks on real lexicons that need no download beyond pip.

`pronunciation` is a mixture of words to phonemes in English, German and French and English phonemes to spelling.
A question with several right answers counts as right if any of them is given; training uses the first.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import seqio
import tensorflow as tf
from cat_jax_tasks import lexicon
from cat_jax_tasks.symbols import SymbolVocabulary

SPLITS = {"test": 1_500, "validation": 1_500, "train": 45_000}
"""Rows per split; slices, in this order, of the entries sorted by a stable hash."""

_PROMPTS = ("say-en:", "say-de:", "say-fr:", "spell-en:")
VOCABULARY = SymbolVocabulary([*_PROMPTS, *lexicon.LETTERS, *(p for p in lexicon.PHONEMES if p not in lexicon.LETTERS)])
FEATURES = {
    "inputs": seqio.Feature(vocabulary=VOCABULARY, add_eos=True),
    "targets": seqio.Feature(vocabulary=VOCABULARY, add_eos=True),
}


@functools.cache
def questions(prompt: str) -> tuple[tuple[str, tuple[str, ...]], ...]:
    """All (question, right answers) of a prompt, in the order of a stable hash; symbols separated by spaces."""
    verb, language = prompt.rstrip(":").split("-")
    entries = lexicon.pronunciations(language) if verb == "say" else lexicon.spellings(language)
    spaced = (lambda text: " ".join(text)) if verb == "say" else (lambda text: text)
    answer = (lambda text: text) if verb == "say" else (lambda text: " ".join(text))
    ordered = sorted(entries, key=lambda question: lexicon.order_key(prompt, question))
    return tuple((f"{prompt} {spaced(q)}", tuple(answer(a) for a in entries[q])) for q in ordered)


def dataset(split: str, shuffle_files: bool, seed: int | None = None, *, prompt: str) -> tf.data.Dataset:
    """The rows {question, answers} of a split; the order is already a shuffle of the alphabet."""
    del shuffle_files, seed
    names = list(SPLITS)
    start = sum(SPLITS[name] for name in names[: names.index(split)])
    rows = questions(prompt)[start : start + SPLITS[split]]
    return tf.data.Dataset.from_tensor_slices(
        {"question": [q for q, _ in rows], "answers": tf.ragged.constant([list(a) for _, a in rows])}
    )


def to_text_to_text(dataset: tf.data.Dataset) -> tf.data.Dataset:
    """The first answer is the target; all of them stay for the metric."""
    return dataset.map(
        lambda row: {"inputs": row["question"], "targets": row["answers"][0], "answers": row["answers"]},
        num_parallel_calls=tf.data.AUTOTUNE,
    )


def accepted_answers(output: str, example: Mapping[str, Any] | None = None, is_target: bool = False) -> Any:
    """A prediction as it is; a target as the list of all right answers."""
    if not is_target:
        return output
    assert example is not None
    return [a.decode() if isinstance(a, bytes) else str(a) for a in example["answers"]]


def accuracy(targets: Sequence[Sequence[str]], predictions: Sequence[str]) -> dict[str, float]:
    """Percentage of predictions that are one of the right answers.

    >>> accuracy([["ə d", "æ d"], ["t u"]], ["æ d", "t oʊ"])
    {'accuracy': 50.0}
    """
    right = sum(prediction in accepted for accepted, prediction in zip(targets, predictions, strict=True))
    return {"accuracy": 100.0 * right / len(targets)}


def _add(prompt: str) -> str:
    name = "pronunciation_" + prompt.rstrip(":").replace("-", "_")
    seqio.TaskRegistry.add(
        name,
        source=seqio.FunctionDataSource(
            dataset_fn=functools.partial(dataset, prompt=prompt), splits=list(SPLITS), num_input_examples=SPLITS
        ),
        preprocessors=[to_text_to_text, seqio.preprocessors.tokenize, seqio.preprocessors.append_eos],
        postprocess_fn=accepted_answers,
        metric_fns=[accuracy],
        output_features=FEATURES,
    )
    return name


seqio.MixtureRegistry.add("pronunciation", [_add(prompt) for prompt in _PROMPTS], default_rate=1.0)
