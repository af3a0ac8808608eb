"""Which vocabulary a folder's tokenizer is, where it says so in a way that a store does, too.

A store knows its vocabulary by a fingerprint (`data.fingerprint`), which can be told from a folder's files. SeqIO
appends its extra ids to the pieces of a SentencePiece model, and leaves the rest as it is. Of a tokenizer.json the
content counts, and which id ends a sequence: a chat model's store may have another end than its folder names first.
"""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from cat_jax.data.fingerprint import Known, vocabulary_fingerprint
from cat_jax.data.manifest import FEATURES
from cat_jax.data.tokenizer_files import TOKENIZER, TokenizerFiles, read_tokenizer
from cat_jax.errors import UserError
from cat_jax.files import fingerprint, read_json
from cat_jax.foreign.feeding import eos_ids_of

_MODELS = ("spiece.model", "tokenizer.model")
_PIECE, _VARINT, _FIXED64, _BYTES, _FIXED32 = 0x0A, 0, 1, 2, 5
_UNKNOWN, _CONTROL, _USER_DEFINED = 2, 3, 4
_TRAINER = 2
_ROLES = {"unk": (45, b"<unk>"), "bos": (46, b"<s>"), "eos": (47, b"</s>"), "pad": (48, b"<pad>")}
"""Of each role the field of a `TrainerSpec` that names its piece, and what it means by naming none."""

T5_EXTRA_IDS, BYTE_EXTRA_IDS = 100, 125
"""Sentinels that T5's and ByT5's tokenizers have."""

BYTE_IDS = 259
"""Padding, end of sequence, unknown, and a token for every byte."""

_BYT5_EOS_ID = 1
_BYT5 = "ByT5Tokenizer"
_DEFAULT_EXTRA_IDS = {"T5Tokenizer": T5_EXTRA_IDS, "T5TokenizerFast": T5_EXTRA_IDS, _BYT5: BYTE_EXTRA_IDS}


@dataclasses.dataclass(frozen=True)
class SentencePieces:
    """What SeqIO makes of a SentencePiece model's file; named as its vocabulary's attributes are, but for the last.

    `tokens` is the piece of each role that it has.
    """

    sp_model: bytes
    vocab_size: int
    eos_id: int
    unk_id: int
    extra_ids: int
    pad_id: int = 0
    tokens: Mapping[str, str] = dataclasses.field(default_factory=dict)


def vocabularies_of(folder: pathlib.Path) -> dict[str, Known]:
    """{feature: fingerprints of the vocabulary}, as `model.json` has them; empty where the folder does not say.

    Raises:
      UserError: a file of the tokenizer cannot be read.
    """
    names: list[str] = []
    for model in _MODELS:
        if (folder / model).is_file():
            pieces = read_pieces(folder / model, extra_ids_of(folder))
            names += [] if pieces is None else [vocabulary_fingerprint(pieces)]
    if (folder / TOKENIZER).is_file():
        names += _names_of_tokenizer(read_tokenizer(folder), _ends_of(folder))
    return dict.fromkeys(FEATURES, names[0] if len(names) == 1 else names) if names else {}


def _names_of_tokenizer(files: TokenizerFiles, more: Sequence[int]) -> list[str]:
    """The fingerprints of a tokenizer.json, one for each id that may end a sequence, and one for none.

    Args:
      files: the tokenizer.
      more: ids that may end one, beside that which it names.
    """
    ids = files.ids
    if not ids:
        return []
    ends: list[Any] = [ids.get(files.tokens.get("eos", "")), *more, None]
    content, size = fingerprint(files.content), max(ids.values()) + 1
    named = [fingerprint({"tokenizer": content, "vocab_size": size, "eos_id": end}) for end in dict.fromkeys(ends)]
    return list(dict.fromkeys(named))


@dataclasses.dataclass(frozen=True)
class ByteIds:
    """SeqIO's vocabulary of bytes; named as its attributes are."""

    extra_ids: int
    pad_id: int = 0
    eos_id: int = _BYT5_EOS_ID
    unk_id: int = 2

    @property
    def vocab_size(self) -> int:
        return BYTE_IDS + self.extra_ids

    def decode(self, ids: Sequence[int]) -> str:
        """Of bytes; other ids have no text."""
        return bytes(i - 3 for i in ids if 3 <= i < BYTE_IDS).decode(errors="ignore")


def byte_names(vocab_size: int) -> list[str]:
    """The fingerprints of the vocabularies of bytes for which a model of so many ids has room.

    With up to as many extra ids as ByT5 has, and with as many as there is room for.
    """
    room = vocab_size - BYTE_IDS
    counts = [*range(min(room, BYTE_EXTRA_IDS) + 1), *([room] if room > BYTE_EXTRA_IDS else [])]
    return [vocabulary_fingerprint(ByteIds(extra)) for extra in counts]


def names_at(source: pathlib.Path) -> list[str]:
    """The fingerprints of the vocabularies that a tokenizer's file or folder may stand for.

    With and without T5's extra ids, and ended by any special token.

    Raises:
      UserError: a file of the tokenizer cannot be read.
    """
    folder = source if source.is_dir() else source.parent
    models = [folder / name for name in _MODELS] if source.is_dir() else [source]
    names: list[str] = []
    for model in models:
        for extra in dict.fromkeys((0, T5_EXTRA_IDS, extra_ids_of(folder))):
            pieces = read_pieces(model, extra) if model.is_file() else None
            names += [] if pieces is None else [vocabulary_fingerprint(pieces)]
    if source.suffix == ".json" or (source / TOKENIZER).is_file():
        files = read_tokenizer(source)
        names += _names_of_tokenizer(files, [*_ends_of(folder), *(files.ids[text] for text in files.special)])
    return names


def id_count_of(folder: pathlib.Path) -> int | None:
    """How many ids a folder's tokenizer gives a meaning; None where there is no tokenizer that tells.

    Raises:
      UserError: a file of the tokenizer cannot be read.
    """
    if (folder / TOKENIZER).is_file():
        return max(read_tokenizer(folder).ids.values(), default=-1) + 1 or None
    for model in _MODELS:
        pieces = read_pieces(folder / model, extra_ids_of(folder)) if (folder / model).is_file() else None
        if pieces is not None:
            return pieces.vocab_size
    is_bytes = _settings_of(folder).get("tokenizer_class") == _BYT5
    return BYTE_IDS + extra_ids_of(folder) if is_bytes else None


def eos_id_of(folder: pathlib.Path) -> int | None:
    """The id that a folder's tokenizer ends a sequence with; None where it has none, or there is no tokenizer.

    Raises:
      UserError: a file of the tokenizer cannot be read.
    """
    if (folder / TOKENIZER).is_file():
        files = read_tokenizer(folder)
        return files.ids.get(files.tokens.get("eos", ""))
    for model in _MODELS:
        pieces = read_pieces(folder / model, 0) if (folder / model).is_file() else None
        if pieces is not None:
            return None if pieces.eos_id < 0 else pieces.eos_id
    return _BYT5_EOS_ID if _settings_of(folder).get("tokenizer_class") == _BYT5 else None


def _ends_of(folder: pathlib.Path) -> list[int]:
    """The ids that end a sequence by a folder's configurations."""
    found: list[int] = []
    for name in ("generation_config.json", "config.json"):
        if (folder / name).is_file():
            found += eos_ids_of(read_json(folder / name, "configuration", "copy the folder again"))
    return found


def extra_ids_of(folder: pathlib.Path) -> int:
    """How many ids a folder's tokenizer has beyond its model's pieces."""
    settings = _settings_of(folder)
    extra = settings.get("extra_ids")
    return extra if isinstance(extra, int) else _DEFAULT_EXTRA_IDS.get(str(settings.get("tokenizer_class")), 0)


def _settings_of(folder: pathlib.Path) -> dict[str, Any]:
    """Its tokenizer_config.json; empty if there is none."""
    path = folder / "tokenizer_config.json"
    settings = read_json(path, "tokenizer configuration", "copy the folder again") if path.is_file() else {}
    if not isinstance(settings, dict):
        raise UserError(f"{path} is no JSON object", "copy the folder again")
    return settings


def read_pieces(path: pathlib.Path, extra_ids: int) -> SentencePieces | None:
    """The vocabulary of a SentencePiece model with so many extra ids; None if the file is none.

    Args:
      path: a file with a serialised `ModelProto`.
      extra_ids: sentinels, which SeqIO numbers downwards.
    """
    data = path.read_bytes()
    at, pieces = 0, []
    try:
        while at < len(data) and data[at] == _PIECE:
            size, start = _varint(data, at + 1)
            pieces.append(_fields(data[start : start + size]))
            at = start + size
        unknown = next(i for i, piece in enumerate(pieces) if piece.get(3) == _UNKNOWN)
        trainer = _fields(_fields(data[at:]).get(_TRAINER, b""))
    except (IndexError, StopIteration, ValueError):
        return None
    # As the library finds them: by text, and what is not of that kind has no such role.
    special = {piece.get(1): i for i, piece in enumerate(pieces) if piece.get(3) in (_UNKNOWN, _CONTROL)}
    named = {role: trainer.get(field, usual) for role, (field, usual) in _ROLES.items()}
    ends = special.get(named["eos"], -1)
    tokens = {role: text.decode() for role, text in named.items() if text in special}
    added = b"".join(_piece(f"▁<extra_id_{i}>") for i in reversed(range(extra_ids)))
    model = data[:at] + added + data[at:]
    return SentencePieces(model, len(pieces) + extra_ids, ends, unknown, extra_ids, tokens=tokens)


def _piece(text: str) -> bytes:
    """A piece of score 0 that the user has defined, as protocol buffers have it."""
    encoded = text.encode()
    body = bytes([0x0A, len(encoded)]) + encoded + b"\x15\x00\x00\x00\x00" + bytes([0x18, _USER_DEFINED])
    return bytes([_PIECE, len(body)]) + body


def _fields(message: bytes) -> dict[int, Any]:
    """{field: value} of a message whose fields are not nested; 32-bit values are left out."""
    found, at = {}, 0
    while at < len(message):
        key, at = _varint(message, at)
        kind, field = key & 7, key >> 3
        if kind == _VARINT:
            found[field], at = _varint(message, at)
        elif kind == _BYTES:
            size, at = _varint(message, at)
            found[field], at = message[at : at + size], at + size
        elif kind in (_FIXED32, _FIXED64):
            at += 4 if kind == _FIXED32 else 8
        else:
            raise ValueError(f"no kind {kind} of field")
    return found


def _varint(data: bytes, at: int) -> tuple[int, int]:
    """(a whole number, where it ends)."""
    value = shift = 0
    while True:
        byte = data[at]
        value, shift, at = value | (byte & 0x7F) << shift, shift + 7, at + 1
        if byte < 0x80:
            return value, at
