"""The fused head against the float64 oracle and against whole logits: sums, gradients, and what it leaves to others."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from losses_cases import batch_of, random_case, run, run_jit, run_once, signal_of, student_of, with_sparse
from test_objective_oracle import CAT_DIST, CAT_XENT, SETTINGS, case_for, check

from cat_jax.errors import UserError
from cat_jax.losses.fused import FusedHead
from cat_jax.losses.objective import Objective
from cat_jax.losses.terms import Terms
from cat_jax.types import Batch, Head, ModelOutput, SparseDistribution, TeacherSignal

pytestmark = pytest.mark.slow

UNEVEN, ONE = FusedHead(block_tokens=7), FusedHead(block_tokens=1000)  # 24 tokens: blocks of 8, and one of all


def same(left, right, tolerance):
    (left, left_gradients), (right, right_gradients) = left, right
    close = {"rtol": tolerance, "atol": tolerance}
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, **close), left, right)
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, **close), left_gradients, right_gradients)


@pytest.mark.parametrize(
    ("fields", "kind", "head"),
    [*((*each, UNEVEN) for each in SETTINGS), (*SETTINGS[4], ONE), (*SETTINGS[14], ONE)],
    ids=str,
)
def test_float64_equals_the_oracle(fields, kind, head):
    with jax.enable_x64(True):
        case = case_for(fields, kind, fractional=True)
        padded = {"padding": 3, "teacher_padding": 2} if head is UNEVEN else {}
        check(case, fields, kind, jnp.float64, 1e-11, **padded, run=lambda *args: run_once(*args, head=head))


@pytest.mark.parametrize(("fields", "kind"), [SETTINGS[4], SETTINGS[13], SETTINGS[14]], ids=str)
@pytest.mark.parametrize("padding", [pytest.param(0, marks=pytest.mark.exhaustive), 3])
def test_softcap(fields, kind, padding):
    with jax.enable_x64(True):
        case = case_for(fields, kind)
        student = student_of(case, jnp.float64, padding, softcap=1.7)
        temperature = fields.get("temperature", 1.0)
        arguments = (
            Objective(**fields),
            student,
            batch_of(case),
            signal_of(case, kind, jnp.float64, padding=padding, temperature=temperature),
        )
        same(run_once(*arguments, head=UNEVEN), run_once(*arguments), 1e-11)


@pytest.mark.parametrize(("fields", "kind"), [(CAT_XENT, "bit"), (CAT_DIST, "output"), (CAT_DIST, "sparse")], ids=str)
def test_tpu_way_of_making_the_gradient_twice(fields, kind, monkeypatch):
    monkeypatch.setattr(FusedHead, "_platform", lambda self: "tpu")
    with jax.enable_x64(True):
        check(case_for(fields, kind), fields, kind, jnp.float64, 1e-11, run=lambda *args: run_once(*args, head=UNEVEN))


@pytest.mark.parametrize(("fields", "kind"), [(CAT_XENT, "bit"), (CAT_DIST, "output"), (CAT_DIST, "sparse")], ids=str)
def test_bfloat16_inputs_have_float32_sums(fields, kind):
    """As the dense head's: the loss to float32's precision, gradients to bfloat16's."""
    case = case_for(fields, kind)
    student, signal = student_of(case, jnp.bfloat16), signal_of(case, kind, jnp.bfloat16)
    arguments = Objective(**fields), student, batch_of(case), signal
    fused, (d_hidden, d_kernel) = run_jit(*arguments, head=UNEVEN)
    exact, gradients = run_jit(*jax.tree.map(_wider, arguments))
    assert fused.loss_sum.dtype == jnp.float32
    assert d_hidden.dtype == d_kernel.dtype == jnp.bfloat16
    np.testing.assert_allclose(fused.loss_sum, exact.loss_sum, rtol=2e-6)
    same((fused.sums, (d_hidden.astype(jnp.float32), d_kernel.astype(jnp.float32))), (exact.sums, gradients), 0.02)


def _wider(x):
    return x.astype(jnp.float32) if getattr(x, "dtype", None) == jnp.bfloat16 else x


@pytest.mark.parametrize("kind", ["output", "logits", "sparse"])
def test_nan_where_nothing_counts_reaches_nothing(kind):
    case = case_for(CAT_DIST, kind)
    signal, batch = signal_of(case, kind, jnp.float32), batch_of(case)
    uncounted = (case.weights == 0)[..., None]

    def poisoned(x):
        floating = x.ndim == 3 and jnp.issubdtype(x.dtype, jnp.floating)
        return jnp.where(uncounted, jnp.nan, x) if floating and x.shape[:2] == uncounted.shape[:2] else x

    student = student_of(case, jnp.float32)
    bad = dataclasses.replace(student, hidden=poisoned(student.hidden)), batch, jax.tree.map(poisoned, signal)
    objective = Objective(**CAT_DIST)
    same(run(objective, *bad, head=UNEVEN), run(objective, student, batch, signal, head=UNEVEN), 0)


def test_ties_go_to_the_lowest_id():
    case = random_case()
    case.kernel = np.round(case.kernel)
    case.hidden = np.round(case.hidden)
    arguments = (
        Objective(**CAT_DIST),
        student_of(case, jnp.float32),
        batch_of(case),
        signal_of(case, "output", jnp.float32),
    )
    fused, dense = run(*arguments, head=UNEVEN)[0], run(*arguments)[0]
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-6), fused.sums, dense.sums)


def test_a_wider_teacher_is_right_by_all_of_its_columns():
    """For the bit alone the teacher may have ids that the student lacks."""
    case = random_case()
    signal = signal_of(case, "output", jnp.float32)
    kernel = jnp.pad(signal.output.head.kernel, ((0, 0), (0, 2)), constant_values=100.0)
    head = dataclasses.replace(signal.output.head, kernel=kernel, vocab_size=kernel.shape[1])
    signal = dataclasses.replace(signal, top1_correct=None, output=dataclasses.replace(signal.output, head=head))
    arguments = Objective(**CAT_XENT), student_of(case, jnp.float32), batch_of(case), signal
    same(run(*arguments, head=UNEVEN), run(*arguments), 1e-5)


class Halved(Objective):
    """A factor of one's own, of the token alone."""

    def token_weights(self, tokens):
        return jnp.where(tokens.cross_entropy > 2, 0.5, 1.0)


class WhereTheTeacherErrs(Objective):
    """A factor of one's own that looks at the teacher."""

    reads_teacher = True

    def token_weights(self, tokens):
        assert tokens.teacher_right.dtype == tokens.student_right.dtype == bool
        return jnp.where(~tokens.teacher_right, 3.0, 1.0)


class Squared(Objective):
    """Sums of one's own."""

    def sum_up(self, tokens, batch, **rest):
        return super().sum_up(dataclasses.replace(tokens, loss=tokens.loss**2), batch, **rest)


@pytest.mark.parametrize("kind", [Halved, Squared, WhereTheTeacherErrs])
def test_objectives_of_ones_own(kind):
    case = random_case()
    for signal in ("output", "logits"):  # the bit is made of logits, or given
        arguments = (
            kind(**CAT_DIST),
            student_of(case, jnp.float32),
            batch_of(case),
            signal_of(case, signal, jnp.float32),
        )
        same(run(*arguments, head=UNEVEN), run(*arguments), 1e-5)


class OfFiniteLoss(Objective):
    """A factor of one's own that leaves out what cannot be learnt."""

    def token_weights(self, tokens):
        return jnp.where(jnp.isfinite(tokens.loss), 1.0, 0.0)


@pytest.mark.parametrize("head", [None, ONE])
@pytest.mark.parametrize("every", [False, True])
def test_a_factor_of_0_leaves_out_an_infinite_loss(head, every):
    """A target that is a padded column has no probability: as if it had no weight, and where all do, 0."""
    case = random_case()
    lost = np.arange(case.targets.size).reshape(case.targets.shape) % (1 if every else 3) == 0
    fields, student = {"w": 1, "keep": "all"}, student_of(case, jnp.float32, padding=2)
    others = dataclasses.replace(case, weights=case.weights * ~lost)
    expected = run(Objective(**fields), student, batch_of(others), None)
    case.targets = np.where(lost, case.kernel.shape[1], case.targets)
    assert np.isinf(Objective(**fields).tokens(student, batch_of(case), None).loss[0])
    output, gradients = run(OfFiniteLoss(**fields), student, batch_of(case), None, head=head)
    np.testing.assert_allclose(output.loss_sum, expected[0].loss_sum, rtol=1e-6)
    np.testing.assert_allclose(output.sums["loss"], expected[0].sums["loss"], rtol=1e-6)
    for gradient, wanted in zip(gradients, expected[1], strict=True):
        np.testing.assert_allclose(gradient, wanted, rtol=1e-5, atol=1e-6)
    assert not every or output.loss_sum == output.sums["loss"][0] == 0


class Unsaid(Objective):
    """Looks at the teacher, and does not say so."""

    def token_weights(self, tokens):
        return jnp.where(tokens.teacher_right & tokens.student_right, 1.0, 2.0)


@pytest.mark.parametrize("head", [None, ONE])
def test_looking_at_a_teacher_that_is_not_there_is_told(head):
    case = random_case()
    with pytest.raises(UserError, match=r"Unsaid.token_weights .*: set reads_teacher = True"):
        run(Unsaid(w=1.0, keep="all"), student_of(case, jnp.float32), batch_of(case), None, head=head)


def test_a_random_keep_rule():
    case = random_case()
    uniform = jax.random.uniform(jax.random.key(0), case.weights.shape)
    arguments = Objective(w=1.0, keep="random(0.5)"), student_of(case, jnp.float32), batch_of(case), None
    same(run(*arguments, uniform=uniform, head=UNEVEN), run(*arguments, uniform=uniform), 1e-5)


@dataclasses.dataclass(frozen=True)
class More(Terms):
    """A term that only the dense head has."""

    entropy: float = 0.0


def test_a_term_that_is_not_known_is_left_to_the_dense_head():
    assert FusedHead().takes(More(0.5))
    assert FusedHead().takes(Terms(0.3, 2.0, 0.1, 0.1))
    assert not FusedHead().takes(More(0.5, entropy=0.1))


def test_errors_are_those_of_the_dense_head():
    case = random_case()
    student, batch = student_of(case, jnp.float32), batch_of(case)
    with pytest.raises(UserError, match="needs the teacher's distribution"):
        run(Objective(**CAT_DIST), student, batch, signal_of(case, "bit", jnp.float32), head=ONE)
    with pytest.raises(UserError, match="needs a teacher"):
        run(Objective(**CAT_XENT), student, batch, None, head=ONE)
    sparse = signal_of(with_sparse(case, 4, ghost=True), "sparse", jnp.float32)
    with pytest.raises(ValueError, match="uniform"):
        run(Objective(w=1.0, keep="random(0.5)"), student, batch, None, head=ONE)
    with pytest.raises(UserError, match="temperature"):
        run(Objective(w=0.5, temperature=2.0), student, batch, sparse, head=ONE)


@pytest.mark.parametrize("kind", ["output", "sparse"])
def test_no_array_of_tokens_by_vocabulary(kind):
    """A gradient of 2,048 tokens and 4,096 ids needs the memory of a few blocks of 128, not one of 2,048."""

    def of(*shape, dtype=jnp.float32):
        return jax.ShapeDtypeStruct((8, 256, *shape), dtype)

    vocabulary = 4096
    student = ModelOutput(of(16), Head(jax.ShapeDtypeStruct((16, vocabulary), jnp.float32), vocabulary))
    batch = Batch(of(dtype=jnp.int32), of(dtype=jnp.int32), of())
    entries = SparseDistribution(of(4, dtype=jnp.int32), of(4), of())
    signal = {"output": TeacherSignal(None, output=student), "sparse": TeacherSignal(of(dtype=bool), sparse=entries)}

    def temporaries(head):
        compiled = run_jit.lower(Objective(**CAT_DIST), student, batch, signal[kind], head=head).compile()
        return compiled.memory_analysis().temp_size_in_bytes

    whole = 4 * 2048 * vocabulary
    assert temporaries(FusedHead(block_tokens=128)) < whole / 2
    assert temporaries(None) > whole
