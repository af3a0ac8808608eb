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
    """
    path = os.environ.get("CAT_JAX_VOCABULARY") or T5_VOCABULARY
    if path == "byte":
        return seqio.ByteVocabulary()
    if is_tokenizer(path):
        return _tokenizer(path)
    return seqio.SentencePieceVocabulary(path, extra_ids=int(os.environ.get("CAT_JAX_EXTRA_IDS", "100")))


_tokenizer = functools.cache(hugging_face_vocabulary)  # read once for all the tasks of a process


def text_features() -> dict[str, seqio.Feature]:
    """Inputs and targets of that vocabulary, each with its end-of-sequence token."""
    shared = vocabulary()
    return {name: seqio.Feature(shared, add_eos=True) for name in ("inputs", "targets")}
