"""The vocabularies of a store root, each in a file named by its fingerprint: enough to encode again without SeqIO.

    vocabularies/<fingerprint>.json

Stores name their vocabularies by fingerprint alone, which tells two apart and says nothing of either. Signals are
carried from one to another by text (`teacher.aligned`), and for that both must be at hand.
"""

from __future__ import annotations

import base64
import os
import pathlib
from collections.abc import Iterable, Mapping
from typing import Any

from cat_jax.data.fingerprint import vocabulary_fingerprint
from cat_jax.errors import UserError
from cat_jax.files import fingerprint, read_json, write_json

BYTE, SENTENCEPIECE, TOKENIZER = "byte", "sentencepiece", "tokenizer.json"


def vocabulary_path(root: str | os.PathLike, vocabulary: str) -> pathlib.Path:
    """The file of the vocabulary of a fingerprint."""
    return pathlib.Path(root) / "vocabularies" / f"{vocabulary}.json"


def save_vocabularies(root: str | os.PathLike, vocabularies: Iterable[Any]) -> None:
    """Writes the files of SeqIO vocabularies; those that are there, and kinds that are not known, are left.

    Raises:
      UserError: the directory cannot be written.
    """
    for vocabulary in vocabularies:
        name = vocabulary_fingerprint(vocabulary)
        fields = None if vocabulary_path(root, name).exists() else _describe(vocabulary)
        if fields is not None:
            write_vocabulary(root, name, fields)


def write_vocabulary(root: str | os.PathLike, vocabulary: str, fields: Mapping[str, Any]) -> None:
    """Writes the file of the vocabulary of a fingerprint: fields as `read_vocabulary` gives them."""
    write_json(vocabulary_path(root, vocabulary), {**fields, "checksum": fingerprint(fields)})


def read_vocabulary(root: str | os.PathLike, vocabulary: str) -> Mapping[str, Any]:
    """The fields of a vocabulary's file: "kind" is one of the three above, the others are that kind's.

    Raises:
      UserError: there is none, or it was changed.
    """
    path = vocabulary_path(root, vocabulary)
    if not path.exists():
        raise UserError(
            f"{pathlib.Path(root)} does not say what its vocabulary {vocabulary[:12]} is (no {path})",
            "run `cat-jax prepare` there again, which adds it to finished stores; SentencePiece models, tokenizer.json "
            "and bytes can be kept",
        )
    fields = dict(read_json(path, "vocabulary", "delete it, and run `cat-jax prepare` again"))
    if fields.pop("checksum", None) != fingerprint(fields):
        raise UserError(f"the vocabulary {path} was changed", "delete it, and run `cat-jax prepare` again")
    return fields


def _describe(vocabulary: Any) -> dict[str, Any] | None:
    model = getattr(vocabulary, "sp_model", None)
    if isinstance(model, bytes):
        return {"kind": SENTENCEPIECE, "model": base64.b64encode(model).decode()}
    content = getattr(vocabulary, "tokenizer_json", None)
    if content is not None:
        return {"kind": TOKENIZER, "content": content}
    kind = type(vocabulary)
    is_byte = kind.__name__ == "ByteVocabulary" and kind.__module__.startswith("seqio.")
    return {"kind": BYTE} if is_byte else None
