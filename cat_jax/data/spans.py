"""Which characters of a text each of its tokens stands for, as the vocabulary's own library tells it."""

from __future__ import annotations

import base64
import dataclasses
import os
from collections.abc import Iterator
from typing import Any, Protocol

import numpy as np

from cat_jax.data.hugging_face import load_tokenizer
from cat_jax.data.vocabulary_file import BYTE, SENTENCEPIECE, read_vocabulary
from cat_jax.errors import UserError

_BYTE_OFFSET = 3
"""Ids of seqio.ByteVocabulary that are no bytes: padding, end of sequence, unknown."""


@dataclasses.dataclass(frozen=True)
class Spans:
    """The tokens of one text, in order; token i is made of its characters [starts[i], ends[i]), which may be none."""

    ids: np.ndarray  # i64[N]
    starts: np.ndarray  # i64[N]
    ends: np.ndarray  # i64[N]

    def __post_init__(self):
        assert len(self.ids) == len(self.starts) == len(self.ends)


class SpanEncoder(Protocol):
    """A vocabulary that says where its tokens come from."""

    unk_id: int | None
    """What stands for characters that the vocabulary has no token for."""

    def encode(self, text: str) -> Iterator[Spans]:
        """The ways in which a SeqIO vocabulary of this kind may have encoded `text`, the usual one first."""
        ...


def open_encoder(root: str | os.PathLike, vocabulary: str) -> SpanEncoder:
    """The encoder of the vocabulary of a fingerprint, from the file that `prepare` left in the store root.

    Raises:
      UserError: there is no such file, or the library that reads it is not installed.
    """
    fields = read_vocabulary(root, vocabulary)
    if fields["kind"] == BYTE:
        return Bytes()
    if fields["kind"] == SENTENCEPIECE:
        return SentencePiece(base64.b64decode(fields["model"]))
    return TokenizerJson(fields["content"])


class Bytes:
    """ByT5's: every byte of UTF-8 is a token, and several may share a character."""

    unk_id: int | None = None

    def encode(self, text: str) -> Iterator[Spans]:
        encoded = np.frombuffer(text.encode(), np.uint8).astype(np.int64)
        starts = np.cumsum((encoded & 0xC0) != 0x80) - 1  # a character's further bytes begin with the bits 10
        yield Spans(encoded + _BYTE_OFFSET, starts, starts + 1)


class SentencePiece:
    """A SentencePiece model. What its normaliser drops or turns into a space belongs to the piece that it became."""

    def __init__(self, model: bytes):
        try:
            import sentencepiece
            from sentencepiece import sentencepiece_pb2
        except ImportError as e:
            raise UserError(f"cannot import sentencepiece ({e})", "pip install 'cat-jax[data]'") from e
        self._processor = sentencepiece.SentencePieceProcessor()
        self._processor.LoadFromSerializedProto(model)
        self._parse: Any = sentencepiece_pb2.SentencePieceText.FromString  # pyright: ignore[reportAttributeAccessIssue]
        self.unk_id: int | None = self._processor.unk_id()  # pyright: ignore[reportAttributeAccessIssue]

    def encode(self, text: str) -> Iterator[Spans]:
        pieces = self._parse(self._processor.EncodeAsSerializedProto(text)).pieces
        ids, starts, ends = np.array([(p.id, p.begin, p.end) for p in pieces], np.int64).reshape(-1, 3).T
        encoded = np.frombuffer(text.encode(), np.uint8)
        before = np.concatenate([[0], np.cumsum((encoded & 0xC0) != 0x80)])  # characters that begin before a byte
        yield Spans(ids, before[starts], before[ends])


class TokenizerJson:
    """A tokenizer of Hugging Face. The name of a special token may have been read as letters, or as that token."""

    def __init__(self, content: Any):
        self._tokenizers = [load_tokenizer(content, special, "a tokenizer.json") for special in ("text", "token")]
        model = content["model"]
        unknown = model.get("unk_token")
        # Not what a configuration calls unknown: that may be any token, as the end of sequence.
        self.unk_id: int | None = model.get("unk_id") if unknown is None else self._tokenizers[0].token_to_id(unknown)

    def encode(self, text: str) -> Iterator[Spans]:
        for tokenizer in self._tokenizers:
            encoding = tokenizer.encode(text, add_special_tokens=False)
            offsets = np.array(encoding.offsets, np.int64).reshape(-1, 2)
            yield Spans(np.array(encoding.ids, np.int64), offsets[:, 0], offsets[:, 1])
