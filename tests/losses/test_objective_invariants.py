"""What must hold between objectives, signals and splits of a batch, whatever the numbers are."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from losses_cases import B, D, T, V, batch_of, random_case, run, run_once, signal_of, student_of, with_sparse
from losses_oracle import first_argmax

from cat_jax.losses.formulas import top1_correct
from cat_jax.losses.objective import Objective, divide
from cat_jax.types import Head, LossOutput, ModelOutput, TeacherSignal

F32 = jnp.float32
CASE = random_case()
STUDENT, BATCH = student_of(CASE, F32), batch_of(CASE)
BIT, LOGITS = signal_of(CASE, "bit", F32), signal_of(CASE, "logits", F32)


def with_right(signal, right):
    return dataclasses.replace(signal, top1_correct=jnp.broadcast_to(jnp.asarray(right), CASE.targets.shape))


def _student_right():
    return np.array([[first_argmax(z) for z in row] for row in CASE.hidden @ CASE.kernel]) == CASE.targets


def assert_same(one, other, *, exact=False, sums=True):
    """Equal loss, normaliser and gradients of two results of `run`; and equal sums where both have them."""
    compare = np.testing.assert_array_equal if exact else lambda a, b: np.testing.assert_allclose(a, b, 1e-5, 1e-6)
    (output, gradients), (other_output, other_gradients) = one, other
    compare(output.loss_sum, other_output.loss_sum)
    compare(output.weight_sum, other_output.weight_sum)
    jax.tree.map(compare, gradients, other_gradients)
    if sums:
        jax.tree.map(compare, dict(output.sums), dict(other_output.sums))


def test_alpha_one_everywhere_gives_dist():
    assert_same(run(Objective(keep="random(1)"), STUDENT, BATCH, LOGITS, uniform=jnp.full((B, T), 0.999)),
                run(Objective(keep="all"), STUDENT, BATCH, LOGITS))  # fmt: skip


def test_w_one_gives_xent_and_asks_for_no_distribution():
    dist_at_one = run(Objective(w=1, keep="all", name="dist"), STUDENT, BATCH, LOGITS)
    assert_same(dist_at_one, run(Objective(w=1, keep="all"), STUDENT, BATCH, None), sums=False)


@pytest.mark.parametrize("w", [0.5, 1.0])
@pytest.mark.parametrize("normalizer", ["target_tokens", "kept_tokens"])
def test_a_teacher_always_right_makes_cat_plain(w, normalizer):
    always_right = with_right(LOGITS, True)
    cat, plain = (Objective(w=w, keep=keep, normalizer=normalizer) for keep in ("either", "all"))
    assert_same(run(cat, STUDENT, BATCH, always_right), run(plain, STUDENT, BATCH, always_right))


@pytest.mark.parametrize("w", [0.5, 1.0])
def test_a_teacher_always_wrong_trains_only_what_the_student_gets_right(w):
    always_wrong = with_right(LOGITS, False)
    right = _student_right()
    masked = dataclasses.replace(BATCH, decoder_loss_weights=BATCH.decoder_loss_weights * right)
    cat = run(Objective(w=w), STUDENT, BATCH, always_wrong)
    plain = run(Objective(w=w, keep="all"), STUDENT, masked, always_wrong)
    assert cat[0].loss_sum > 0
    np.testing.assert_allclose(cat[0].loss_sum, plain[0].loss_sum, rtol=1e-6)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, 1e-5, 1e-6), cat[1], plain[1])
    trained = np.any(np.asarray(cat[1][0]) != 0, axis=-1)
    np.testing.assert_array_equal(trained, right & (CASE.weights > 0))


@pytest.mark.parametrize("kind", ["logits", "sparse"])
@pytest.mark.parametrize("normalizer", ["target_tokens", "kept_tokens"])
@pytest.mark.parametrize("nothing", ["alpha", "weights"])
def test_where_nothing_is_kept_the_gradient_is_zero_and_not_nan(kind, normalizer, nothing):
    case = with_sparse(CASE, 3, ghost=True)
    signal = with_right(signal_of(case, kind, F32), False)
    batch = BATCH
    if nothing == "weights":
        batch = dataclasses.replace(BATCH, decoder_loss_weights=jnp.zeros((B, T)))
    else:  # the student must be wrong too
        wrong = (np.argmax(CASE.hidden @ CASE.kernel, -1) + 1) % V
        batch = dataclasses.replace(BATCH, decoder_target_tokens=jnp.asarray(wrong, jnp.int32))
    objective = Objective(normalizer=normalizer, label_smoothing=0.1, z_loss=0.1)
    output, gradients = run(objective, STUDENT, batch, signal)
    assert output.loss_sum == 0
    assert float(output.weight_sum) == (0 if nothing == "weights" or normalizer == "kept_tokens" else 15)
    for gradient in gradients:
        np.testing.assert_array_equal(gradient, 0)
        np.testing.assert_array_equal(divide(gradient, output.weight_sum), 0)
    assert divide(output.loss_sum, output.weight_sum) == 0


def test_a_live_teacher_equals_its_stored_logits():
    rng = np.random.default_rng(3)
    head = Head(jnp.asarray(rng.normal(size=(7, V + 2)), F32), V)
    teacher = ModelOutput(jnp.asarray(rng.normal(size=(B, T, 7)), F32), head)
    logits = head.logits(teacher.hidden)
    right = top1_correct(logits, BATCH.decoder_target_tokens)
    live = run_once(Objective(), STUDENT, BATCH, TeacherSignal(right, output=teacher))
    stored = TeacherSignal(right, logits=jnp.asarray(np.asarray(logits)[..., :V]))
    assert_same(live, run_once(Objective(), STUDENT, BATCH, stored))
    assert_same(live, run_once(Objective(), STUDENT, BATCH, TeacherSignal(None, output=teacher)), exact=True)


def test_a_teacher_of_which_nothing_is_known_is_refused():
    with pytest.raises(ValueError, match="needs top1_correct or output"):
        Objective(w=1)(STUDENT, BATCH, TeacherSignal(None, logits=LOGITS.logits))


@dataclasses.dataclass(frozen=True)
class Boosted(Objective):
    boost: float = 3.0

    def token_weights(self, tokens):
        return jnp.where(tokens.teacher_right & ~tokens.student_right, self.boost, 1.0)


@pytest.mark.parametrize("normalizer", ["target_tokens", "kept_tokens"])
@pytest.mark.parametrize("w", [0.5, 1.0])
def test_a_token_weight_scales_the_loss_and_counts_nothing_twice(normalizer, w):
    plain, boosted = (run(kind(w=w, normalizer=normalizer), STUDENT, BATCH, LOGITS) for kind in (Objective, Boosted))
    teachers = dataclasses.replace(
        BATCH, decoder_loss_weights=BATCH.decoder_loss_weights * (BIT.top1_correct & ~_student_right())
    )
    extra = run(Objective(w=w), STUDENT, teachers, LOGITS)
    assert extra[0].loss_sum > 0
    np.testing.assert_allclose(boosted[0].loss_sum, plain[0].loss_sum + 2 * extra[0].loss_sum, rtol=1e-6)
    for got, one, more in zip(boosted[1], plain[1], extra[1], strict=True):
        np.testing.assert_allclose(got, one + 2 * more, rtol=1e-5, atol=1e-6)
    assert boosted[0].weight_sum == plain[0].weight_sum
    for name in set(plain[0].sums) - {"loss"}:
        np.testing.assert_array_equal(boosted[0].sums[name], plain[0].sums[name])


@pytest.mark.parametrize(("temperature", "ghost"), [(1.0, False), (2.0, True)])
def test_the_whole_vocabulary_as_a_sparse_signal_equals_dense(temperature, ghost):
    case = with_sparse(CASE, V, temperature=temperature, ghost=ghost)
    sparse = signal_of(case, "sparse", F32, temperature=temperature)
    objective = Objective(temperature=temperature, label_smoothing=0.1)
    assert_same(run_once(objective, STUDENT, BATCH, sparse), run_once(objective, STUDENT, BATCH, LOGITS))


def test_a_token_weight_carries_no_gradient():
    @dataclasses.dataclass(frozen=True)
    class Focal(Objective):
        def token_weights(self, tokens):
            return tokens.loss

    loss = Objective(w=1).tokens(STUDENT, BATCH, BIT).loss
    _, (d_hidden, _) = run(Focal(w=1), STUDENT, BATCH, BIT)
    _, (plain, _) = run(Objective(w=1), STUDENT, BATCH, BIT)
    np.testing.assert_allclose(d_hidden, plain * loss.reshape(B, T, 1), rtol=1e-5, atol=1e-6)


def test_temperature_squared_keeps_the_gradient():
    """For logits near 0 the gradient of T^2 KD does not depend on T to first order; without T^2 it shrinks 100-fold."""
    case = random_case(scale=1e-2)
    case.teacher_logits = case.teacher_logits * 1e-2
    signal = signal_of(case, "logits", F32)
    one, ten = (
        run(Objective(w=0, keep="all", temperature=t), student_of(case, F32), batch_of(case), signal)[1][1]
        for t in (1.0, 10.0)
    )
    assert np.linalg.norm(one - ten) < 0.05 * np.linalg.norm(one)


@pytest.mark.parametrize(
    ("parts", "keep", "normalizer"),
    [(2, "either", "target_tokens"), (4, "either", "kept_tokens"), (4, "random(0.5)", "kept_tokens")],
)
def test_microbatches_add_up(parts, keep, normalizer):
    """Ragged masks, one row all masked: sums and gradients of the parts add to the whole's; means do not."""
    objective = Objective(keep=keep, normalizer=normalizer)
    task_ids = np.arange(B * T).reshape(B, T) % 3
    uniform = jax.random.uniform(jax.random.key(0), (B, T))
    batch = batch_of(CASE, task_ids)
    whole, whole_gradients = run_once(objective, STUDENT, batch, LOGITS, num_tasks=3, uniform=uniform)
    outputs, gradients = [], []
    for rows in np.split(np.arange(B), parts):
        part = jax.tree.map(lambda x, rows=rows: x[rows], (STUDENT.hidden, batch, LOGITS, uniform))
        student = ModelOutput(part[0], STUDENT.head)
        output, gradient = run_once(objective, student, part[1], part[2], num_tasks=3, uniform=part[3])
        outputs.append(output)
        gradients.append(gradient[1])
    total = jax.tree.map(lambda *x: np.sum(x, axis=0), *outputs)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, 1e-5, 1e-5), total, whole)
    np.testing.assert_allclose(np.sum(gradients, axis=0), whole_gradients[1], rtol=1e-4, atol=1e-5)
    mean_of_means = np.mean([divide(o.loss_sum, o.weight_sum) for o in outputs])
    assert abs(mean_of_means - divide(whole.loss_sum, whole.weight_sum)) > 1e-2


@pytest.mark.parametrize("garbage", [1e30, np.nan])
@pytest.mark.parametrize("kind", ["bit", "logits", "output", "sparse"])
def test_nothing_leaks_from_positions_of_weight_zero(garbage, kind):
    case = with_sparse(CASE, 3, ghost=True)
    objective = Objective(w=1.0 if kind == "bit" else 0.5, label_smoothing=0.1, z_loss=0.1, temperature=2.0)
    signal = signal_of(case, kind, F32, temperature=2.0)
    counted = jnp.asarray(CASE.weights > 0)

    def spoil(x):
        if x.shape[:2] != counted.shape or x.dtype == bool:
            return x
        bad = jnp.asarray(garbage, x.dtype) if jnp.issubdtype(x.dtype, jnp.floating) else jnp.asarray(2**30, x.dtype)
        return jnp.where(counted.reshape(*counted.shape, *[1] * (x.ndim - 2)), x, bad)

    spoilt_batch = dataclasses.replace(BATCH, decoder_target_tokens=spoil(BATCH.decoder_target_tokens))
    spoilt = ModelOutput(spoil(STUDENT.hidden), STUDENT.head), spoilt_batch, jax.tree.map(spoil, signal)
    assert_same(run(objective, *spoilt), run(objective, STUDENT, BATCH, signal), exact=True)


def test_no_gradient_reaches_the_teacher():
    signal = signal_of(CASE, "output", F32)

    def loss(output):
        return Objective()(STUDENT, BATCH, dataclasses.replace(signal, output=output), num_tasks=1).loss_sum

    assert signal.output is not None
    gradient = jax.grad(loss)(signal.output)
    jax.tree.map(lambda g: np.testing.assert_array_equal(g, 0), gradient)


def test_metric_sums_carry_no_gradient():
    def logged(hidden):
        output = Objective()(ModelOutput(hidden, STUDENT.head), BATCH, LOGITS)
        return sum(jnp.sum(x) for x in output.sums.values()) + output.weight_sum

    np.testing.assert_array_equal(jax.grad(logged)(STUDENT.hidden), 0)


def test_divide_by_hand():
    assert divide(jnp.array(6.0), jnp.array(4.0)) == 1.5
    assert divide(jnp.array(0.0), jnp.array(0.0)) == 0
    assert divide(jnp.ones(3, jnp.bfloat16), jnp.array(2.0)).dtype == jnp.bfloat16


def test_cat_with_a_stored_bit_takes_no_more_memory_than_xent():
    """Nothing of the size of the logits is added by alpha, the cells, or a sparse signal of tail draws."""
    tokens, vocabulary, k = 64, 2048, 4
    shape = (1, tokens)
    ints, floats = jnp.zeros(shape, jnp.int32), jnp.ones(shape)
    batch = dataclasses.replace(BATCH, decoder_target_tokens=ints, decoder_loss_weights=floats)
    bit = TeacherSignal(jnp.ones(shape, bool))
    case = dataclasses.replace(
        CASE,
        targets=np.zeros(shape, int),
        teacher_logits=np.zeros((*shape, 1)),
        sparse=(np.zeros((*shape, k), int), np.ones((*shape, k)) / k, np.zeros(shape)),
    )
    draws = signal_of(case, "sparse", F32)

    def temporaries(objective, signal):
        def loss(hidden, kernel):
            return objective(ModelOutput(hidden, Head(kernel, vocabulary)), batch, signal).loss_sum

        compiled = jax.jit(jax.grad(loss, (0, 1))).lower(jnp.ones((*shape, D)), jnp.ones((D, vocabulary))).compile()
        return compiled.memory_analysis().temp_size_in_bytes

    xent = temporaries(Objective(w=1, keep="all"), None)
    one_byte_a_logit = tokens * vocabulary
    assert temporaries(Objective(w=1), bit) - xent < one_byte_a_logit
    assert temporaries(Objective(w=0.5), draws) - xent < one_byte_a_logit


def test_loss_output_holds_sums():
    output, _ = run_once(Objective(w=1, keep="all"), STUDENT, BATCH, None)
    doubled = jax.tree.map(lambda x: jnp.concatenate([x, x]), (STUDENT.hidden, BATCH))
    twice, _ = run_once(Objective(w=1, keep="all"), ModelOutput(doubled[0], STUDENT.head), doubled[1], None)
    assert isinstance(output, LossOutput)
    np.testing.assert_allclose(twice.loss_sum, 2 * output.loss_sum, rtol=1e-6)
    assert twice.weight_sum == 2 * output.weight_sum == 2 * CASE.weights.sum()
