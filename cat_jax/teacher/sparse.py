"""The sparse signal: the exact head of the teacher's distribution, and its tail as a mass and a few unbiased draws."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from cat_jax.errors import UserError
from cat_jax.losses.formulas import log_normalizer, target_logit, top1_correct
from cat_jax.teacher.codes import decode_log_probability, decode_probability, encode_log_probability
from cat_jax.teacher.draws import tail_draws
from cat_jax.teacher.ragged import Ragged
from cat_jax.types import SparseDistribution, TeacherSignal

_MAX_ENTRIES = 4096


@dataclasses.dataclass(frozen=True)
class SparseLayout:
    """Exact top-k, tail mass and tail draws of softmax(logits / temperature), beside the exact bit.

    Attributes:
      top_k: ids kept with their own probabilities; among equal logits the lowest ids.
      tail_draws: draws from what the top-k leaves out, each worth tail mass / their number: unbiased. With 0 the whole
        tail is one ghost bucket: less noise for a peaked teacher, but biased.
      draw_mass: a position has only as many draws, at least one, as it takes for none to be worth more than this, and
        `tail_draws` at most: bytes go where the teacher is undecided. With 0 every position has `tail_draws`.
      temperature: divides the logits. A draw cannot be reweighted, so the objective must use the same temperature.
      target_log_probability: also keep log p(target) at temperature 1, two bytes. No objective reads it;
        `target_log_probabilities` does, for a look at the data.
    """

    top_k: int = 8
    tail_draws: int = 48
    draw_mass: float = 1 / 400
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
        if not 0 <= self.draw_mass < 1:
            raise UserError(f"SparseLayout.draw_mass is {self.draw_mass!r}", "give a number from 0 to below 1")
        if not self.temperature > 0:
            raise UserError(f"SparseLayout.temperature is {self.temperature!r}", "give a number above 0")

    def record_dtype(self, vocab_size: int) -> np.dtype | None:
        """One position's bytes at most: ids take two bytes each up to a vocabulary of 65,536, else three.

        Raises:
          UserError: the vocabulary is smaller than top_k, or larger than three bytes can name.
        """
        if not self.top_k <= vocab_size <= 1 << 24:
            raise UserError(
                f"SparseLayout keeps the top {self.top_k} of a vocabulary of {vocab_size}",
                f"choose top_k from 1 to {vocab_size}, and a vocabulary of at most {1 << 24}",
            )

        def ids(name: str, count: int) -> tuple[str, str, tuple[int, ...]]:
            return (name, "<u2", (count,)) if vocab_size <= 1 << 16 else (name, "u1", (count, 3))

        fields: list[Any] = [("tail", "<u2"), ("top", "<u2", (self.top_k,)), ids("ids", self.top_k)]
        fields += [("target", "<u2")] * self.target_log_probability
        return np.dtype(fields + [ids("draws", self.tail_draws)] * (self.tail_draws > 0))

    def ragged(self, vocab_size: int) -> Ragged | None:
        """Records are as long as they have draws, which their tail mass tells; None if all have the same number."""
        if not self.draw_mass or not self.tail_draws:
            return None
        dtype = self.record_dtype(vocab_size)
        assert dtype is not None
        fields = dtype.fields
        assert fields is not None
        id_bytes = 2 if vocab_size <= 1 << 16 else 3

        def rest(heads: np.ndarray) -> np.ndarray:
            tail = np.ascontiguousarray(heads[:, :2]).view("<u2")[:, 0]  # the first field
            return self._counts(tail).astype(np.int64) * id_bytes

        return Ragged(fields["draws"][1], rest)

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
        log_top = values / self.temperature - log_z
        fields = {
            "top1_correct": top1_correct(logits, targets),
            "tail": encode_log_probability(jnp.log(tail.sum(-1))),
            "top": encode_log_probability(log_top),
            "ids": top,
        }
        if self.tail_draws:
            fields["draws"] = tail_draws(tail, uniforms, self.tail_draws, self._counts(fields["tail"]))
        fields["squared_error"] = self._squared_error(fields, jnp.exp(log_top), tail)
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
        ids = _ids(records["ids"])
        if self.tail_draws:
            ids = np.concatenate([ids, _ids(records["draws"])], axis=-1)
            top, tail = np.concatenate([top, self._draw_weights(records["tail"], tail)], axis=-1), None
        sparse = SparseDistribution(
            token_ids=ids,  # pyright: ignore[reportArgumentType]
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

    def _counts(self, tail_codes: Any) -> Any:
        """i32[...]: the draws of positions whose tail has these codes; of NumPy, or of JAX in jit."""
        xp = tail_codes.__array_namespace__()
        if not self.draw_mass:
            return xp.full(tail_codes.shape, self.tail_draws, np.int32)
        return xp.asarray(_count_table(self.draw_mass, self.tail_draws))[tail_codes]

    def _draw_weights(self, tail_codes: Any, mass: Any) -> Any:
        """f32[..., tail_draws]: what each draw is worth, 0 beyond the position's number; of NumPy, or of JAX in jit."""
        xp = tail_codes.__array_namespace__()
        counts = self._counts(tail_codes)[..., None]
        weight = mass[..., None] / xp.maximum(counts, 1).astype(np.float32)
        return xp.where(np.arange(self.tail_draws) < counts, weight, np.float32(0))

    def _squared_error(self, fields: Mapping[str, jax.Array], top: jax.Array, tail: jax.Array) -> jax.Array:
        """f32[N]: the squared distance of what `assemble` will make of the fields from the teacher's distribution.

        Args:
          fields: as stored.
          top: f32[N, top_k]: the probabilities of the top ids.
          tail: f32[N, V]: those of all others, 0 at the top ids.
        """
        stored_top, mass = self._masses(fields["top"], fields["tail"])
        error = jnp.sum(jnp.square(stored_top - top), axis=-1) + jnp.sum(jnp.square(tail), axis=-1)
        if self.tail_draws:  # the weights of equal ids add
            draws, weights = fields["draws"], self._draw_weights(fields["tail"], mass)
            equal = draws[:, :, None] == draws[:, None, :]
            together = jnp.sum(jnp.where(equal, weights[:, None, :], 0), axis=-1)
            error += jnp.sum(weights * (together - 2 * jnp.take_along_axis(tail, draws, axis=-1)), axis=-1)
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


@functools.lru_cache(maxsize=8)
def _count_table(draw_mass: float, most: int) -> np.ndarray:
    """i32[65536]: draws by the tail's code. Rounded before it is cut: another platform's exp must not count anew."""
    masses = decode_probability(np.arange(1 << 16)).astype(np.float64)
    counts = np.clip(np.ceil(np.round(masses / draw_mass, 4)), 1, most).astype(np.int32)
    counts[0] = 0  # no mass, no draws
    return counts


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
