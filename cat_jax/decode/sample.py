"""Sampling: tokens drawn from the model's distribution, or from the likely part of it."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from cat_jax.decode.loop import Decoded, decode
from cat_jax.errors import UserError
from cat_jax.losses.inverse_cdf import CumulativeWeights, key_uniforms
from cat_jax.types import Batch, Model


@dataclasses.dataclass(frozen=True)
class Sampling:
    """Draws each token after temperature, then top-k, then top-p, as `transformers` does; see `truncate`.

    A row's draws follow from the seed and the row's name: neither from the batch nor from the devices. The statistics
    are those of the model's own distribution, temperature 1 and nothing cut off.

    Attributes:
      temperature: above 0; divides the logits.
      top_k: only the k likeliest tokens can be drawn; 0 for all.
      top_p: in (0, 1]: only the likeliest tokens that together reach this probability can be drawn; 1 for all.
      seed: 0 or more, below 2^32.

    Raises:
      UserError: a field is out of its range.
    """

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    seed: int = 0

    def __post_init__(self):
        if not _is_number(self.temperature) or not 0 < self.temperature < math.inf:
            raise UserError(
                f"Sampling.temperature is {self.temperature!r}", "give a number above 0; @Greedy() draws nothing"
            )
        if not _is_number(self.top_k, int) or self.top_k < 0:
            raise UserError(f"Sampling.top_k is {self.top_k!r}", "give a whole number, 0 for all tokens")
        if not _is_number(self.top_p) or not 0 < self.top_p <= 1:
            raise UserError(f"Sampling.top_p is {self.top_p!r}", "give a number above 0 and up to 1, 1 for all tokens")
        if not _is_number(self.seed, int) or not 0 <= self.seed < 2**32:
            raise UserError(f"Sampling.seed is {self.seed!r}", "give a whole number, 0 or more and below 2^32")

    def to_dict(self) -> dict[str, Any]:
        """What decides the answers, JSON-able."""
        fields = {"temperature": float(self.temperature), "top_p": float(self.top_p)}
        return {"name": "sampling", **dataclasses.asdict(self), **fields}

    def __call__(
        self,
        model: Model,
        batch: Batch,
        *,
        max_decode_length: int,
        eos_id: int,
        rows: jax.Array,
        live: jax.Array | None = None,
    ) -> Decoded:
        """Answers prompts; see `decode.loop.Decoding`."""
        # The implementation is named, so that no setting of the process changes what is drawn.
        key = jax.random.key(jnp.uint32(self.seed), impl="threefry2x32")
        return sample(
            model,
            batch,
            key,
            rows,
            temperature=self.temperature,
            top_k=self.top_k,
            top_p=self.top_p,
            max_decode_length=max_decode_length,
            eos_id=eos_id,
            live=live,
        )


def sample(
    model: Model,
    batch: Batch,
    key: jax.Array,
    rows: jax.Array,
    *,
    max_decode_length: int,
    eos_id: int,
    temperature: float = 1.0,
    top_k: int = 0,
    top_p: float = 1.0,
    live: jax.Array | None = None,
) -> Decoded:
    """Draws every token. Call it inside `jax.jit`.

    Args:
      model: what predicts.
      batch: the prompts.
      key: a typed random key.
      rows: i32[B] names of the rows: what is drawn follows from key, name, position and logits.
      max_decode_length: as `decode.loop.decode` has it; likewise `eos_id` and `live`.
      eos_id: likewise.
      temperature: as `Sampling` has it; likewise `top_k` and `top_p`.
      top_k: likewise.
      top_p: likewise.
      live: as `decode.loop.decode` has it.
    """
    keys = jax.vmap(jax.random.fold_in, (None, 0))(key, rows.astype(jnp.uint32))

    def choose(logits: jax.Array, position: jax.Array) -> jax.Array:
        uniforms = key_uniforms(jax.vmap(jax.random.fold_in, (0, None))(keys, position.astype(jnp.uint32)))
        weights = truncate(logits, temperature=temperature, top_k=top_k, top_p=top_p)
        return _first_beyond(weights, uniforms * jnp.sum(weights, axis=-1))

    return decode(model, batch, choose, max_decode_length=max_decode_length, eos_id=eos_id, live=live)


def truncate(logits: jax.Array, *, temperature: float = 1.0, top_k: int = 0, top_p: float = 1.0) -> jax.Array:
    """The distribution that tokens are drawn from, times a number: f32[B, V] weights of logits [B, V], the largest 1.

    Temperature comes first, then top-k, then top-p of what top-k has left. Top-k leaves all tokens that are as likely
    as the k-th. Top-p leaves a token if all likelier ones, and equal ones of lower id, have together less than `top_p`:
    one token at least.

    >>> truncate(jnp.log(jnp.array([[0.1, 0.4, 0.2, 0.3]])), top_p=0.6).round(2)
    Array([[0.  , 1.  , 0.  , 0.75]], dtype=float32)
    """
    logits = logits.astype(jnp.float32)
    weights = jnp.exp((logits - jnp.max(logits, axis=-1, keepdims=True)) / temperature)
    if top_k:
        least = _reach(weights, jnp.ones_like(weights), jnp.float32(min(top_k, weights.shape[-1])))
        weights = jnp.where(weights >= least[:, None], weights, 0)
    if top_p < 1:
        wanted = top_p * jnp.sum(weights, axis=-1)
        least = _reach(weights, weights, wanted)
        equal = weights == least[:, None]
        lacking = wanted - jnp.sum(jnp.where(weights > least[:, None], weights, 0), axis=-1)
        # With equal weights at the edge, as many of the lowest ids as are needed.
        count = jnp.maximum(jnp.ceil(lacking / jnp.maximum(least, jnp.finfo(jnp.float32).tiny)), 1)
        last = _first_beyond(equal.astype(jnp.float32), count - 0.5)
        ids = jnp.arange(weights.shape[-1], dtype=jnp.int32)
        weights = jnp.where((weights > least[:, None]) | (equal & (ids <= last[:, None])), weights, 0)
    return weights


def _is_number(value: Any, kind: Any = int | float) -> bool:
    return isinstance(value, kind) and not isinstance(value, bool)


def _reach(values: jax.Array, masses: jax.Array, wanted: jax.Array) -> jax.Array:
    """f32[B]: the largest t such that those of `values` f32[B, V] >= t have `masses` of `wanted` f32[B] together.

    0 where all together have less. The values are not negative, so that their bits are in the order of the numbers: t
    is found bit by bit, in 31 sums, where sorting a vocabulary takes twenty times as long on XLA:CPU.
    """

    def bit(i: jax.Array, least: jax.Array) -> jax.Array:
        tried = least | (jnp.int32(1) << (30 - i))
        reached = jnp.sum(jnp.where(bits >= tried[:, None], masses, 0), axis=-1) >= wanted
        return jnp.where(reached, tried, least)

    bits = lax.bitcast_convert_type(values, jnp.int32)
    return lax.bitcast_convert_type(lax.fori_loop(0, 31, bit, jnp.zeros(len(values), jnp.int32)), jnp.float32)


def _first_beyond(weights: jax.Array, target: jax.Array) -> jax.Array:
    """i32[B]: the id at which the cumulated weights f32[B, V] pass target f32[B]; see `CumulativeWeights.ids_at`."""
    return CumulativeWeights.of(weights).ids_at(target[:, None])[:, 0]
