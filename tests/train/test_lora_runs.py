"""A run with LoRA: what it changes, what goes on from it, and what everyone else reads."""

import dataclasses
import functools
import logging

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from training_world import FEATURE, VOCABULARY, arguments, steps_and_digest, write_world

from cat_jax.checkpoint.exported import export_checkpoint
from cat_jax.checkpoint.manager import CheckpointManager
from cat_jax.checkpoint.params import (
    abstract_model,
    check_start,
    checkpoint_fingerprint,
    load_model,
    load_params,
    read_lora,
    write_model_file,
)
from cat_jax.checkpoint.seal import read_seal
from cat_jax.errors import UserError
from cat_jax.models.decoder_config import DecoderConfig
from cat_jax.models.lora import AdaptedConfig, Lora, is_adapter
from cat_jax.parallel.mesh import MeshConfig
from cat_jax.parallel.names import flatten_names, unflatten_names
from cat_jax.train.loop import train
from cat_jax.train.optimizer import AdamW
from cat_jax.types import Batch

LORA = Lora(rank=2, alpha=3)
SIZES = {"vocab_size": VOCABULARY, "embed_dim": 8, "num_heads": 2, "num_kv_heads": 1, "head_dim": 4, "mlp_dim": 8}
MODEL = DecoderConfig(**SIZES, num_layers=2, scan_layers=True, bos_id=1)
"""Of the family that compiles quickest."""

SHORT = {"model": MODEL, "eval_dataset": None, "train_steps": 4, "optimizer": AdamW(learning_rate=0.05)}


def run(world, name, **fields):
    train(**arguments(world / name, world / "store", **SHORT | fields))


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """`store`; `base`, a model; `lora`, adapters trained on it."""
    directory = tmp_path_factory.mktemp("world")
    write_world(directory / "store")
    write_model_file(directory / "base", MODEL, dict.fromkeys(("inputs", "targets"), FEATURE.vocabulary))
    with CheckpointManager(directory / "base") as manager:
        draw = np.random.default_rng(7)
        shapes = flatten_names(nnx.state(nnx.eval_shape(lambda: MODEL.build(jax.random.key(0)))))
        drawn = {name: jnp.asarray(draw.normal(size=p.shape) * 0.3, p.dtype) for name, p in shapes.items()}
        manager.save(1, drawn, {"step": jnp.int32(1)}, None)
    run(directory, "lora", lora=LORA, initial_checkpoint_path=str(directory / "base"))
    return directory


@pytest.fixture(scope="module")
def mesh():
    return MeshConfig().build(jax.devices()[:1])


def saved(model_dir, step, config, mesh):
    """(a model, its parameters by name) as they are in a checkpoint."""
    graphdef, abstract = abstract_model(config, mesh)
    with CheckpointManager(model_dir, writable=False) as manager:
        return (graphdef, abstract), manager.restore(step, flatten_names(abstract)).params


def loaded(path, mesh, **options):
    config, _, params, _ = load_model(path, mesh=mesh, **options)
    return config, flatten_names(params)


def batch_of(tokens):
    """Rows as targets, all of which count."""
    tokens = np.asarray(tokens, np.int32)
    return Batch(tokens, np.pad(tokens, [(0, 0), (1, 0)])[:, :-1], np.ones(tokens.shape, np.float32))


@functools.partial(jax.jit, static_argnums=0)
def logits(graphdef, params, batch):
    output = nnx.merge(graphdef, params)(batch)
    return output.head.logits(output.hidden)


def test_the_adapters_alone_are_trained(world, mesh):
    config = AdaptedConfig(MODEL, LORA)
    _, after = saved(world / "lora", 4, config, mesh)
    base = loaded(world / "base", mesh)[1]
    for name, value in base.items():
        np.testing.assert_array_equal(after[name], value, err_msg=name)
    adapters = after.keys() - base.keys()
    assert adapters
    assert all(is_adapter(name) and np.any(after[name]) for name in adapters)
    state = read_seal(world / "lora" / "checkpoints" / "4").arrays["state"]
    moments = {name.split(".mu.")[1] for name in state if ".mu." in name}
    assert moments == adapters


def test_whoever_reads_it_reads_the_merged_model(world, mesh):
    """Its configuration is the base's, and so are its FLOPs; it computes what the adapted model computes."""
    (graphdef, tree), after = saved(world / "lora", 4, AdaptedConfig(MODEL, LORA), mesh)
    config, merged_def, merged, _ = load_model(world / "lora", mesh=mesh)
    assert config == MODEL
    assert read_lora(world / "lora") == LORA
    assert read_lora(world / "base") is None
    draw = np.random.default_rng(0)
    batch = batch_of(draw.integers(2, VOCABULARY, (3, 6)))
    adapted = logits(graphdef, unflatten_names(tree, after), batch)
    np.testing.assert_allclose(logits(merged_def, merged, batch), adapted, atol=1e-5)
    untrained = unflatten_names(merged, {name: p for name, p in after.items() if not is_adapter(name)})
    assert np.abs(logits(merged_def, untrained, batch) - adapted).max() > 1e-2
    assert checkpoint_fingerprint(world / "lora") != checkpoint_fingerprint(world / "base")


def test_the_exported_folder_is_the_merged_model(world, mesh, tmp_path):
    merged = loaded(world / "lora", mesh)[1]
    for dtype in (None, "bfloat16"):
        folder = tmp_path / str(dtype)
        summary = export_checkpoint(world / "lora", folder, dtype=dtype)
        assert summary["dtype"] == (dtype or "float32")
        config, params = loaded(folder, mesh, model=dataclasses.replace(MODEL, dropout_rate=0.1), dtype=dtype)
        assert config.num_layers == 2
        for name, value in params.items():
            expected = merged[name].astype(value.dtype)
            np.testing.assert_allclose(
                *(np.asarray(x, np.float32) for x in (value, expected)), rtol=1e-2 * bool(dtype), atol=1e-6
            )


def test_transformers_computes_the_same(world, mesh, tmp_path):
    torch = pytest.importorskip("torch", reason="compares with transformers")
    transformers = pytest.importorskip("transformers", reason="compares with transformers")
    export_checkpoint(world / "lora", tmp_path / "folder")
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "folder")
    tokens = np.random.default_rng(1).integers(2, VOCABULARY, (3, 6))
    with torch.no_grad():
        expected = theirs(torch.tensor(np.pad(tokens, [(0, 0), (1, 0)], constant_values=1)[:, :-1])).logits.numpy()
    _, graphdef, params, _ = load_model(world / "lora", mesh=mesh)
    np.testing.assert_allclose(logits(graphdef, params, batch_of(tokens)), expected, atol=1e-4)


def test_killed_and_resumed_is_never_killed(world):
    start = {"lora": LORA, "initial_checkpoint_path": str(world / "base")}
    run(world, "parts", **start, train_steps=2)
    run(world, "parts", **start)
    assert steps_and_digest(world / "parts")[1] == steps_and_digest(world / "lora")[1]
    with pytest.raises(UserError, match=r"lora.rank was 2 and is now 3"):
        run(world, "parts", **start | {"lora": Lora(rank=3, alpha=3)})
    with pytest.raises(UserError, match=r"lora was .* and is now None"):
        run(world, "parts", initial_checkpoint_path=str(world / "base"))


def test_another_run_starts_from_the_merged_model(world, mesh):
    """With adapters of its own; here at rate 0, so that nothing changes."""
    lora = Lora(rank=1, targets=["query"])
    still = {"lora": lora, "train_steps": 1, "optimizer": AdamW(0.0)}
    run(world, "again", initial_checkpoint_path=str(world / "lora"), **still)
    _, params = saved(world / "again", 1, AdaptedConfig(MODEL, lora), mesh)
    for kernel, value in loaded(world / "lora", mesh)[1].items():
        np.testing.assert_array_equal(params.pop(kernel), value)
    assert all(".query.lora_" in name for name in params)
    assert all(bool(np.any(value)) == name.endswith("a") for name, value in params.items())


def test_it_starts_no_model_but_its_base(world):
    check_start(world / "lora", dataclasses.replace(MODEL, dropout_rate=0.2, scan_layers=False))
    with pytest.raises(
        UserError, match=r"lora/model.json is of a model with norm_epsilon 1e-06, the configuration has 0.1"
    ):
        check_start(world / "lora", dataclasses.replace(MODEL, norm_epsilon=0.1))


def test_in_int8_it_is_the_merged_model_rounded(world, mesh):
    config, rounded = loaded(world / "lora", mesh, dtype="int8")
    assert config == dataclasses.replace(MODEL, dtype="bfloat16", param_dtype="bfloat16")
    merged, kernels = loaded(world / "lora", mesh)[1], 0
    for name, value in merged.items():
        scale = rounded.get(name + "_scale")
        if scale is not None:
            kernels += 1
            error = np.abs(np.asarray(rounded[name], np.float32) * scale - value)
            assert np.all(error <= np.asarray(scale) / 2 + 1e-7), name
        else:
            np.testing.assert_array_equal(rounded[name], value.astype(jnp.bfloat16))
    assert kernels == sum("attention" in name or "mlp." in name for name in merged if name.endswith("kernel"))


def test_another_programs_checkpoint_is_rounded_as_our_own(world, mesh, tmp_path):
    export_checkpoint(world / "base", tmp_path / "folder")
    ours, theirs = (loaded(path, mesh, dtype="int8", model=MODEL)[1] for path in (world / "base", tmp_path / "folder"))
    assert ours.keys() == theirs.keys()
    for name, value in ours.items():
        assert theirs[name].dtype == value.dtype
        np.testing.assert_array_equal(theirs[name], value, err_msg=name)


def test_a_model_without_its_description_is_not_merged(world, mesh, tmp_path):
    (tmp_path / "checkpoints").symlink_to(world / "lora" / "checkpoints")
    _, abstract = abstract_model(MODEL, mesh)
    with pytest.raises(UserError, match="no model description"):
        load_params(tmp_path, abstract)


@pytest.mark.parametrize(
    ("fields", "line"),
    [
        ({"lora": Lora(targets=["q_proj"])}, "Lora.targets has 'q_proj', which is in no kernel's name: they are "),
        ({"lora": LORA, "frozen": ["embedding"]}, "train.lora and train.frozen are both set"),
    ],
)
def test_what_is_refused_leaves_nothing(world, fields, line):
    with pytest.raises(UserError, match=line):
        run(world, "refused", **fields)
    assert not (world / "refused").exists()


def test_without_a_checkpoint_to_start_from_it_warns(world, caplog):
    with caplog.at_level(logging.WARNING), pytest.raises(UserError, match="fine_tuned was True"):
        run(world, "lora", lora=LORA)
    assert "train.lora without INITIAL_CHECKPOINT_PATH" in caplog.text
