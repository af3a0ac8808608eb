"""A model small enough to be written twice: once as a `Model`, once in float64 NumPy."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from cat_jax.types import Batch, Head, ModelOutput


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Recurrent:
    """h_0 = tanh(mean of the inputs' embeddings + start); h_{t+1} = tanh(h_t W + embedding of token t)."""

    embedding: jax.Array  # [V, D]
    recurrence: jax.Array  # [D, D]
    kernel: jax.Array  # [D, V padded]
    vocab_size: int = dataclasses.field(metadata={"static": True})
    config: None = dataclasses.field(default=None, metadata={"static": True})

    def head(self):
        return Head(self.kernel, self.vocab_size)

    def _start(self, batch):
        inputs = batch.encoder_input_tokens
        weights = (inputs > 0)[..., None]
        return jnp.tanh(jnp.sum(self.embedding[inputs] * weights, axis=1) / jnp.sum(weights, axis=1))

    def __call__(self, batch, *, dropout_key=None):
        def step(hidden, tokens):
            _, hidden = self.step(tokens, hidden)
            return hidden, hidden

        start = self._start(batch)
        _, rest = jax.lax.scan(step, start, batch.decoder_input_tokens[:, 1:].T)
        return ModelOutput(jnp.concatenate([start[:, None], jnp.swapaxes(rest, 0, 1)], axis=1), self.head())

    def prefill(self, batch, max_decode_length):
        hidden = self._start(batch)
        return hidden, hidden

    def step(self, tokens, cache):
        hidden = jnp.tanh(cache @ self.recurrence + self.embedding[tokens])
        return hidden, hidden


def recurrent(seed=0, vocab_size=23, width=8, padding=9, scale=2.0):
    """A model whose head has `padding` columns beyond the vocabulary, full of large numbers that must not count."""
    rng = np.random.default_rng(seed)
    normal = lambda *shape: rng.normal(0, scale, shape).astype(np.float32)  # noqa: E731
    kernel = np.concatenate([normal(width, vocab_size), 100 * normal(width, padding)], axis=1)
    return Recurrent(*map(jnp.asarray, (normal(vocab_size, width), normal(width, width), kernel)), vocab_size)


def prompts(seed, rows, length=6, vocab_size=23):
    """i32[rows, length] of ids from 2 on, padded with 0; every row has at least one."""
    rng = np.random.default_rng(seed)
    tokens = rng.integers(2, vocab_size, (rows, length))
    return np.where(np.arange(length) < rng.integers(1, length + 1, (rows, 1)), tokens, 0).astype(np.int32)


def batch_of(inputs, targets=None, lengths=None):
    """A `Batch` of padded prompts and (optionally) targets of given lengths (by default, all but 0 counts)."""
    inputs = jnp.asarray(inputs, jnp.int32)
    targets = jnp.zeros((len(inputs), 1), jnp.int32) if targets is None else jnp.asarray(targets, jnp.int32)
    shifted = jnp.pad(targets, [(0, 0), (1, 0)])[:, :-1]
    counts = targets > 0 if lengths is None else jnp.arange(targets.shape[1]) < jnp.asarray(lengths)[:, None]
    weights = counts.astype(jnp.float32)
    return Batch(targets, shifted, weights, encoder_input_tokens=inputs)


def log_softmax_of(model, inputs, tokens):
    """f64[V]: log-probabilities of what follows `tokens`, by NumPy, of one prompt."""
    embedding, recurrence, kernel = (
        np.asarray(x, np.float64) for x in (model.embedding, model.recurrence, model.kernel[:, : model.vocab_size])
    )
    hidden = np.tanh(embedding[[i for i in inputs if i > 0]].mean(axis=0))
    for token in tokens:
        hidden = np.tanh(hidden @ recurrence + embedding[token])
    logits = hidden @ kernel
    return logits - logits.max() - np.log(np.exp(logits - logits.max()).sum())


def statistics_of(logprobs, token):
    """(log-probability, entropy, margin) of `token` under f64 log-probabilities."""
    ordered = np.sort(logprobs)
    return logprobs[token], -(np.exp(logprobs) * logprobs).sum(), ordered[-1] - ordered[-2]
