"""Every objective against the float64 oracle: sums, gradients, and finite differences of the oracle itself."""

import copy

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from losses_cases import batch_of, random_case, run_jit, run_once, signal_of, student_of, with_sparse
from losses_oracle import answer

from cat_jax.losses.objective import Objective

XENT, DIST = {"w": 1.0, "keep": "all"}, {"w": 0.3, "keep": "all"}
CAT_XENT, CAT_DIST = {"w": 1.0}, {"w": 0.3}
SETTINGS = [
    (XENT, "bit"),
    (CAT_XENT, "bit"),
    (DIST, "logits"),
    (CAT_DIST, "logits"),
    (CAT_DIST, "output"),
    (CAT_DIST, "sparse"),
    ({"w": 0.0}, "logits"),
    ({"w": 0.0}, "sparse"),
    (CAT_XENT | {"keep": "teacher", "normalizer": "kept_tokens"}, "bit"),
    (CAT_DIST | {"keep": "student", "normalizer": "kept_tokens"}, "output"),
    (CAT_DIST | {"temperature": 2.5}, "logits"),
    (CAT_DIST | {"temperature": 0.7}, "sparse"),
    (CAT_XENT | {"label_smoothing": 0.1, "z_loss": 0.02}, "bit"),
    (CAT_DIST | {"label_smoothing": 0.2, "z_loss": 0.02, "temperature": 2.0}, "logits"),
    (CAT_DIST | {"label_smoothing": 0.2, "z_loss": 0.02, "temperature": 2.0}, "sparse"),
]


def case_for(fields, kind, *, fractional=False):
    case = random_case()
    if fractional:
        quarters = np.arange(case.weights.size) % 8 + 1  # float32 holds them exactly
        case.weights = case.weights * quarters.reshape(case.weights.shape) / 4
    if kind == "sparse":
        case = with_sparse(case, 4, temperature=fields.get("temperature", 1.0), ghost=True)
    return case


def check(case, fields, kind, dtype, tolerance, *, padding=0, teacher_padding=0, run=run_once):
    objective, expected = Objective(**fields), answer(case, **fields)
    temperature = fields.get("temperature", 1.0)
    signal = signal_of(case, kind, dtype, padding=teacher_padding, temperature=temperature)
    output, (d_hidden, d_kernel) = run(objective, student_of(case, dtype, padding), batch_of(case), signal)
    close = {"rtol": tolerance, "atol": tolerance}
    np.testing.assert_allclose(output.loss_sum, expected.loss_sum, **close)
    np.testing.assert_allclose(output.weight_sum, expected.weight_sum, **close)
    np.testing.assert_allclose(output.sums["cross_entropy"], [expected.cross_entropy], **close)
    if objective.needs_distribution:
        np.testing.assert_allclose(output.sums["distillation"], [expected.distillation], **close)
    np.testing.assert_allclose(d_hidden, expected.d_hidden, **close)
    np.testing.assert_allclose(d_kernel[:, : case.kernel.shape[1]], expected.d_kernel, **close)
    np.testing.assert_array_equal(d_kernel[:, case.kernel.shape[1] :], 0)
    weights = case.weights
    cells = {
        "both_right": expected.student_right & expected.teacher_right,
        "student_only_right": expected.student_right & ~expected.teacher_right,
        "teacher_only_right": ~expected.student_right & expected.teacher_right,
        "both_wrong": ~expected.student_right & ~expected.teacher_right,
    }
    for name, cell in cells.items():
        np.testing.assert_allclose(output.sums[name], [np.sum(weights * cell)], rtol=1e-6)
        assert np.sum(weights * cell) > 0, "the case does not exercise every cell"
    np.testing.assert_allclose(output.sums["kept_tokens"], [np.sum(weights * expected.alpha)], rtol=1e-6)


@pytest.mark.parametrize(("fields", "kind"), SETTINGS, ids=str)
def test_float64_equals_the_oracle(fields, kind):
    with jax.enable_x64(True):
        check(case_for(fields, kind, fractional=True), fields, kind, jnp.float64, 1e-11, padding=3, teacher_padding=2)


@pytest.mark.parametrize(("fields", "kind"), [SETTINGS[1], SETTINGS[4], SETTINGS[5]], ids=str)
def test_float32_compiled_equals_the_oracle(fields, kind):
    check(case_for(fields, kind), fields, kind, jnp.float32, 2e-5, run=run_jit)


@pytest.mark.parametrize(("fields", "kind"), [SETTINGS[1], SETTINGS[4], SETTINGS[5]], ids=str)
def test_bfloat16_inputs_have_float32_sums(fields, kind):
    """Inputs that bfloat16 holds exactly give the oracle's sums to float32's precision, gradients to bfloat16's."""
    case = case_for(fields, kind)
    for name in ("hidden", "kernel", "teacher_logits"):
        setattr(case, name, np.asarray(jnp.asarray(getattr(case, name), jnp.bfloat16), np.float64))
    if kind == "sparse":
        case = with_sparse(case, 4, ghost=True)
        case.sparse = tuple(np.asarray(jnp.asarray(x, jnp.bfloat16), np.float64) for x in case.sparse)
    expected = answer(case, **fields)
    signal = signal_of(case, kind, jnp.bfloat16)
    output, (d_hidden, d_kernel) = run_once(Objective(**fields), student_of(case, jnp.bfloat16), batch_of(case), signal)
    assert output.loss_sum.dtype == jnp.float32
    np.testing.assert_allclose(output.loss_sum, expected.loss_sum, rtol=2e-6)
    assert d_hidden.dtype == jnp.bfloat16
    np.testing.assert_allclose(np.asarray(d_hidden, np.float64), expected.d_hidden, rtol=0.02, atol=0.02)
    np.testing.assert_allclose(np.asarray(d_kernel, np.float64), expected.d_kernel, rtol=0.02, atol=0.02)


@pytest.mark.parametrize(("fields", "kind"), [SETTINGS[11], SETTINGS[13]], ids=str)
def test_the_oracle_agrees_with_its_own_finite_differences(fields, kind):
    case, step = case_for(fields, kind), 1e-6
    expected = answer(case, **fields)
    for name, gradient in (("hidden", expected.d_hidden), ("kernel", expected.d_kernel)):
        for index in list(np.ndindex(gradient.shape))[::7]:
            sides = []
            for sign in (1, -1):
                moved = copy.deepcopy(case)
                getattr(moved, name)[index] += sign * step
                sides.append(answer(moved, **fields).loss_sum)
            assert (sides[0] - sides[1]) / (2 * step) == pytest.approx(gradient[index], abs=1e-7, rel=1e-6)


def test_one_token_by_hand():
    """Student (1/4, 3/4), teacher (1/2, 1/2), target 1, w = 1/4: the numbers of docs/losses.md's formula."""
    case = random_case()
    case.hidden, case.kernel = np.ones((1, 1, 1)), np.log(np.array([[1.0, 3.0]]))
    case.targets, case.weights = np.array([[1]]), np.array([[2.0]])
    case.teacher_logits = np.zeros((1, 1, 2))
    objective = Objective(w=0.25, z_loss=0.1)
    output, (_, d_kernel) = run_once(
        objective, student_of(case, jnp.float32), batch_of(case), signal_of(case, "logits", jnp.float32)
    )
    log_z, kd = np.log(4), (np.log(4) + np.log(4 / 3)) / 2
    assert output.loss_sum == pytest.approx(2 * (0.25 * np.log(4 / 3) + 0.75 * kd + 0.1 * log_z**2), rel=1e-6)
    # p - (w onehot + (1 - w) p_L) = (1/4 - 3/8, 3/4 - 5/8); z-loss adds 2 x 0.1 x log 4 x p; all times the weight 2.
    expected = 2 * (np.array([-1 / 8, 1 / 8]) + 0.2 * log_z * np.array([1 / 4, 3 / 4]))
    np.testing.assert_allclose(d_kernel[0], expected, rtol=1e-5)
    assert output.weight_sum == 2
