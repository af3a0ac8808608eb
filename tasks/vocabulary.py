"""The vocabulary of the tasks that come with cat-jax: T5's, or the one that `CAT_JAX_VOCABULARY` names."""

from __future__ import annotations

import os

import seqio

T5_VOCABULARY = "gs://t5-data/vocabs/cc_all.32000/sentencepiece.model"


def vocabulary() -> seqio.Vocabulary:
    """T5's SentencePiece vocabulary with its 100 sentinels, or what the environment names.

    `CAT_JAX_VOCABULARY` is a SentencePiece model or `byte` (ByT5's), `CAT_JAX_EXTRA_IDS` how many sentinels follow its
    pieces (100). The model is read when it is first needed.
    """
    path = os.environ.get("CAT_JAX_VOCABULARY") or T5_VOCABULARY
    if path == "byte":
        return seqio.ByteVocabulary()
    return seqio.SentencePieceVocabulary(path, extra_ids=int(os.environ.get("CAT_JAX_EXTRA_IDS", "100")))


def text_features() -> dict[str, seqio.Feature]:
    """Inputs and targets of that vocabulary, each with its end-of-sequence token."""
    shared = vocabulary()
    return {name: seqio.Feature(shared, add_eos=True) for name in ("inputs", "targets")}
