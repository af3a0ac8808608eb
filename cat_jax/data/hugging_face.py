"""Tokenizers of Hugging Face (`tokenizer.json`) as SeqIO vocabularies, by the `tokenizers` library alone."""

from __future__ import annotations

import functools
import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from cat_jax.data.seqio_task import import_seqio
from cat_jax.data.tokenizer_files import ROLES, TokenizerFiles, read_tokenizer, whole_json
from cat_jax.errors import UserError
from cat_jax.files import fingerprint

AS_FILED = "as filed"
"""Stands for the token that the tokenizer's files name."""

SPELLED = ("text", "token")


def hugging_face_vocabulary(
    path: str | os.PathLike,
    *,
    eos: str | int | None = AS_FILED,
    bos: str | int | None = AS_FILED,
    unk: str | int | None = AS_FILED,
    pad: str | int | None = AS_FILED,
    special: str = "text",
) -> Any:
    """A `seqio.Vocabulary` over a `tokenizer.json`, which needs neither torch nor transformers.

    Texts are encoded as they are: nothing is put around them, whatever the file's post-processor would. Decoding leaves
    special tokens out. An id that is no padding alone may be 0: see docs/data.md on what that means.

    Args:
      path: the file, or the folder that holds it, whose tokenizer_config.json, special_tokens_map.json and
        chat_template.jinja are read, too.
      eos: the end-of-sequence token: its text or id; None for a vocabulary without; by default the one that the files
        name. Likewise `bos`, `unk` (what ids that do not exist are decoded as) and `pad`, which may all be missing.
      bos: the token at the beginning of a sequence.
      unk: the token of what has none.
      pad: the token of padding; batches are filled up with id 0 all the same.
      special: what the name of a special token within a text is: "text", letters as any others, so that no text can
        end itself; or "token", that token, as `transformers` has it and as rendered chats need it.

    Returns:
      The vocabulary; `chat_template` and `special_tokens` {role: text} are what the files say.

    Raises:
      UserError: there is no such file; it names no end of sequence; a token is not in it; `tokenizers` is not
        installed.
    """
    if special not in SPELLED:
        raise UserError(f"special is {special!r}", f"choose one of {', '.join(SPELLED)}")
    files = read_tokenizer(path)
    return _vocabulary_class()(files, {"eos": eos, "bos": bos, "unk": unk, "pad": pad}, special)


def load_tokenizer(content: Mapping[str, Any], special: str, where: str) -> Any:
    """The `tokenizers.Tokenizer` of a `TokenizerFiles.content`; `where` it is from is for messages.

    Raises:
      UserError: the library is not installed, or cannot read it.
    """
    try:
        import tokenizers  # pyright: ignore[reportMissingImports]
    except ImportError as e:
        raise UserError(f"cannot import tokenizers ({e})", "pip install 'cat-jax[tokenizers]'") from e
    try:
        tokenizer = tokenizers.Tokenizer.from_str(whole_json(content))
    except Exception as e:  # the library raises nothing narrower
        mend = "write the file anew, or install the version of `tokenizers` that wrote it"
        raise UserError(f"tokenizers cannot read {where} ({e})", mend) from e
    tokenizer.encode_special_tokens = special == "text"
    return tokenizer


class _Ids:
    """The ids of a tokenizer's roles, from what was asked for and what the files name."""

    def __init__(self, tokenizer: Any, files: TokenizerFiles, asked: Mapping[str, str | int | None]):
        self._tokenizer, self._files = tokenizer, files
        self.size = max(tokenizer.get_vocab(with_added_tokens=True).values()) + 1
        self.of = {role: self._find(role, asked[role]) for role in ROLES}

    def _find(self, role: str, asked: str | int | None) -> int | None:
        path, filed = self._files.path, self._files.tokens.get(role)
        token = filed if asked == AS_FILED else asked
        if token is None and role == "eos" and asked is not None:
            mend = "name it in tokenizer_config.json (eos_token), or give eos='</s>' or whatever it is; None for none"
            raise UserError(f"{path} names no end-of-sequence token", mend)
        if token is None or isinstance(token, int):
            if token is not None and not 0 <= token < self.size:
                raise UserError(f"{role}={token} is no id of {path}, which has {self.size}", "give an id or a text")
            return token
        found = self._tokenizer.token_to_id(token)
        if found is None and (role == "eos" or asked != AS_FILED):  # configurations may name what nothing needs
            where = "its configuration names" if asked == AS_FILED else "was asked for"
            raise UserError(f"{path} has no token {token!r}, which {where} as {role}", f"give {role} another token")
        return found


@functools.cache
def _vocabulary_class() -> type:
    """The class, made when it is first asked for: SeqIO takes ten seconds to import."""
    seqio = import_seqio()
    import tensorflow as tf

    as_it_is = tf.autograph.experimental.do_not_convert

    class HuggingFaceVocabulary(seqio.Vocabulary):
        """See `hugging_face_vocabulary`."""

        def __init__(self, files: TokenizerFiles, asked: Mapping[str, str | int | None], special: str):
            super().__init__()
            self.tokenizer = load_tokenizer(files.content, special, files.path)
            self._made_of, self._ids = (files, dict(asked), special), _Ids(self.tokenizer, files, asked)
            self.special, self.chat_template, self.tokenizer_json = special, files.chat_template, files.content
            self.special_texts = files.special
            ids = {role: i for role, i in self._ids.of.items() if i is not None}
            self.special_tokens = {role: self.tokenizer.id_to_token(i) for role, i in ids.items()}

        @functools.cached_property
        def identity(self) -> dict[str, Any]:
            """What decides the meaning of ids; JSON-able."""
            content = fingerprint(self.tokenizer_json)
            return {"tokenizer": content, "vocab_size": self.vocab_size, "eos_id": self.eos_id}

        eos_id = property(lambda self: self._ids.of["eos"])
        bos_id = property(lambda self: self._ids.of["bos"])
        unk_id = property(lambda self: self._ids.of["unk"])
        pad_id = property(lambda self: self._ids.of["pad"])
        _base_vocab_size = property(lambda self: self._ids.size)

        def _encode(self, s: str | bytes) -> Sequence[int]:
            return _encode(self.tokenizer, s)

        def _decode(self, ids: Iterable[int]) -> str:
            kept = [int(i) for i in ids if i != self.eos_id]
            return self.tokenizer.decode(kept, skip_special_tokens=True)

        def _encode_tf(self, s: Any) -> Any:
            return as_it_is(_map_texts)(tf, s, self.encode)

        def _decode_tf(self, ids: Any) -> Any:
            return as_it_is(_map_ids)(tf, ids, self.decode)

        def decode_tf(self, ids: Any) -> Any:
            return self._decode_tf(ids)  # SeqIO's would write padding behind the end first, which is a token here

        def __eq__(self, other: object) -> bool:
            return isinstance(other, HuggingFaceVocabulary) and self.identity == other.identity

        def __hash__(self) -> int:
            return hash(self.identity["tokenizer"])

        def __reduce__(self) -> Any:
            return _remade, self._made_of

        def __str__(self) -> str:
            return f"HuggingFaceVocabulary({self._made_of[0].path}, size={self.vocab_size})"

    return HuggingFaceVocabulary


def _remade(files: TokenizerFiles, asked: Mapping[str, str | int | None], special: str) -> Any:
    """A vocabulary as it was before it was pickled."""
    return _vocabulary_class()(files, asked, special)


def _encode(tokenizer: Any, text: str | bytes) -> list[int]:
    # As raw fields show bytes that are no UTF-8, so that a text and its ids say the same.
    text = text.decode("utf-8", "backslashreplace") if isinstance(text, bytes) else text
    return tokenizer.encode(text, add_special_tokens=False).ids


def _map_texts(tf: Any, texts: Any, encode: Any) -> Any:
    """Ids i32[n] of a text, or ragged ids of texts; in Python, as the library has nothing for TensorFlow.

    Equal texts are equal ids in whatever order and process they are encoded.
    """
    if isinstance(texts, tf.RaggedTensor):
        return texts.with_values(_map_texts(tf, texts.values, encode))
    texts = tf.convert_to_tensor(texts)
    if texts.shape.rank == 0:
        return _map_texts(tf, texts[None], encode).values
    if texts.shape.rank != 1:
        raise ValueError(f"texts of rank {texts.shape.rank} cannot be encoded: give one, or a list of them")

    def encode_all(texts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        rows = [encode(text) for text in texts]
        return np.array([i for row in rows for i in row], np.int32), np.array([len(row) for row in rows], np.int64)

    flat, lengths = tf.numpy_function(encode_all, [texts], [tf.int32, tf.int64], stateful=False)
    return tf.RaggedTensor.from_row_lengths(tf.ensure_shape(flat, [None]), tf.ensure_shape(lengths, [None]))


def _map_ids(tf: Any, ids: Any, decode: Any) -> Any:
    """Texts of ids [..., n], up to each row's end of sequence; of ragged ids [rows, n], too."""
    if isinstance(ids, tf.RaggedTensor):

        def decode_ragged(flat: np.ndarray, lengths: np.ndarray) -> np.ndarray:
            rows = np.split(flat, np.cumsum(lengths)[:-1])[: len(lengths)]
            return np.array([decode(row.tolist()).encode() for row in rows], object)

        texts = tf.numpy_function(decode_ragged, [ids.values, ids.row_lengths()], tf.string, stateful=False)
        return tf.ensure_shape(texts, [None])
    ids = tf.convert_to_tensor(ids)

    def decode_all(ids: np.ndarray) -> np.ndarray:
        rows = [ids[place].tolist() for place in np.ndindex(ids.shape[:-1])]
        return np.array([decode(row).encode() for row in rows], object).reshape(ids.shape[:-1])

    return tf.ensure_shape(tf.numpy_function(decode_all, [ids], tf.string, stateful=False), ids.shape[:-1])
