"""What each layout keeps of a position, by hand and against float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cat_jax.errors import UserError
from cat_jax.losses.formulas import distillation, sparse_distillation
from cat_jax.teacher.codes import MAX_RELATIVE_ERROR
from cat_jax.teacher.layout import BitLayout, FullLayout, SparseLayout, layout_from_dict, pack_records


def through(layout, logits, targets, uniforms=None):
    """Encoded, packed to bytes, padded by two empty positions, and assembled: the signal of one row."""
    n, vocab = logits.shape
    uniforms = jnp.full(n, 0.5) if uniforms is None else uniforms
    encoded = jax.jit(layout.encode)(jnp.asarray(logits), jnp.asarray(targets), uniforms)
    fields = {name: np.asarray(values) for name, values in encoded.items()}
    padded = {"top1_correct": np.pad(fields["top1_correct"], (0, 2))[None]}
    if dtype := layout.record_dtype(vocab):
        records = pack_records(dtype, fields)
        assert records.nbytes == n * dtype.itemsize
        padded["records"] = np.pad(records.view(np.uint8).reshape(n, -1), ((0, 2), (0, 0)))[None]
    return layout.assemble(padded, vocab)


def log(probabilities):
    return np.log(np.asarray(probabilities, np.float32))


def test_bit_by_hand():
    logits = np.array([[1, 5, 2], [1, 5, 2], [4, 4, 0], [4, 4, 0]], np.float32)
    signal = through(BitLayout(), logits, np.array([1, 2, 0, 1]))  # of equal logits the lowest id is the top
    assert signal.top1_correct.tolist() == [[True, False, True, False, False, False]]
    assert signal.sparse is None
    assert signal.logits is None
    assert BitLayout().record_dtype(10) is None


def test_sparse_by_hand():
    p = [[0.125, 0.5, 0.125, 0.25], [0.25, 0.25, 0.25, 0.25]]
    signal = through(SparseLayout(top_k=2, tail_draws=0), log(p), np.array([1, 1]))
    assert signal.top1_correct.tolist() == [[True, False, False, False]]
    sparse = signal.sparse
    assert sparse.token_ids[0, :2].tolist() == [[1, 3], [0, 1]]
    np.testing.assert_allclose(sparse.probabilities[0, :2], [[0.5, 0.25], [0.25, 0.25]], rtol=3e-4)
    np.testing.assert_allclose(sparse.tail_mass[0, :2], [0.25, 0.5], rtol=3e-4)

    # Four draws from a tail of two equal ids are two of each, whatever the uniform number.
    drawn = through(SparseLayout(top_k=2, tail_draws=4), log(p), np.array([1, 1])).sparse
    assert drawn.token_ids[0, :2].tolist() == [[1, 3, 0, 0, 2, 2], [0, 1, 2, 2, 3, 3]]
    np.testing.assert_allclose(
        drawn.probabilities[0, :2], [[0.5, 0.25] + [0.0625] * 4, [0.25, 0.25] + [0.125] * 4], rtol=3e-4
    )
    assert drawn.tail_mass is None


def test_as_many_draws_as_the_tail_needs():
    # Tails of 1/2, 1/8, 1/32 and 0, one draw for each started eighth but at most three; counts are on disk.
    p = np.array([[0.5, 0.5, 0, 0], [0.875, 0, 0.125, 0], [0.96875, 0, 0, 0.03125], [1, 0, 0, 0]])
    layout = SparseLayout(top_k=1, tail_draws=3, draw_mass=1 / 7.5)
    with np.errstate(divide="ignore"):
        sparse = through(layout, log(p), np.zeros(4, int)).sparse
    assert sparse.token_ids[0, :4].tolist() == [[0, 1, 1, 1], [0, 2, 0, 0], [0, 3, 0, 0], [0, 0, 0, 0]]
    weights = [[0.5, 1 / 6, 1 / 6, 1 / 6], [0.875, 0.125, 0, 0], [0.96875, 0.03125, 0, 0], [1, 0, 0, 0]]
    np.testing.assert_allclose(sparse.probabilities[0, :4], weights, rtol=3e-4)
    assert sparse.probabilities[0, 4:].tolist() == [[1, 0, 0, 0]] * 2
    ragged = layout.ragged(4)
    heads = np.zeros((4, ragged.head), np.uint8)
    heads[:, :2] = np.array([[64115], [61276], [58437], [0]], "<u2").view(np.uint8)
    assert ragged.rest(heads).tolist() == [6, 2, 2, 0]
    assert SparseLayout(draw_mass=0).ragged(4) is None


def test_temperature_by_hand():
    # softmax(log p / 2) is in proportion to sqrt p: 4, 2, 1, 1 over 8. The bit and log p(target) stay at temperature 1.
    p = np.array([[16, 4, 1, 1]]) / 22
    layout = SparseLayout(top_k=2, tail_draws=0, temperature=2.0, target_log_probability=True)
    sparse = through(layout, log(p), np.array([0])).sparse
    np.testing.assert_allclose(sparse.probabilities[0, 0], [0.5, 0.25], rtol=3e-4)
    np.testing.assert_allclose(sparse.tail_mass[0, 0], 0.25, rtol=3e-4)
    assert sparse.temperature == 2.0
    fields = layout.encode(jnp.asarray(log(p)), jnp.array([1]), jnp.zeros(1))
    records = pack_records(layout.record_dtype(4), {k: np.asarray(v) for k, v in fields.items()})
    got = layout.target_log_probabilities(records.view(np.uint8).reshape(1, -1), 4)
    np.testing.assert_allclose(got, np.log(4 / 22), atol=2.5e-4)
    assert layout.check_temperature(2.0) is None
    assert "2" in layout.check_temperature(1.0)
    assert "1" in layout.check_temperature(1.0)


@pytest.mark.parametrize(("vocab", "scale"), [(300, 0.0), (300, 1.0), (70_000, 4.0), (300, 30.0)])
def test_sparse_against_float64(vocab, scale):
    """Flat, usual and peaked teachers; ids of two and of three bytes."""
    rng = np.random.default_rng(int(scale))
    logits = (scale * rng.normal(size=(6, vocab))).astype(np.float32)
    targets, uniforms = rng.integers(0, vocab, 6), jnp.asarray(rng.random(6), jnp.float32)
    p = np.exp(logits - logits.max(-1, keepdims=True).astype(np.float64))
    p /= p.sum(-1, keepdims=True)
    order = np.argsort(-logits, axis=-1, kind="stable")[:, :8]
    for draws in (0, 16):
        signal = through(SparseLayout(top_k=8, tail_draws=draws), logits, targets, uniforms)
        ids, probabilities = signal.sparse.token_ids[0, :6], signal.sparse.probabilities[0, :6].astype(np.float64)
        assert (ids[:, :8] == order).all()
        assert ((ids >= 0) & (ids < vocab)).all()
        exact = np.take_along_axis(p, order, -1)
        tolerance = 3 * MAX_RELATIVE_ERROR * np.minimum(exact, 1 - exact) + 1e-7
        assert (np.abs(probabilities[:, :8] - exact) <= tolerance + 3e-4 * exact * (exact < 0.5)).all()
        ghost = 0 if draws else signal.sparse.tail_mass[0, :6]
        total = probabilities.sum(-1) + ghost
        np.testing.assert_allclose(total, 1, rtol=3e-7)
        tail = p.sum(-1) - exact.sum(-1)
        kept = probabilities[:, 8:].sum(-1) + ghost
        np.testing.assert_allclose(kept, tail, rtol=1e-3, atol=3e-7)
        assert (probabilities >= 0).all()
        if draws:
            assert not (ids[:, 8:, None] == order[:, None, :]).any(-1)[tail > 1e-6].any()
        assert (signal.top1_correct[0, :6] == (order[:, 0] == targets)).all()


@pytest.mark.parametrize(("vocab", "scale", "temperature"), [(300, 1.0, 1.0), (300, 4.0, 2.0), (70_000, 4.0, 1.0)])
@pytest.mark.parametrize("draws", [0, 16])
def test_the_squared_error_is_that_of_what_is_assembled(vocab, scale, temperature, draws):
    rng = np.random.default_rng(int(scale))
    logits = (scale * rng.normal(size=(6, vocab))).astype(np.float32)
    uniforms = jnp.asarray(rng.random(6), jnp.float32)
    layout = SparseLayout(top_k=8, tail_draws=draws, temperature=temperature)
    sparse = through(layout, logits, np.zeros(6, int), uniforms).sparse
    stored = np.zeros((6, vocab))
    for k in range(8 + draws):
        np.add.at(stored, (np.arange(6), sparse.token_ids[0, :6, k]), sparse.probabilities[0, :6, k])
    p = np.exp((logits - logits.max(-1, keepdims=True)).astype(np.float64) / temperature)
    expected = np.square(stored - p / p.sum(-1, keepdims=True)).sum(-1)
    found = jax.jit(layout.encode)(jnp.asarray(logits), jnp.zeros(6, int), uniforms)["squared_error"]
    assert expected.min() > 1e-6
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-7)


def test_the_squared_error_by_hand():
    # Of the tail 1/4, 1/8 one draw has all: off by 1/8 and 1/8, or by 1/4 and 1/4. The ghost is off by both.
    logits = jnp.asarray(log([[0.625, 0.25, 0.125]] * 2))
    targets, uniforms = jnp.zeros(2, int), jnp.array([0.1, 0.9])
    error = lambda layout: jax.jit(layout.encode)(logits, targets, uniforms)["squared_error"]  # noqa: E731
    np.testing.assert_allclose(error(SparseLayout(top_k=1, tail_draws=1)), [2 / 64, 2 / 16], rtol=2e-3)
    np.testing.assert_allclose(error(SparseLayout(top_k=1, tail_draws=0)), [5 / 64] * 2, rtol=2e-3)
    assert error(FullLayout()).tolist() == [0, 0]


def test_confident_teachers_keep_their_digits():
    """1 - p(top-1) = 2e-4: in float16 the top-1 would be 1 and the entries would sum to more."""
    p = np.array([[1 - 2e-4, 1e-4, 0.6e-4, 0.4e-4]])
    sparse = through(SparseLayout(top_k=2, tail_draws=0), log(p), np.array([0])).sparse
    np.testing.assert_allclose(1 - sparse.probabilities[0, 0, 0].astype(np.float64), 2e-4, rtol=1e-3)


def test_draws_make_the_distillation_gradient_unbiased_and_the_ghost_does_not():
    """Mean over positions with one teacher: the draws' gradient tends to the full one, truncation stays away."""
    rng = np.random.default_rng(0)
    vocab, positions = 60, 3000
    teacher, student = rng.normal(size=vocab) * 1.5, jnp.asarray(rng.normal(size=vocab), jnp.float32)
    logits = np.tile(teacher.astype(np.float32), (positions, 1))
    uniforms = jnp.asarray(rng.random(positions), jnp.float32)
    full = jax.grad(lambda s: distillation(s, jnp.asarray(teacher, jnp.float32)))(student)

    def relative_error(draws):
        layout = SparseLayout(top_k=4, tail_draws=draws)
        sparse = jax.tree.map(
            lambda x: x[0, :positions], through(layout, logits, np.zeros(positions, int), uniforms).sparse
        )
        loss = lambda s: sparse_distillation(jnp.broadcast_to(s, (positions, vocab)), sparse).mean()  # noqa: E731
        mean = jax.jit(jax.grad(loss))(student)
        return float(jnp.linalg.norm(mean - full) / jnp.linalg.norm(full))

    assert relative_error(8) < 0.03
    assert relative_error(0) > 0.1


def test_padded_positions_are_finite():
    layout = SparseLayout(top_k=3, tail_draws=2)
    sparse = through(layout, np.zeros((1, 5), np.float32), np.array([0])).sparse
    assert sparse.probabilities[0, 1:].tolist() == [[1, 0, 0, 0, 0]] * 2
    assert sparse.token_ids[0, 1:].tolist() == [[0] * 5] * 2


def test_full_is_exact_and_drops_padded_columns():
    logits = np.random.default_rng(0).normal(size=(4, 9)).astype(np.float32)
    assert (through(FullLayout(), logits, np.zeros(4, int)).logits[0, :4] == logits).all()
    wide = np.pad(logits, ((0, 0), (0, 7)), constant_values=-np.inf)
    records = pack_records(FullLayout().record_dtype(9), {"top1_correct": np.zeros(4, bool), "logits": wide})
    assert (records["logits"] == logits).all()


@pytest.mark.parametrize(
    ("layout", "vocab", "bytes_per_record"),
    [
        (SparseLayout(), 32128, 130),
        (SparseLayout(), 151_936, 186),
        (SparseLayout(top_k=4, tail_draws=40), 65536, 98),
        (SparseLayout(top_k=4, tail_draws=40, target_log_probability=True), 32128, 100),
        (SparseLayout(top_k=16, tail_draws=0), 32128, 66),
        (FullLayout(), 136, 544),
    ],
)
def test_bytes_of_a_record(layout, vocab, bytes_per_record):
    assert layout.record_dtype(vocab).itemsize == bytes_per_record
    assert layout_from_dict(layout.to_dict()) == layout


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: SparseLayout(top_k=0), "SparseLayout.top_k is 0"),
        (lambda: SparseLayout(tail_draws=-1), "SparseLayout.tail_draws is -1"),
        (lambda: SparseLayout(draw_mass=1.0), "SparseLayout.draw_mass is 1.0"),
        (lambda: SparseLayout(temperature=0.0), "SparseLayout.temperature is 0.0"),
        (lambda: SparseLayout(top_k=8).record_dtype(7), "top 8 of a vocabulary of 7"),
        (lambda: layout_from_dict({"kind": "wavelet"}), "unknown signal layout"),
        (lambda: layout_from_dict({"kind": "bit", "top_k": 3}), "unknown signal layout"),
        (
            lambda: SparseLayout().target_log_probabilities(np.zeros((1, 130), "u1"), 99),
            "no target log-probabilities",
        ),
    ],
)
def test_refusals(make, words):
    with pytest.raises(UserError, match=words):
        make()
