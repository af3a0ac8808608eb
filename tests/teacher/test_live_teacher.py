"""A live signal is the stored one, to the loss and to its gradients; and it costs one forward pass."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from teacher_cases import CONFIG, write_teacher

from cat_jax.data.loader import DatasetConfig, make_train_iterator
from cat_jax.errors import UserError
from cat_jax.losses.objective import Objective
from cat_jax.parallel.mesh import MeshConfig
from cat_jax.teacher.layout import BitLayout
from cat_jax.teacher.live import LiveTeacher, LoadedTeacher
from cat_jax.teacher.manifest import TeacherIdentity
from cat_jax.teacher.store import StoredTeacher
from cat_jax.teacher.writer import teach

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def mesh():
    return MeshConfig(data=1).build(jax.devices()[:1])


def batch_of(world, layout, pack=False, signal=None):
    lengths = {"inputs": 30, "targets": 50} if pack else {"inputs": 14, "targets": 23}
    config = DatasetConfig(str(world.root / "store"), "toy:a", "train", lengths, 6, pack=pack, prefetch=0)
    return next(
        make_train_iterator(config, signals=StoredTeacher(str(signal or world.signals[layout])).readers([world.store]))
    )


@pytest.mark.parametrize("pack", [pytest.param(False, marks=pytest.mark.exhaustive), True])
def test_live_equals_stored(world, mesh, pack):
    live = LiveTeacher(str(world.root / "model")).load(mesh)
    graphdef, params = nnx.split(CONFIG.build(jax.random.key(9)))
    objective = Objective(w=0.3, temperature=2.0)

    def stored_loss(params, batch, signal):
        out = objective(nnx.merge(graphdef, params)(batch), batch, signal)
        return out.loss_sum, out.sums

    def live_loss(params, batch):
        return stored_loss(params, batch, live.signal_fn()(live.params, batch))

    host = batch_of(world, "full", pack)
    (one, sums), gradient = jax.jit(jax.value_and_grad(stored_loss, has_aux=True))(params, host.batch, host.signal)
    (two, others), other_gradient = jax.jit(jax.value_and_grad(live_loss, has_aux=True))(params, host.batch)
    np.testing.assert_allclose(one, two, rtol=1e-5)
    assert sums.keys() == others.keys()
    for name in sums:
        np.testing.assert_allclose(sums[name], others[name], rtol=1e-5)
    assert float(sums["both_right"][0] + sums["teacher_only_right"][0]) > 0
    for a, b in zip(jax.tree.leaves(gradient), jax.tree.leaves(other_gradient), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)
    norm = np.sqrt(sum((np.asarray(g) ** 2).sum() for g in jax.tree.leaves(gradient)))
    assert norm > 1


def test_the_bit_of_a_live_teacher_is_the_stored_one(world, mesh):
    live = LiveTeacher(str(world.root / "model"), step=7).load(mesh)
    graphdef, params = nnx.split(CONFIG.build(jax.random.key(9)))
    host = batch_of(world, "bit")

    @jax.jit
    def right(params, teacher, batch):
        student = nnx.merge(graphdef, params)(batch)
        return Objective(w=1).tokens(student, batch, live.signal_fn()(teacher, batch)).teacher_right

    counted = host.batch.decoder_loss_weights > 0
    found = np.asarray(right(params, live.params, host.batch)).reshape(counted.shape)
    assert (found[counted] == host.signal.top1_correct[counted]).all()
    assert 0 < found[counted].sum() < counted.sum()


def test_the_teacher_has_its_own_dtype_and_no_gradient(world, mesh):
    live = LiveTeacher(str(world.root / "model"), dtype="bfloat16").load(mesh)
    assert {leaf.dtype.name for leaf in jax.tree.leaves(live.params)} == {"bfloat16"}
    batch = batch_of(world, "bit").batch

    def total(params):
        output = live.signal_fn()(params, batch).output
        return jnp.sum(output.head.logits(output.hidden))

    gradient = jax.jit(jax.grad(total))(live.params)
    assert all(not np.asarray(leaf, np.float32).any() for leaf in jax.tree.leaves(gradient))
    assert abs(float(total(live.params))) > 0


def test_a_teacher_in_int8_says_nearly_the_same_live_and_stored(world, mesh, tmp_path):
    """Both compute the same model: the bits are those of the signal that `teach` writes, which says its dtype."""
    model = str(world.root / "model")
    live = LiveTeacher(model, dtype="int8").load(mesh)
    dtypes = {leaf.dtype.name for leaf in jax.tree.leaves(live.params)}
    assert dtypes == {"int8", "float32", "bfloat16"}
    batch = batch_of(world, "bit").batch

    def logits(teacher):
        def compute(params):
            output = teacher.signal_fn()(params, batch).output
            return output.head.logits(output.hidden)

        return np.asarray(jax.jit(compute)(teacher.params))

    exact = logits(LiveTeacher(model).load(mesh))
    rounded = logits(live)
    assert 0 < np.abs(rounded - exact).mean() < 0.05 * np.abs(exact).mean()
    options = {"layout": BitLayout(), "dtype": "int8", "batch_size": 8}
    [manifest] = teach(model, world.root / "store", "toy:a", tmp_path, **options).values()
    assert manifest.recipe.teacher == live.identity
    assert manifest.recipe.teacher.dtype == "int8"
    counted = batch.decoder_loss_weights > 0
    right = rounded.argmax(-1) == batch.decoder_target_tokens
    assert (batch_of(world, "bit", signal=tmp_path).signal.top1_correct == right)[counted].all()


def test_bit_and_distribution_share_one_head_product(world):
    wide = dataclasses.replace(CONFIG, embed_dim=64)
    teacher_def, teacher_params = nnx.split(wide.build(jax.random.key(0)))
    live = LoadedTeacher(teacher_def, teacher_params, wide, TeacherIdentity("wide", 0, "", "float32"))
    graphdef, params = nnx.split(CONFIG.build(jax.random.key(0)))

    def flops(bit):
        def loss(params, teacher, batch):
            signal = dataclasses.replace(live.signal_fn()(teacher, batch), top1_correct=bit)
            out = Objective(w=0.5)(nnx.merge(graphdef, params)(batch), batch, signal)
            return out.loss_sum, out.sums

        return jax.jit(loss).lower(params, teacher_params, batch).compile().cost_analysis()["flops"]

    batch = batch_of(world, "bit").batch
    head = 2 * batch.decoder_target_tokens.size * 64 * 40
    given = flops(jnp.zeros(batch.decoder_target_tokens.shape, bool))
    assert given > 2 * head
    assert flops(None) - given < 0.2 * head


def test_a_missing_teacher_is_named(tmp_path, mesh):
    with pytest.raises(UserError, match=r"no model at .*absent: nothing is there"):
        LiveTeacher(str(tmp_path / "absent")).load(mesh)
    write_teacher(tmp_path / "model")
    with pytest.raises(UserError, match=r"no checkpoint of step 8 in .*: use one of 7"):
        LiveTeacher(str(tmp_path / "model"), step=8).load(mesh)
