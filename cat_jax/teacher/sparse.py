"""The sparse signal: the exact head of the teacher's distribution, and its tail as a mass and a few unbiased draws."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from cat_jax.errors import UserError
from cat_jax.losses.formulas import log_normalizer, target_logit, top1_correct
from cat_jax.teacher.codes import decode_log_probability, decode_probability, encode_log_probability
from cat_jax.teacher.draws import tail_draws
from cat_jax.types import SparseDistribution, TeacherSignal

_MAX_ENTRIES = 4096


@dataclasses.dataclass(frozen=True)
class SparseLayout:
    """Exact top-k, tail mass and tail draws of softmax(logits / temperature), beside the exact bit.

    Attributes:
      top_k: ids kept with their own probabilities; among equal logits the lowest ids.
      tail_draws: draws from what the top-k leaves out, each worth tail mass / tail_draws: unbiased. With 0 the whole
        tail is one ghost bucket: less noise for a peaked teacher, but biased.
      temperature: divides the logits. A draw cannot be reweighted, so the objective must use the same temperature.
      target_log_probability: also keep log p(target) at temperature 1, two bytes. No objective reads it;
        `target_log_probabilities` does, for a look at the data.
    """

    top_k: int = 7
    tail_draws: int = 24
    temperature: float = 1.0
    target_log_probability: bool = False

    kind = "sparse"
    has_distribution = True

    def __post_init__(self):
        """Refuses sizes that are no signal; each refusal names the field."""
        for name, least in (("top_k", 1), ("tail_draws", 0)):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= _MAX_ENTRIES:
                raise UserError(
                    f"SparseLayout.{name} is {value!r}", f"give a whole number from {least} to {_MAX_ENTRIES}"
                )
        if not self.temperature > 0:
            raise UserError(f"SparseLayout.temperature is {self.temperature!r}", "give a number above 0")

    def record_dtype(self, vocab_size: int) -> np.dtype | None:
        """One position's bytes: ids take two bytes each up to a vocabulary of 65,536, else three.

        Raises:
          UserError: the vocabulary is smaller than top_k, or larger than three bytes can name.
        """
        if not self.top_k <= vocab_size <= 1 << 24:
            raise UserError(
                f"SparseLayout keeps the top {self.top_k} of a vocabulary of {vocab_size}",
                f"choose top_k from 1 to {vocab_size}, and a vocabulary of at most {1 << 24}",
            )
        ids = self.top_k + self.tail_draws
        fields = [
            ("ids", "<u2", (ids,)) if vocab_size <= 1 << 16 else ("ids", "u1", (ids, 3)),
            ("top", "<u2", (self.top_k,)),
            ("tail", "<u2"),
        ]
        return np.dtype(fields + [("target", "<u2")] * self.target_log_probability)

    def encode(self, logits: jax.Array, targets: jax.Array, uniforms: jax.Array) -> dict[str, jax.Array]:
        """The record's fields of f32 logits [N, V], targets i32[N] and one uniform number f32[N] each, inside jit."""
        logits = jnp.where(logits == 0, 0.0, logits)  # top_k holds -0.0 for less than 0.0, nobody else does
        scaled = logits / self.temperature
        log_z = log_normalizer(scaled)[:, None]
        # Without the barriers XLA:CPU merges the slices below into a full sort, and computes the tail again for every
        # draw: each 10 times slower.
        values, top = jax.lax.optimization_barrier(jax.lax.top_k(logits, self.top_k))
        # Summed over what remains, not 1 - sum: a confident teacher's tail would be all rounding error.
        tail = jnp.where(_below_top(logits, values, top), jnp.exp(scaled - log_z), 0.0)
        tail = jax.lax.optimization_barrier(tail)
        draws = tail_draws(tail, uniforms, self.tail_draws) if self.tail_draws else top[:, :0]
        log_top = values / self.temperature - log_z
        fields = {
            "top1_correct": top1_correct(logits, targets),
            "ids": jnp.concatenate([top, draws], axis=-1),
            "top": encode_log_probability(log_top),
            "tail": encode_log_probability(jnp.log(tail.sum(-1))),
        }
        fields["squared_error"] = self._squared_error(fields, jnp.exp(log_top), tail, draws)
        if self.target_log_probability:
            own = target_logit(logits, targets) - log_normalizer(logits)
            fields["target"] = encode_log_probability(own)
        return fields

    def assemble(self, padded: Mapping[str, np.ndarray], vocab_size: int) -> TeacherSignal:
        """The signal of padded arrays: 'top1_correct' bool[B, T] and 'records' u8[B, T, bytes of a record].

        A padded position (all bytes 0) becomes all mass on id 0: finite, and without weight in the loss.
        """
        records = self._records(padded["records"], vocab_size)
        top, tail = self._masses(records["top"], records["tail"])
        if n := self.tail_draws:
            draws = np.broadcast_to((tail / n)[..., None], (*tail.shape, n))
            top, tail = np.concatenate([top, draws], axis=-1), None
        sparse = SparseDistribution(
            token_ids=_ids(records["ids"]),  # pyright: ignore[reportArgumentType]
            probabilities=top,  # pyright: ignore[reportArgumentType]
            tail_mass=tail,  # pyright: ignore[reportArgumentType]
            temperature=self.temperature,
        )
        return TeacherSignal(top1_correct=padded["top1_correct"], sparse=sparse)  # pyright: ignore[reportArgumentType]

    def target_log_probabilities(self, records: np.ndarray, vocab_size: int) -> np.ndarray:
        """f32[...] log p(target) at temperature 1 of records u8[..., bytes of a record].

        Raises:
          UserError: the signal was written without.
        """
        if not self.target_log_probability:
            raise UserError(
                "this signal holds no target log-probabilities", "teach again with target_log_probability=True"
            )
        return decode_log_probability(self._records(records, vocab_size)["target"])

    def check_temperature(self, temperature: float) -> str | None:
        """What is wrong with an objective at `temperature`, None if nothing."""
        if temperature == self.temperature:
            return None
        return f"the signal was taught at temperature {self.temperature:g}, the objective asks for {temperature:g}"

    def to_dict(self) -> dict[str, Any]:
        return {"kind": self.kind, **dataclasses.asdict(self)}

    def _records(self, raw: np.ndarray, vocab_size: int) -> np.ndarray:
        dtype = self.record_dtype(vocab_size)
        assert dtype is not None
        return np.ascontiguousarray(raw).view(dtype)[..., 0]

    def _squared_error(
        self, fields: Mapping[str, jax.Array], top: jax.Array, tail: jax.Array, draws: jax.Array
    ) -> jax.Array:
        """f32[N]: the squared distance of what `assemble` will make of the fields from the teacher's distribution.

        Args:
          fields: 'top' and 'tail', as stored.
          top: f32[N, top_k]: the probabilities of the top ids.
          tail: f32[N, V]: those of all others, 0 at the top ids.
          draws: i32[N, tail_draws].
        """
        stored_top, mass = self._masses(fields["top"], fields["tail"])
        error = jnp.sum(jnp.square(stored_top - top), axis=-1) + jnp.sum(jnp.square(tail), axis=-1)
        if n := self.tail_draws:  # the weights of equal ids add
            weight = mass / n
            drawn = jnp.take_along_axis(tail, draws, axis=-1).sum(-1)
            pairs = jnp.sum(draws[:, :, None] == draws[:, None, :], axis=(1, 2))
            error += weight * (weight * pairs - 2 * drawn)
        return jnp.maximum(error, 0)  # it may lie below by rounding

    @staticmethod
    def _masses(top_codes: Any, tail_codes: Any) -> tuple[Any, Any]:
        """(top f32[..., top_k], tail f32[...]), decoded so that together they sum to 1; of NumPy, or of JAX in jit.

        Rounding leaves the codes' sum off by up to 2.5e-4. Where the first entry has more than half of the mass it is
        one less the others, which keeps the digits of a probability near 1; elsewhere all are scaled.
        """
        xp = top_codes.__array_namespace__()
        top, tail = decode_probability(top_codes), decode_probability(tail_codes)
        others = top[..., 1:].sum(-1) + tail
        peaked = others < 0.5
        scale = xp.where(peaked, np.float32(1), 1 / xp.maximum(others + top[..., 0], np.float32(1e-30)))
        first = xp.where(peaked, 1 - others, top[..., 0] * scale)
        top = xp.concatenate([first[..., None], top[..., 1:] * scale[..., None]], axis=-1)
        return top, tail * scale


def _below_top(logits: jax.Array, values: jax.Array, top: jax.Array) -> jax.Array:
    """bool[N, V]: what `top_k` left out, without a scatter: smaller than its least value, or equal with a higher id."""
    least = values[:, -1:]
    last_tie = jnp.max(jnp.where(values == least, top, -1), axis=-1, keepdims=True)
    return (logits < least) | ((logits == least) & (jnp.arange(logits.shape[-1]) > last_tie))


def _ids(stored: np.ndarray) -> np.ndarray:
    """i32[..., K] of ids of two bytes [..., K] or three bytes [..., K, 3], least byte first."""
    if stored.dtype != np.uint8:
        return stored.astype(np.int32)
    wide = stored.astype(np.int32)
    return wide[..., 0] | wide[..., 1] << 8 | wide[..., 2] << 16
