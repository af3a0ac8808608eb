"""The paper's terms as pure functions of logits [..., V]: one number per token, neither masked nor summed.

Logits are taken to float32 first (float64 stays). A column at -inf is padding: it has no probability and no gradient.
`log_z` is the log-sum-exp of the logits, passed in where several terms share it.
"""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp

from cat_jax.types import Array, SparseDistribution


def widen(x: Array) -> Array:
    """`x` in float32, or in float64 if that is what it is."""
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))


def log_normalizer(logits: Array) -> Array:
    """log_z [...] of logits [..., V].

    >>> round(float(log_normalizer(jnp.log(jnp.array([1.0, 2.0, 5.0])))), 4)  # log 8
    2.0794
    """
    return jax.nn.logsumexp(widen(logits), axis=-1)


def target_logit(logits: Array, targets: Array) -> Array:
    """The logit [...] of each target id [...]; NaN for an id beyond the last column, so that the step is refused.

    >>> target_logit(jnp.array([3.0, 1.0, 2.0]), jnp.array(2)).item()
    2.0
    """
    return jnp.take_along_axis(widen(logits), targets[..., None], axis=-1)[..., 0]


def top1_correct(logits: Array, targets: Array) -> Array:
    """Whether the argmax is the target: bool[...]. Among equal logits the LOWEST id is the argmax.

    The one rule of the project for teacher and student, live and stored. No gradient.

    >>> top1_correct(jnp.array([[1.0, 4.0, 4.0], [1.0, 4.0, 4.0]]), jnp.array([1, 2])).tolist()
    [True, False]
    """
    # Equal to `argmax(logits) == targets`, but XLA:CPU vectorises this reduction and not argmax: free instead of 20 %
    # of loss and gradient at V = 32128.
    logits = jax.lax.stop_gradient(widen(logits))
    own = target_logit(logits, targets)[..., None]
    lower_id = jnp.arange(logits.shape[-1]) < targets[..., None]
    beaten = ~(logits <= own) | ((logits == own) & lower_id)
    return ~jnp.any(beaten, axis=-1)


def cross_entropy(
    logits: Array,
    targets: Array,
    label_smoothing: float = 0.0,
    *,
    log_z: Array | None = None,
    vocab_size: int | None = None,
) -> Array:
    """-log p(target), or with smoothing the cross-entropy against a softened target, less that target's entropy.

    Smoothing as in t5x: the target has probability 1 - s, each of the others s / (vocab_size - 1), and the entropy is
    taken off so that the least possible loss is 0. `vocab_size` leaves padded columns out (default: none are).

    >>> logits = jnp.log(jnp.array([1.0, 2.0, 5.0]))
    >>> round(float(cross_entropy(logits, jnp.array(1))), 4)  # -log(2/8)
    1.3863
    >>> soft = jnp.log(jnp.array([0.05, 0.9, 0.05]))
    >>> abs(round(float(cross_entropy(soft, jnp.array(1), label_smoothing=0.1)), 4))
    0.0
    """
    logits = widen(logits)
    log_z = log_normalizer(logits) if log_z is None else log_z
    own = target_logit(logits, targets)
    if not label_smoothing:
        return log_z - own
    vocab_size = logits.shape[-1] if vocab_size is None else vocab_size
    others = vocab_size - 1
    high, low = 1.0 - label_smoothing, label_smoothing / others
    rest = jnp.sum(logits[..., :vocab_size], axis=-1) - own
    entropy = -(high * math.log(high) + others * low * math.log(low))
    return high * (log_z - own) + low * (others * log_z - rest) - entropy


def z_loss(logits: Array, *, log_z: Array | None = None) -> Array:
    """log_z squared, which pulls the logits towards log-probabilities (t5x's z-loss, without its coefficient).

    >>> round(float(z_loss(jnp.log(jnp.array([1.0, 2.0, 5.0])))), 4)  # (log 8)^2
    4.3241
    """
    return jnp.square(log_normalizer(logits) if log_z is None else log_z)


def distillation(
    logits: Array, teacher_logits: Array, temperature: float = 1.0, *, log_z: Array | None = None
) -> Array:
    """- sum_v p_L(v) log p_S(v), both softened by `temperature`. No gradient to the teacher.

    Widths may differ by padding: what is beyond the narrower is -inf in the wider. `log_z` is that of the logits
    divided by the temperature.

    >>> student, teacher = jnp.log(jnp.array([1.0, 3.0])), jnp.log(jnp.array([1.0, 1.0]))
    >>> round(float(distillation(student, teacher)), 4)  # -(log(1/4) + log(3/4)) / 2
    0.837
    """
    logits, teacher_logits = widen(logits) / temperature, widen(teacher_logits) / temperature
    log_z = log_normalizer(logits) if log_z is None else log_z
    width = min(logits.shape[-1], teacher_logits.shape[-1])
    probabilities = jax.lax.stop_gradient(jax.nn.softmax(teacher_logits[..., :width], axis=-1))
    # A column of probability 0 counts as 0 though its logit be -inf.
    return log_z - jnp.sum(jnp.where(probabilities > 0, probabilities * logits[..., :width], 0), axis=-1)


def sparse_distillation(logits: Array, teacher: SparseDistribution, *, log_z: Array | None = None) -> Array:
    """The distillation term from a sparse teacher, at the temperature that the teacher was stored with.

    It is  - sum_k q_k log p_S(id_k) - tail_mass log(1 - sum over the distinct ids of p_S(id)).
    The second term is one ghost bucket for everything that the entries leave out; it is absent where the tail mass
    is 0, or where no column is left. Weights of one id add. No gradient to the teacher. `log_z` is that of the logits
    divided by the temperature.

    >>> student = jnp.log(jnp.array([1.0, 2.0, 2.0, 3.0]))
    >>> teacher = SparseDistribution(jnp.array([1, 3, 3]), jnp.array([0.5, 0.2, 0.2]), jnp.array(0.1))
    >>> round(float(sparse_distillation(student, teacher)), 4)  # -(.5 log 2/8 + .4 log 3/8 + .1 log 3/8)
    1.1836
    """
    logits, teacher = widen(logits) / teacher.temperature, jax.lax.stop_gradient(teacher)
    log_z = log_normalizer(logits) if log_z is None else log_z
    used = teacher.probabilities > 0
    log_p = jnp.take_along_axis(logits, jnp.where(used, teacher.token_ids, 0), axis=-1) - log_z[..., None]
    listed = -jnp.sum(jnp.where(used, teacher.probabilities * log_p, 0), axis=-1)
    if teacher.tail_mass is None:
        return listed
    return listed + _ghost_bucket(logits, teacher, teacher.tail_mass, log_z)


def _ghost_bucket(logits: Array, teacher: SparseDistribution, tail_mass: Array, log_z: Array) -> Array:
    """- tail_mass log(probability of the columns that no entry names).

    The remainder is a log-sum-exp of its own, not log(1 - sum): that one loses all digits, then turns NaN, as a
    confident student leaves nothing. It costs a pass over the vocabulary.
    """
    vocabulary = logits.shape[-1]
    named = jnp.where(teacher.probabilities > 0, teacher.token_ids, vocabulary)
    # One scatter a row, not one over all rows: the partitioner would gather the indices of the latter.
    strike_out = jnp.vectorize(lambda row, ids: row.at[ids].set(-jnp.inf, mode="drop"), signature="(v),(k)->(v)")
    rest = strike_out(logits, named)
    alive = (tail_mass > 0) & (jnp.max(rest, axis=-1) > -jnp.inf)
    # Rows without a bucket keep all their columns: an empty log-sum-exp would have a NaN gradient.
    log_rest = log_normalizer(jnp.where(alive[..., None], rest, logits))
    return jnp.where(alive, tail_mass * (log_z - log_rest), 0)
