"""The formulas against numbers worked out by hand, and at the edges: ties, padding, bfloat16, confident students."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cat_jax.losses import formulas
from cat_jax.types import SparseDistribution

LOG = np.log
# Student probabilities 1/8, 2/8, 5/8; teacher 1/2, 1/4, 1/4.
STUDENT = LOG(np.array([1.0, 2.0, 5.0])).astype(np.float32)
TEACHER = LOG(np.array([2.0, 1.0, 1.0])).astype(np.float32)
NEG = np.float32(-np.inf)


def sparse(ids, probabilities, tail, temperature=1.0):
    tail = None if tail is None else jnp.float32(tail)
    return SparseDistribution(jnp.array(ids), jnp.array(probabilities, jnp.float32), tail, temperature)


def test_cross_entropy_by_hand():
    values = formulas.cross_entropy(jnp.stack([STUDENT] * 3), jnp.arange(3))
    np.testing.assert_allclose(values, [LOG(8), LOG(4), LOG(8 / 5)], rtol=1e-6)


def test_label_smoothing_by_hand():
    # Target 1 at 0.8, the others at 0.1: cross-entropy less entropy.
    expected = 0.8 * LOG(4) + 0.1 * LOG(8) + 0.1 * LOG(8 / 5) + 0.8 * LOG(0.8) + 0.2 * LOG(0.1)
    assert formulas.cross_entropy(STUDENT, jnp.array(1), 0.2) == pytest.approx(expected, rel=1e-5)


def test_label_smoothing_has_floor_zero_and_leaves_padded_columns_out():
    best = jnp.append(jnp.log(jnp.array([0.1, 0.8, 0.1])), NEG)
    value, gradient = jax.value_and_grad(lambda z: formulas.cross_entropy(z, jnp.array(1), 0.2, vocab_size=3))(best)
    assert value == pytest.approx(0, abs=1e-6)
    np.testing.assert_allclose(gradient, np.zeros(4), atol=1e-6)


def test_z_loss_by_hand():
    value, gradient = jax.value_and_grad(formulas.z_loss)(jnp.array(STUDENT))
    assert value == pytest.approx(LOG(8) ** 2, rel=1e-6)
    np.testing.assert_allclose(gradient, 2 * LOG(8) * np.array([1, 2, 5]) / 8, rtol=1e-5)


def test_distillation_by_hand():
    expected = LOG(8) / 2 + LOG(4) / 4 + LOG(8 / 5) / 4
    value, gradient = jax.value_and_grad(formulas.distillation)(jnp.array(STUDENT), jnp.array(TEACHER))
    assert value == pytest.approx(expected, rel=1e-6)
    np.testing.assert_allclose(gradient, np.array([1 / 8 - 1 / 2, 2 / 8 - 1 / 4, 5 / 8 - 1 / 4]), atol=1e-6)


def test_distillation_at_temperature_two_by_hand():
    # Halving the logits of 1, 4, 16 gives 1, 2, 4 (of 7); of 9, 4, 1 gives 3, 2, 1 (of 6).
    student, teacher = jnp.log(jnp.array([1.0, 4.0, 16.0])), jnp.log(jnp.array([9.0, 4.0, 1.0]))
    expected = (3 * LOG(7) + 2 * LOG(7 / 2) + LOG(7 / 4)) / 6
    assert formulas.distillation(student, teacher, 2.0) == pytest.approx(expected, rel=1e-6)


def test_distillation_gives_the_teacher_no_gradient():
    gradient = jax.grad(lambda t: formulas.distillation(jnp.array(STUDENT), t))(jnp.array(TEACHER))
    np.testing.assert_array_equal(gradient, np.zeros(3))


@pytest.mark.parametrize(("student_pad", "teacher_pad"), [(0, 0), (2, 2), (0, 3), (3, 0), (1, 2)])
def test_distillation_with_padded_columns(student_pad, teacher_pad):
    student = jnp.append(STUDENT, jnp.full(student_pad, NEG))
    teacher = jnp.append(TEACHER, jnp.full(teacher_pad, NEG))
    value, gradient = jax.value_and_grad(formulas.distillation)(student, teacher)
    assert value == pytest.approx(LOG(8) / 2 + LOG(4) / 4 + LOG(8 / 5) / 4, rel=1e-6)
    np.testing.assert_allclose(gradient, [-3 / 8, 0, 3 / 8] + [0] * student_pad, atol=1e-6)


def test_sparse_with_a_ghost_bucket_by_hand():
    # Entry: id 2 at 0.7; ghost 0.3 over ids 0 and 1, which the student gives 3/8.
    teacher = sparse([2], [0.7], 0.3)
    value, gradient = jax.value_and_grad(formulas.sparse_distillation)(jnp.array(STUDENT), teacher)
    assert value == pytest.approx(0.7 * LOG(8 / 5) + 0.3 * LOG(8 / 3), rel=1e-6)
    # p - q, with the ghost's mass spread as the student spreads it: 0.3 x (1/3, 2/3).
    np.testing.assert_allclose(gradient, [1 / 8 - 0.1, 2 / 8 - 0.2, 5 / 8 - 0.7], atol=1e-6)


@pytest.mark.parametrize("tail", [None, 0.0])
def test_sparse_weights_of_one_id_add_and_unused_entries_do_not_count(tail):
    teacher = sparse([0, 2, 0, 99], [0.5, 0.25, 0.25, 0.0], tail)
    value, gradient = jax.value_and_grad(formulas.sparse_distillation)(jnp.array(STUDENT), teacher)
    assert value == pytest.approx(0.75 * LOG(8) + 0.25 * LOG(8 / 5), rel=1e-6)
    np.testing.assert_allclose(gradient, [1 / 8 - 0.75, 2 / 8, 5 / 8 - 0.25], atol=1e-6)


def test_sparse_names_an_id_twice_and_has_a_ghost():
    teacher = sparse([2, 2], [0.4, 0.3], 0.3)
    expected = 0.7 * LOG(8 / 5) + 0.3 * LOG(8 / 3)
    assert formulas.sparse_distillation(jnp.array(STUDENT), teacher) == pytest.approx(expected, rel=1e-6)


def test_sparse_with_every_id_named_drops_the_ghost_that_rounding_left():
    teacher = sparse([0, 1, 2], [0.5, 0.25, 0.25], 1e-8)
    value, gradient = jax.value_and_grad(formulas.sparse_distillation)(jnp.append(STUDENT, NEG), teacher)
    assert value == pytest.approx(LOG(8) / 2 + LOG(4) / 4 + LOG(8 / 5) / 4, rel=1e-6)
    np.testing.assert_allclose(gradient, [-3 / 8, 0, 3 / 8, 0], atol=1e-6)


def test_the_ghost_is_exact_where_one_minus_the_sum_would_be_nothing():
    # The student leaves e^-40 for each of two columns: in float32 its top probability is 1.
    student, teacher = jnp.array([40.0, 0.0, 0.0]), sparse([0], [0.9], 0.1)
    value, gradient = jax.value_and_grad(formulas.sparse_distillation)(student, teacher)
    assert value == pytest.approx(0.1 * (40 - LOG(2)), rel=1e-6)
    np.testing.assert_allclose(gradient, [0.1, -0.05, -0.05], atol=1e-6)


def test_sparse_temperature_is_the_one_it_was_stored_with():
    student = jnp.log(jnp.array([1.0, 4.0, 16.0]))  # at temperature 2: 1/7, 2/7, 4/7
    value = formulas.sparse_distillation(student, sparse([2], [0.5], 0.5, temperature=2.0))
    assert value == pytest.approx(0.5 * LOG(7 / 4) + 0.5 * LOG(7 / 3), rel=1e-6)


def test_tail_draws_are_unbiased():
    """Over all outcomes of two draws from the tail, weighted by their probability: loss and gradient are the dense."""
    rng = np.random.default_rng(0)
    logits, teacher_logits = jnp.asarray(rng.normal(size=7)), jnp.asarray(rng.normal(size=7) * 2)
    p = np.asarray(jax.nn.softmax(teacher_logits), np.float64)
    top, tail = np.argsort(-p)[:3], np.argsort(-p)[3:]
    left = p[tail].sum()
    value, gradient = 0.0, np.zeros(7)
    for draws in itertools.product(tail, repeat=2):
        chance = np.prod(p[list(draws)] / left)
        teacher = sparse([*top, *draws], [*p[top], left / 2, left / 2], None)
        v, g = jax.value_and_grad(formulas.sparse_distillation)(logits, teacher)
        value, gradient = value + chance * v, gradient + chance * g
    dense_value, dense_gradient = jax.value_and_grad(formulas.distillation)(logits, teacher_logits)
    assert float(value) == pytest.approx(float(dense_value), rel=1e-5)
    np.testing.assert_allclose(gradient, dense_gradient, atol=1e-6)


@pytest.mark.parametrize(
    ("logits", "target", "right"),
    [
        ([0, 5, 5, 1], 1, True),
        ([0, 5, 5, 1], 2, False),
        ([3, 3, 3, 3], 0, True),
        ([3, 3, 3, 3], 3, False),
        ([NEG, -9, NEG, NEG], 1, True),
        ([0, 1, 2, NEG], 1, False),
    ],
)
def test_the_lowest_id_wins_a_tie(logits, target, right):
    assert bool(formulas.top1_correct(jnp.array(logits, jnp.float32), jnp.array(target))) is right


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_top1_correct_equals_argmax(dtype):
    rng = np.random.default_rng(0)
    # Few distinct values: nearly every row has a tie at the top.
    logits = jnp.asarray(rng.integers(0, 3, (50, 9)), dtype).at[:, -2:].set(-jnp.inf)
    for target in range(9):
        targets = jnp.full(50, target)
        np.testing.assert_array_equal(formulas.top1_correct(logits, targets), np.argmax(logits, -1) == target)


def test_top1_correct_refuses_nan():
    assert not formulas.top1_correct(jnp.array([jnp.nan, 1.0]), jnp.array(1))
    assert not formulas.top1_correct(jnp.array([jnp.nan, jnp.nan]), jnp.array(1))


def test_bfloat16_logits_are_summed_in_float32():
    logits = jnp.zeros(4096, jnp.bfloat16)  # a sum of 4096 ones in bfloat16 stops at 256
    value = formulas.cross_entropy(logits, jnp.array(7))
    assert value.dtype == jnp.float32
    assert value == pytest.approx(LOG(4096), rel=1e-6)
    assert jax.grad(lambda z: formulas.cross_entropy(z, jnp.array(7)))(logits).dtype == jnp.bfloat16


def test_a_target_beyond_the_vocabulary_is_not_finite():
    assert jnp.isnan(formulas.cross_entropy(jnp.array(STUDENT), jnp.array(3)))
    assert jnp.isinf(formulas.cross_entropy(jnp.append(STUDENT, NEG), jnp.array(3)))
