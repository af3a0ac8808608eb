"""Small T5s as model directories and as folders of transformers, made without transformers."""

import json
import pathlib
import shutil

import jax
import jax.numpy as jnp

from cat_jax.checkpoint.exported import export_checkpoint
from cat_jax.checkpoint.manager import CheckpointManager
from cat_jax.checkpoint.params import abstract_model, load_params, write_model_file
from cat_jax.foreign.safetensors_file import SafetensorsWriter, read_header
from cat_jax.models.t5_config import T5Config
from cat_jax.parallel.mesh import MeshConfig
from cat_jax.parallel.names import flatten_names

CONFIG = T5Config(
    vocab_size=50, embed_dim=16, num_heads=4, head_dim=3, mlp_dim=24, num_encoder_layers=2, num_decoder_layers=3
)


def abstract_of(config=CONFIG, mesh=None):
    mesh = mesh or MeshConfig(data=1).build(jax.devices()[:1])
    return flatten_names(abstract_model(config, mesh)[1])


def params_of(config=CONFIG, seed=0):
    """{name: numbers of its own} for every parameter; drawn, not initialised: a norm of ones would hide much."""
    keys = jax.random.split(jax.random.key(seed), len(abstract_of(config)))
    named = zip(keys, abstract_of(config).items(), strict=True)
    drawn = {name: jax.random.normal(key, p.shape, jnp.float32).astype(p.dtype) for key, (name, p) in named}
    for name, axis in (("embedding.table", 0), ("output.kernel", 1)):
        if name in drawn:  # padding is zero
            known = jnp.arange(drawn[name].shape[axis]) < config.vocab_size
            drawn[name] = jnp.where(jnp.expand_dims(known, 1 - axis), drawn[name], 0)
    return drawn


def write_model(model_dir, config=CONFIG, seed=0, step=7):
    """A run's directory."""
    write_model_file(model_dir, config, {"inputs": "abc", "targets": "abc"})
    with CheckpointManager(model_dir) as manager:
        manager.save(step, params_of(config, seed), {"step": jnp.asarray(step)}, None)
    return pathlib.Path(model_dir)


def write_folder(root, config=CONFIG, seed=0, **options):
    """A folder of transformers with the numbers of `params_of`."""
    export_checkpoint(write_model(root / "model", config, seed), root / "folder", **options)
    return root / "folder"


def load(path, config=CONFIG, **options):
    return load_params(path, abstract_of(config), model=config, **options)


def equal(one, other):
    assert one.keys() == other.keys()
    return all(one[name].dtype == other[name].dtype and bool(jnp.all(one[name] == other[name])) for name in one)


def rewrite(folder, copy, change):
    """A copy of a folder with the tensors that `change({name: array})` makes of them."""
    shutil.copytree(folder, copy)
    found = {
        name: tensor.read(0, tensor.shape[0]) for name, tensor in read_header(folder / "model.safetensors").items()
    }
    tensors = change(dict(found))
    writer = SafetensorsWriter(copy / "model.safetensors", {name: (a.dtype, a.shape) for name, a in tensors.items()})
    for name, array in tensors.items():
        writer.write(name, array)
    writer.close()
    return copy


def configure(folder, **fields):
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))
    return folder
