"""The identity of a vocabulary: two vocabularies agree if every id means the same."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

from cat_jax.files import fingerprint

_LARGEST_TABLE = 1 << 20

Known = str | Sequence[str]
"""The fingerprint of a vocabulary; of a tokenizer that is there in several forms, or with several ends of sequence,
those of all."""


def names_of(known: Known) -> tuple[str, ...]:
    """All fingerprints.

    >>> names_of("ab"), names_of(["ab", "cd"])
    (('ab',), ('ab', 'cd'))
    """
    return (known,) if isinstance(known, str) else tuple(known)


def is_known_as(known: Known, fingerprint: str) -> bool:
    """Whether a store's vocabulary is one of those.

    >>> is_known_as("ab", "ab"), is_known_as(["ab", "cd"], "cd"), is_known_as(["ab"], "a")
    (True, True, False)
    """
    return fingerprint in names_of(known)


def in_short(known: Known) -> str:
    """For messages.

    >>> in_short("0123456789abcdef"), in_short(["0123456789abcdef", "cd"])
    ('0123456789ab', '0123456789ab (or 1 other)')
    """
    first, *others = names_of(known)
    more = len(others)
    return first[:12] + (f" (or {more} other{'s' if more > 1 else ''})" if more else "")


def vocabulary_fingerprint(vocabulary: Any) -> str:
    """SHA-256 of what a SeqIO vocabulary's ids mean, not of where its file lies or what its class is called.

    A SentencePiece model is hashed as it is after SeqIO has added extra ids and normaliser overrides; a tokenizer.json
    by what is in it, however it is laid out, without what is put around texts, and by the id of its end of sequence;
    other vocabularies by the text of every single id.
    """
    known = _KNOWN.get(id(vocabulary))
    if known is None or known[0] is not vocabulary:
        known = _KNOWN[id(vocabulary)] = (vocabulary, _fingerprint(vocabulary))
    return known[1]


# Most SeqIO vocabularies cannot be hashed, and many tasks share one: the few there are are kept by identity.
_KNOWN: dict[int, tuple[Any, str]] = {}


def _fingerprint(vocabulary: Any) -> str:
    identity = getattr(vocabulary, "identity", None)
    if identity is not None:
        return fingerprint(identity)
    model = getattr(vocabulary, "sp_model", None)
    meaning = hashlib.sha256(model).hexdigest() if isinstance(model, bytes) else _texts(vocabulary)
    ids = {name: getattr(vocabulary, name, None) for name in ("vocab_size", "eos_id", "pad_id", "unk_id", "extra_ids")}
    return fingerprint({"meaning": meaning, **ids})


def _texts(vocabulary: Any) -> list[str]:
    size = vocabulary.vocab_size
    if size > _LARGEST_TABLE:  # all codepoints of Unicode, and the like: a rule, not a table
        return [type(vocabulary).__qualname__]
    texts = []
    for i in range(size):
        try:
            texts.append(str(vocabulary.decode([i])))
        except (IndexError, KeyError, ValueError):
            texts.append("")
    return texts
