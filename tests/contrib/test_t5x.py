"""The loss inside t5x is our trainer's: against a stub of t5x, and against t5x itself where it is installed."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from cat_jax.errors import UserError
from cat_jax.losses.metrics import summarize
from cat_jax.losses.objective import Objective
from cat_jax.models.t5_config import T5Config
from cat_jax.train.state import new_state
from cat_jax.train.step import make_train_step
from cat_jax.types import Batch, Head, ModelOutput, TeacherSignal

VOCABULARY, WIDTH, ROWS, INPUTS, TARGETS = 16, 8, 4, 5, 6
LENGTHS = np.array([6, 2, 0, 5])
CONFIG = T5Config(
    vocab_size=VOCABULARY,
    embed_dim=8,
    num_heads=2,
    head_dim=4,
    mlp_dim=12,
    num_encoder_layers=1,
    num_decoder_layers=1,
)
CAT_XENT = Objective(w=1.0, keep="either")
CAT_DIST = Objective(w=0.4, keep="either", temperature=2.0, label_smoothing=0.1, z_loss=1e-2)


class Module:
    """A model of tokens alone, called as t5x calls its modules; `params` are its own, others are given."""

    def __init__(self, seed):
        keys = jax.random.split(jax.random.key(seed), 3)
        shapes = {"asked": (VOCABULARY, WIDTH), "written": (VOCABULARY, WIDTH), "kernel": (WIDTH, VOCABULARY)}
        draw = zip(shapes.items(), keys, strict=True)
        self.params = {name: jax.random.normal(key, shape) for (name, shape), key in draw}

    def output(self, params, asked, written):
        """As our own trainer has it: (hidden, head)."""
        hidden = jnp.tanh(params["written"][written] + jnp.mean(params["asked"][asked], axis=1, keepdims=True))
        return ModelOutput(hidden, Head(params["kernel"], VOCABULARY))

    def apply(self, variables, asked, written, targets, *, decode, enable_dropout, rngs=None, mutable=False, **packing):
        assert not decode
        assert enable_dropout == (rngs is not None)
        assert all(value is None for value in packing.values())
        output = self.output(variables["params"], asked, written)
        return output.head.logits(output.hidden)


class TinyT5(Module):
    """A tiny T5's hidden states and head, computed once: of these gradients are asked for."""

    def __init__(self, seed, batch):
        graphdef, params = nnx.split(CONFIG.build(jax.random.key(seed)))
        found = jax.jit(lambda params: nnx.merge(graphdef, params)(batch))(jax.tree.map(lambda x: 3 * x, params))
        self.params = {"hidden": found.hidden, "kernel": found.head.kernel}

    def output(self, params, asked, written):
        return ModelOutput(params["hidden"], Head(params["kernel"], VOCABULARY))


@pytest.fixture(scope="module")
def world():
    """(student, teacher, batch): rows of unlike lengths, one with no target that counts; the models right at some."""
    student, teacher = Module(0), Module(1)
    draw = np.random.default_rng(0)
    asked, shifted = (draw.integers(2, VOCABULARY, (ROWS, length)).astype(np.int32) for length in (INPUTS, TARGETS))
    return student, teacher, batch_of(student, teacher, asked, shifted)


def batch_of(student, teacher, asked, shifted):
    """Targets are the one's first choice, the other's, or anything."""
    draw, weights = np.random.default_rng(1), (np.arange(TARGETS) < LENGTHS[:, None]).astype(np.float32)
    outputs = [model.output(model.params, asked, shifted) for model in (student, teacher)]
    first = [np.argmax(output.head.logits(output.hidden), -1) for output in outputs]
    who = draw.integers(0, 3, (ROWS, TARGETS))
    targets = np.choose(who, [*first, draw.integers(2, VOCABULARY, (ROWS, TARGETS))]).astype(np.int32)
    batch = {
        "encoder_input_tokens": asked,
        "decoder_input_tokens": shifted,
        "decoder_target_tokens": np.where(weights > 0, np.maximum(targets, 1), 0),
        "decoder_loss_weights": weights,
    }
    return {name: jnp.asarray(value) for name, value in batch.items()}


@pytest.fixture(scope="module")
def t5_world():
    """The same of two tiny T5s."""
    draw = np.random.default_rng(2)
    asked, shifted = (draw.integers(2, VOCABULARY, (ROWS, length)).astype(np.int32) for length in (INPUTS, TARGETS))
    batch = Batch(*map(jnp.asarray, (shifted, shifted, np.ones(shifted.shape), asked)))
    student, teacher = TinyT5(0, batch), TinyT5(1, batch)
    return student, teacher, batch_of(student, teacher, asked, shifted)


def model_of(t5x, world, objective, teacher=True, **options):
    student, large, _ = world
    if teacher:
        options |= {"teacher_module": large, "teacher_params": large.params}
    return t5x.CascadeAwareEncoderDecoderModel(student, None, None, None, objective, **options)


def our_step(world, objective):
    """(gradient, sums) of our own trainer's step on the batch, the teacher being live."""
    student, teacher, batch = world
    ours = Batch(
        batch["decoder_target_tokens"], batch["decoder_input_tokens"], batch["decoder_loss_weights"],
        batch["encoder_input_tokens"],
    )  # fmt: skip

    def apply(params, batch, dropout_key):
        return student.output(params, batch.encoder_input_tokens, batch.decoder_input_tokens)

    def signal_of(params, batch, stored):
        output = teacher.output(params, batch.encoder_input_tokens, batch.decoder_input_tokens)
        return TeacherSignal(None, output=output)

    optimizer = optax.sgd(1.0)
    step = jax.jit(make_train_step(apply, objective, optimizer, lambda step: 1.0, signal_of))
    state = new_state(student.params, optimizer, 0)
    after, metrics = step(state, teacher.params, ours, None)
    return jax.tree.map(lambda old, new: old - new, student.params, after.params), metrics


@pytest.mark.parametrize(
    "objective",
    [CAT_XENT, CAT_DIST, Objective(w=1.0, keep="teacher", normalizer="kept_tokens")],
    ids=["cat_xent", "cat_dist", "kept_tokens"],
)
def test_loss_gradient_and_metrics_are_those_of_our_own_trainer(t5x, t5_world, objective):
    world = t5_world
    student, _, batch = world
    model = model_of(t5x, world, objective)
    (loss, metrics), gradient = jax.jit(jax.value_and_grad(model.loss_fn, has_aux=True))(student.params, batch, None)
    expected, sums = our_step(world, objective)
    assert 0 < sums["kept_tokens"][0] < sums["target_tokens"][0] == 13
    np.testing.assert_allclose(loss, sums["loss_sum"] / sums["weight_sum"], rtol=1e-6)
    for name, ours in expected.items():
        np.testing.assert_allclose(gradient[name], ours, rtol=1e-5, atol=1e-6, err_msg=name)
    summary = summarize({name: sums[name] for name in sums if np.ndim(sums[name])}, ["t"])
    told = {name.removeprefix("cascade/"): value for name, value in metrics.items() if name.startswith("cascade/")}
    assert set(told) == {name for name in summary if "t/" not in name} - {"loss", "target_tokens"}
    for name, value in told.items():
        np.testing.assert_allclose(value.compute(), summary[name], rtol=1e-6, err_msg=name)
    np.testing.assert_allclose(metrics["accuracy"].compute(), summary["student_accuracy"], rtol=1e-6)


def test_bits_in_the_batch_are_a_teacher_too(t5x, world):
    student, teacher, batch = world
    live = model_of(t5x, world, CAT_XENT)
    stored = model_of(t5x, world, CAT_XENT, teacher=False)
    assert stored.FEATURE_CONVERTER_CLS is t5x.TeacherBitFeatureConverter
    logits = teacher.apply({"params": teacher.params}, *(batch[name] for name in list(batch)[:3]), decode=False,
                           enable_dropout=False)  # fmt: skip
    right = jnp.argmax(logits, -1) == batch["decoder_target_tokens"]
    bits = jnp.where(batch["decoder_loss_weights"] > 0, jnp.where(right, t5x.RIGHT, t5x.WRONG), 0)
    loss, metrics = stored.loss_fn(student.params, {**batch, t5x.BATCH_BITS: bits}, None)
    expected, of_live = live.loss_fn(student.params, batch, None)
    np.testing.assert_allclose(loss, expected, rtol=1e-6)
    np.testing.assert_allclose(*(m["cascade/teacher_accuracy"].compute() for m in (metrics, of_live)), rtol=1e-6)
    with pytest.raises(UserError, match="the batch has no decoder_teacher_bits"):
        stored.loss_fn(student.params, batch, None)


@pytest.fixture(scope="module")
def loss_sum(world):
    return our_step(world, CAT_XENT)[1]["loss_sum"]


@pytest.mark.parametrize("factor", [None, 7.0, "num_real_target_tokens", "NUM_TOTAL_TARGET_TOKENS"])
def test_the_loss_is_divided_as_t5x_does_it(t5x, world, loss_sum, factor):
    student, _, batch = world
    count = {None: 1, 7.0: 7, "num_real_target_tokens": 13, "NUM_TOTAL_TARGET_TOKENS": ROWS * TARGETS}[factor]
    loss, _ = model_of(t5x, world, CAT_XENT, loss_normalizing_factor=factor).loss_fn(student.params, batch, None)
    np.testing.assert_allclose(loss, loss_sum / count, rtol=1e-6)


def test_sequences_may_weigh_alike(t5x, world):
    """Without a token masked: the mean over sequences of each one's mean cross-entropy."""
    student, _, batch = world
    xent = Objective(w=1.0, keep="all")
    model = model_of(t5x, world, xent, teacher=False, loss_normalizing_factor="AVERAGE_PER_SEQUENCE")
    logits = np.asarray(model._compute_logits(student.params, batch, None), np.float64)
    own = np.take_along_axis(logits, np.asarray(batch["decoder_target_tokens"])[..., None], -1)[..., 0]
    loss = np.logaddexp.reduce(logits, axis=-1) - own
    of_rows = [loss[row, :length].mean() for row, length in enumerate(LENGTHS) if length]
    np.testing.assert_allclose(model.loss_fn(student.params, batch, None)[0], np.mean(of_rows), rtol=1e-5)


def test_without_weights_every_position_counts(t5x, world):
    student, _, batch = world
    bare = {name: value for name, value in batch.items() if name != "decoder_loss_weights"}
    model = model_of(t5x, world, Objective(w=1.0, keep="all"), teacher=False, loss_normalizing_factor=None)
    _, metrics = model.loss_fn(student.params, bare, None)
    assert metrics["cascade/cross_entropy"].count == ROWS * TARGETS


def test_a_random_rule_draws_from_the_step_s_key(t5x, world):
    student, _, batch = world
    model = model_of(t5x, world, Objective(w=1.0, keep="random(0.5)"), teacher=False)
    kept = [
        float(model.loss_fn(student.params, batch, key)[1]["cascade/kept_fraction"].total)
        for key in (None, None, *jax.random.split(jax.random.key(1), 4))
    ]
    assert kept[0] == kept[1]
    assert len(set(kept)) > 1
    assert all(0 < number < 13 for number in kept)


@pytest.mark.parametrize(
    ("objective", "options", "problem"),
    [
        (CAT_DIST, {}, "cat_dist with w = 0.4 needs the teacher's distribution"),
        (CAT_XENT, {"teacher_params": {}}, "there is no teacher_module"),
        (CAT_XENT, {"teacher_module": 1}, "there is no teacher_params"),
        (CAT_XENT, {"z_loss": 1e-4}, "set Objective.z_loss"),
        ("cat_xent", {}, "objective cannot be 'cat_xent'"),
        (
            Objective(w=1.0, normalizer="kept_tokens"),
            {"loss_normalizing_factor": "AVERAGE_PER_SEQUENCE"},
            "do not go together",
        ),
    ],
)
def test_what_does_not_go_together_is_told(t5x, world, objective, options, problem):
    with pytest.raises(UserError, match=problem):
        model_of(t5x, world, objective, teacher=False, **options)


def test_parameters_of_a_checkpoint(t5x):
    if not t5x.is_stub:
        pytest.skip("needs a checkpoint of t5x")
    assert t5x.checkpoint_params("runs/xl", 7) == ("runs/xl", 7)


def test_plain_cross_entropy_is_t5x_s_own(t5x, world):
    """Every factor, label smoothing and z-loss: what our formulas say they have of t5x."""
    if t5x.is_stub:
        pytest.skip("is of t5x itself")
    from t5x.models import EncoderDecoderModel

    student, _, batch = world
    objective = Objective(w=1.0, keep="all", label_smoothing=0.1, z_loss=1e-2)
    for factor in (None, 7.0, *t5x.losses.SpecialLossNormalizingFactor):
        ours = model_of(t5x, world, objective, teacher=False, loss_normalizing_factor=factor)
        theirs = EncoderDecoderModel(
            student, None, None, None, loss_normalizing_factor=factor, label_smoothing=0.1, z_loss=1e-2
        )
        (loss, metrics), gradient = jax.value_and_grad(ours.loss_fn, has_aux=True)(student.params, batch, None)
        (expected, named), of_t5x = jax.value_and_grad(theirs.loss_fn, has_aux=True)(student.params, batch, None)
        np.testing.assert_allclose(loss, expected, rtol=1e-5, err_msg=str(factor))
        for name, one in of_t5x.items():
            np.testing.assert_allclose(gradient[name], one, rtol=1e-4, atol=1e-5, err_msg=f"{name} {factor}")
        of_z_loss = {"z_loss", "z_loss_per_all_target_tokens", "cross_ent_loss", "cross_ent_loss_per_all_target_tokens"}
        assert set(named) - set(metrics) == of_z_loss


def test_t5x_adds_microbatches_up(t5x, world):
    """Its own accumulation of gradients and metrics takes what `loss_fn` returns."""
    if t5x.is_stub:
        pytest.skip("is of t5x itself")
    from t5x import trainer
    from t5x.train_state import InferenceState

    student, _, batch = world
    model = model_of(t5x, world, CAT_XENT, loss_normalizing_factor=None)
    state, key = InferenceState(jnp.int32(0), student.params), jax.random.PRNGKey(0)
    found = [trainer.accumulate_grads_microbatched(model, state, batch, key, parts)[:2] for parts in (1, 2)]
    (whole, _), (parts, _) = found
    for name, gradient in whole.items():
        np.testing.assert_allclose(parts[name], gradient, rtol=1e-4, atol=1e-5, err_msg=name)
    for name in ("cascade/kept_fraction", "cascade/cells/both_right", "accuracy"):
        np.testing.assert_allclose(*(metrics[name].compute() for _, metrics in found), rtol=1e-6)


def test_without_t5x_there_is_one_line(absent_t5x):
    for call in (
        lambda: absent_t5x.CascadeAwareEncoderDecoderModel(None, None, None, None, CAT_XENT),
        lambda: absent_t5x.checkpoint_params("runs/xl"),
        absent_t5x.TeacherBitFeatureConverter,
    ):
        with pytest.raises(UserError, match=r"needs t5x, and there is no module (clu|t5x)\S*: install it from github"):
            call()
