"""One division: the update does not depend on how a batch is cut up, whatever the masks."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from training_world import CAT_XENT, VOCABULARY, toy_apply, toy_params

from cat_jax.errors import UserError
from cat_jax.losses.fused import FusedHead
from cat_jax.losses.objective import Objective
from cat_jax.train.frozen import frozen_names, nothing
from cat_jax.train.packed import PackedMetrics
from cat_jax.train.state import new_state
from cat_jax.train.step import make_train_step, split_rows
from cat_jax.types import Batch, TeacherSignal

ROWS, LENGTH = 8, 6


def batch_and_signal(seed=0):
    draw = np.random.default_rng(seed)
    tokens = draw.integers(2, VOCABULARY, (4, ROWS, LENGTH)).astype(np.int32)
    lengths = np.array([6, 1, 0, 3, 5, 2, 6, 4])  # row 2 has no target at all
    weights = (np.arange(LENGTH) < lengths[:, None]).astype(np.float32)
    tasks = np.repeat(np.arange(ROWS)[:, None] % 2, LENGTH, 1).astype(np.int32)
    batch = Batch(tokens[0], tokens[1], weights, tokens[2], task_ids=tasks)
    return batch, TeacherSignal(draw.random((ROWS, LENGTH)) < 0.5)


def without_dropout(params, batch, dropout_key):
    return toy_apply(params, batch, None)


def one_step(objective, parts, batch, signal, apply=without_dropout, seed=0, is_frozen=nothing, head=None):
    step = make_train_step(
        apply,
        objective,
        optax.sgd(1.0),
        lambda step: 1.0,
        lambda teacher, batch, stored: stored,
        num_tasks=2,
        num_microbatches=parts,
        is_frozen=is_frozen,
        head=head,
    )
    state = new_state(toy_params(), optax.sgd(1.0), seed, is_frozen)
    return state, *jax.jit(step)(state, None, batch, signal)


@pytest.mark.parametrize(
    ("objective", "head"),
    [
        (CAT_XENT, FusedHead(block_tokens=5)),  # as a run has it; the blocks of one batch are others than of its parts
        (Objective(w=1.0, keep="either", normalizer="kept_tokens"), None),
        (Objective(1.0, keep="random(0.5)"), None),
    ],
)
def test_microbatches_add_up(objective, head):
    """1 x 8 == 2 x 4 == 8 x 1, with ragged rows, one of which (a microbatch of its own in 8 x 1) has no target."""
    batch, signal = batch_and_signal()
    _, whole, metrics = one_step(objective, 1, batch, signal, head=head)
    assert 0 < metrics["kept_tokens"].sum() < 27 == metrics["target_tokens"].sum()
    for parts in (2, 8):
        _, split, split_metrics = one_step(objective, parts, batch, signal, head=head)
        for name, value in whole.params.items():
            np.testing.assert_allclose(split.params[name], value, rtol=1e-5, atol=1e-6, err_msg=name)
        for name, value in metrics.items():
            np.testing.assert_allclose(split_metrics[name], value, rtol=1e-5, err_msg=name)


def test_a_batch_in_which_nothing_counts_changes_nothing():
    batch, signal = batch_and_signal()
    nothing = Batch(batch.decoder_target_tokens, batch.decoder_input_tokens, 0 * batch.decoder_loss_weights,
                    batch.encoder_input_tokens)  # fmt: skip
    for parts in (1, 4):
        state, after, metrics = one_step(CAT_XENT, parts, nothing, signal)
        assert metrics["grad_norm"] == 0
        assert metrics["weight_sum"] == 0
        for name, value in state.params.items():
            np.testing.assert_array_equal(after.params[name], value)


def test_the_gradient_is_of_the_sum_divided_once():
    """Against differentiating the mean directly, in one piece."""
    batch, signal = batch_and_signal()
    state, after, metrics = one_step(CAT_XENT, 4, batch, signal)

    def mean_loss(params):
        output = CAT_XENT(toy_apply(params, batch, None), batch, signal)
        return output.loss_sum / 27.0

    gradient = jax.grad(mean_loss)(state.params)
    for name, g in gradient.items():
        np.testing.assert_allclose(state.params[name] - after.params[name], g, rtol=1e-4, atol=1e-6, err_msg=name)
    np.testing.assert_allclose(metrics["grad_norm"], optax.tree.norm(gradient), rtol=1e-5)
    assert metrics["input_tokens"] == ROWS * LENGTH


def test_split_rows_keeps_every_part_spread():
    rows = np.arange(8)  # on 2 devices: 0-3 and 4-7
    np.testing.assert_array_equal(split_rows(rows, 2), [[0, 2, 4, 6], [1, 3, 5, 7]])
    np.testing.assert_array_equal(split_rows(rows, 1), [rows])


def test_random_keep_draws_once_for_the_batch_from_seed_and_step():
    batch, signal = batch_and_signal()
    objective = Objective(1.0, keep="random(0.5)")
    state, after, metrics = one_step(objective, 2, batch, signal)
    kept = []
    for step in range(3):
        key = jax.random.fold_in(jax.random.wrap_key_data(state.key), step)
        uniform = jax.random.uniform(jax.random.fold_in(key, 0), (ROWS, LENGTH))
        kept.append(float(jnp.sum((uniform < 0.5) * batch.decoder_loss_weights)))
    assert float(metrics["kept_tokens"].sum()) == kept[0]
    assert len(set(kept)) > 1
    assert int(after.step) == 1
    np.testing.assert_array_equal(after.key, state.key)


def test_frozen_parameters_stay_and_the_others_do_not_notice():
    batch, signal = batch_and_signal()
    _, whole, metrics = one_step(CAT_XENT, 2, batch, signal)
    before, after, frozen_metrics = one_step(CAT_XENT, 2, batch, signal, is_frozen={"table", "head"}.__contains__)
    for name, value in whole.params.items():
        expected = before.params[name] if name in ("table", "head") else value
        np.testing.assert_array_equal(after.params[name], expected, err_msg=name)
    assert 0 < frozen_metrics["grad_norm"] < metrics["grad_norm"]


def test_frozen_parameters_have_no_optimizer_state():
    state = new_state(toy_params(), optax.adam(1.0), 0, {"table", "head"}.__contains__)
    assert set(state.opt_state[0].mu) == {"encoder", "kernel"}


@pytest.mark.parametrize(
    ("patterns", "words"),
    [
        ("head", "train.frozen is the string 'head'"),
        (["("], "train.frozen has '\\('"),
        (["table", "embeding"], "'embeding', which is in no parameter's name: they are encoder, head, kernel, table"),
        (["."], "leaves no parameter to train"),
    ],
)
def test_patterns_that_freeze_nothing_or_everything_are_refused(patterns, words):
    with pytest.raises(UserError, match=words):
        frozen_names(toy_params(), patterns)


def test_dropout_depends_on_seed_step_and_microbatch():
    batch, signal = batch_and_signal()
    losses = {}
    for parts, seed in ((1, 0), (1, 1), (2, 0)):
        _, _, metrics = one_step(CAT_XENT, parts, batch, signal, toy_apply, seed)
        losses[parts, seed] = float(metrics["cross_entropy"].sum())
    assert len(set(losses.values())) == 3
    _, _, again = one_step(CAT_XENT, 1, batch, signal, toy_apply, 0)
    assert float(again["cross_entropy"].sum()) == losses[1, 0]


def test_packed_metrics_come_out_of_jit_whole():
    packed = jax.jit(lambda: PackedMetrics.pack({"b": jnp.arange(3), "a": jnp.float32(0.5)}))()
    fetched = packed.fetch()
    assert fetched["a"] == 0.5
    assert fetched["b"].tolist() == [0, 1, 2]
    assert fetched["b"].dtype == np.float64
