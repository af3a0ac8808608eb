"""A SeqIO vocabulary of whole symbols separated by spaces: for phonemes, chess moves, note names and the like."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import seqio
import tensorflow as tf

_UNKNOWN = "⁇"


class SymbolVocabulary(seqio.Vocabulary):
    """Maps symbols to ids: 0 padding, 1 end of sequence, 2 unknown, then `symbols` in their order.

    Text is symbols separated by spaces, so `decode(encode(text)) == text` for every text of known symbols.

    Args:
      symbols: distinct, non-empty, without spaces. Their order is part of the vocabulary: append, never insert.

    Raises:
      ValueError: a symbol is empty, holds a space, or occurs twice.
    """

    def __init__(self, symbols: Sequence[str]):
        super().__init__(extra_ids=0)
        bad = [s for s in symbols if not s or s.split() != [s]]
        if bad or len(set(symbols)) != len(symbols):
            raise ValueError(
                f"symbols must be distinct, non-empty and without spaces; look at {bad or 'the repeated ones'}"
            )
        self._symbols = ("", "", _UNKNOWN, *symbols)
        self._ids = {symbol: i for i, symbol in enumerate(self._symbols) if i > 2}

    @property
    def bos_id(self) -> int | None:
        return None

    @property
    def eos_id(self) -> int:
        return 1

    @property
    def unk_id(self) -> int:
        return 2

    @property
    def _base_vocab_size(self) -> int:
        return len(self._symbols)

    def _encode(self, s: str) -> list[int]:
        return [self._ids.get(symbol, self.unk_id) for symbol in s.split()]

    def _decode(self, ids: Iterable[int]) -> str:
        return " ".join(self._symbols[i] for i in ids if i > 1)

    def _encode_tf(self, s: tf.Tensor) -> tf.Tensor:
        # A comparison with every symbol holds no state, so the graph needs no lookup table to be kept alive.
        matches = tf.equal(tf.strings.split(s)[..., None], tf.constant(self._symbols[3:]))
        found = tf.argmax(tf.cast(matches, tf.int32), axis=-1, output_type=tf.int32) + 3
        return tf.where(tf.reduce_any(matches, axis=-1), found, self.unk_id)

    def _decode_tf(self, ids: tf.Tensor) -> tf.Tensor:
        symbols = tf.gather(tf.constant(self._symbols), tf.boolean_mask(ids, ids > 1))
        return tf.strings.reduce_join(symbols, axis=-1, separator=" ")

    def __eq__(self, other: object) -> bool:
        return isinstance(other, SymbolVocabulary) and self._symbols == other._symbols

    def __hash__(self) -> int:
        return hash(self._symbols)
