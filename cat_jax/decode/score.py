"""Log-likelihoods of token sequences that are given: rank classification, and the statistics of a known answer.

Neither function holds logits of more than one block of positions.
"""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from cat_jax.decode.statistics import TokenStatistics, token_statistics
from cat_jax.types import Batch, Model


def score_options(model: Model, batch: Batch, options: jax.Array, lengths: jax.Array) -> TokenStatistics:
    """Statistics of every token of every option of every row; a row's option log-likelihood is the sum of logprobs.

    The prompt is read once, whatever the number of options: each option is then fed to the prompt's cache token by
    token, up to the longest option at hand. One more option costs the steps of its tokens.

    Args:
      model: what predicts.
      batch: the prompts, B rows.
      options: i32[B, O, T] token ids, anything beyond the lengths.
      lengths: i32[B, O] tokens of each option; 0 where a row has fewer options than O.

    Returns:
      f32[B, O, T] each, 0 beyond the lengths.
    """
    options, lengths = jnp.asarray(options), jnp.asarray(lengths)
    room = options.shape[2]
    count, longest = jnp.max(jnp.sum(lengths > 0, axis=1)), jnp.max(lengths)
    head = model.head()
    prompt, hidden = model.prefill(batch, room)

    def first_tokens(tokens: jax.Array) -> TokenStatistics:
        return token_statistics(head.logits(hidden), tokens)

    def rest_of_option(option: jax.Array, result: TokenStatistics) -> TokenStatistics:
        def unfinished(carry: tuple[jax.Array, Any, TokenStatistics]) -> jax.Array:
            return carry[0] < longest

        def token(carry: tuple[jax.Array, Any, TokenStatistics]) -> tuple[jax.Array, Any, TokenStatistics]:
            position, cache, result = carry
            cache, hidden = model.step(options[:, option, position - 1], cache)
            column = token_statistics(head.logits(hidden), options[:, option, position])
            put = functools.partial(_put, option=option, position=position)
            return position + 1, cache, jax.tree.map(put, result, column)

        return lax.while_loop(unfinished, token, (jnp.int32(1), prompt, result))[2]

    # The prompt's last hidden state predicts the first token of all options: every option steps from its second on.
    first = jax.vmap(first_tokens, in_axes=1, out_axes=1)(options[:, :, 0])
    result = jax.tree.map(lambda values: jnp.pad(values[..., None], [(0, 0), (0, 0), (0, room - 1)]), first)
    result = lax.fori_loop(0, count, rest_of_option, result)
    counts = jnp.arange(room) < lengths[..., None]
    return jax.tree.map(lambda values: jnp.where(counts, values, 0), result)


def _put(whole: jax.Array, column: jax.Array, option: jax.Array, position: jax.Array) -> jax.Array:
    return whole.at[:, option, position].set(column)


def score_targets(model: Model, batch: Batch, *, block: int = 32) -> TokenStatistics:
    """Statistics of the batch's target tokens, teacher-forced in one pass over all positions.

    Args:
      model: what predicts.
      batch: rows with targets; packed rows are fine.
      block: target positions whose logits [B, block, V] exist at a time.

    Returns:
      f32[B, T] each, 0 where the target does not count (weight 0).
    """
    output = model(batch)
    targets, weights = batch.decoder_target_tokens, batch.decoder_loss_weights
    rows, positions = targets.shape
    block = min(block, positions)
    padding = -positions % block

    def blocks(x: jax.Array) -> jax.Array:
        """[B, T, ...] -> [blocks, B, block, ...], the last one filled up with zeros."""
        x = jnp.pad(x, [(0, 0), (0, padding)] + [(0, 0)] * (x.ndim - 2))
        return jnp.moveaxis(x.reshape(rows, -1, block, *x.shape[2:]), 1, 0)

    def of_block(hidden_and_tokens: tuple[jax.Array, jax.Array]) -> TokenStatistics:
        hidden, tokens = hidden_and_tokens
        return token_statistics(output.head.logits(hidden), tokens)

    def join(values: jax.Array) -> jax.Array:
        values = jnp.moveaxis(values, 0, 1).reshape(rows, -1)[:, :positions]
        return jnp.where(weights > 0, values, 0)

    return jax.tree.map(join, lax.map(of_block, (blocks(output.hidden), blocks(targets))))
