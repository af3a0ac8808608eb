"""The vocabulary of the tasks that come with cat-jax: T5's, or the one that `CAT_JAX_VOCABULARY` names."""

from __future__ import annotations

import functools
import os

import seqio

from cat_jax.data.hugging_face import hugging_face_vocabulary
from cat_jax.data.tokenizer_files import is_tokenizer

T5_VOCABULARY = "gs://t5-data/vocabs/cc_all.32000/sentencepiece.model"


def vocabulary() -> seqio.Vocabulary:
    """T5's SentencePiece vocabulary with its 100 sentinels, or what the environment names.

    `CAT_JAX_VOCABULARY` is a SentencePiece model, which is read when it is first needed, a `tokenizer.json` of Hugging
    Face or the folder that has one, or `byte` (ByT5's). `CAT_JAX_EXTRA_IDS` says how many sentinels follow a
    SentencePiece model's pieces (100).

    Raises:
      FileNotFoundError, ValueError: a variable names no file, or no number.
    """
    path = os.environ.get("CAT_JAX_VOCABULARY") or T5_VOCABULARY
    if path == "byte":
        return seqio.ByteVocabulary()
    if is_tokenizer(path):
        return _tokenizer(path)
    if "://" not in path and not os.path.isfile(path):
        raise FileNotFoundError(f"CAT_JAX_VOCABULARY names {path}, where there is no file")
    extra_ids = os.environ.get("CAT_JAX_EXTRA_IDS", "100")
    if not extra_ids.isdecimal():
        raise ValueError(f"CAT_JAX_EXTRA_IDS is {extra_ids!r}, and counts the sentinels of the vocabulary")
    return seqio.SentencePieceVocabulary(path, extra_ids=int(extra_ids))


_tokenizer = functools.cache(hugging_face_vocabulary)  # read once for all the tasks of a process


def text_features() -> dict[str, seqio.Feature]:
    """Inputs and targets of that vocabulary, each with its end-of-sequence token."""
    shared = vocabulary()
    return {name: seqio.Feature(shared, add_eos=True) for name in ("inputs", "targets")}
