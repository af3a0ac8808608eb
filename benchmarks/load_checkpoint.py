"""Memory and time of loading a large checkpoint of another program into shards.

Makes a folder of transformers of the size that is asked for, loads it in a process of its own onto 1 or 8 devices (of
the CPU, pretended), and says by how much the peak of the process's memory lies above what it holds in the end, in units
of the largest tensor. Run it as

    python benchmarks/load_checkpoint.py --directory=/tmp/load --gib=3

Linux: the peak is that of /proc/self/status (VmHWM), reset before loading.
"""

from __future__ import annotations

import argparse
import json
import os
import pathlib
import subprocess
import sys
import time

from cat_jax.files import write_json
from cat_jax.foreign import t5
from cat_jax.foreign.safetensors_file import SafetensorsWriter
from cat_jax.models.t5_config import T5Config

SHARD_BYTES = 1 << 30


def config_of(gib: float, dtype: str) -> T5Config:
    """T5 1.1 XL's sizes, with as many layers as it takes."""
    layer = 12 * 2048 * 2048 + 6 * 2048 * 5120  # one of the encoder and one of the decoder
    parameters = gib * (1 << 30) / (4 if dtype == "float32" else 2)
    layers = max(1, -(-int(parameters - 2 * 32128 * 2048) // layer))
    return T5Config(
        vocab_size=32128,
        embed_dim=2048,
        num_heads=32,
        head_dim=64,
        mlp_dim=5120,
        num_encoder_layers=layers,
        num_decoder_layers=layers,
    )


def make(folder: pathlib.Path, config: T5Config, dtype: str) -> None:
    """Writes the folder, if it is not there."""
    import jax
    import jax.numpy as jnp
    import numpy as np
    from flax import nnx

    from cat_jax.foreign.arrays import Checkpoint
    from cat_jax.foreign.writing import Tensor, links_to_write, tensors_to_write
    from cat_jax.parallel.names import flatten_names

    if (folder / "config.json").exists():
        return
    folder.mkdir(parents=True, exist_ok=True)
    named = flatten_names(nnx.state(nnx.eval_shape(lambda: config.build(jax.random.key(0)))))
    table = t5.hugging_face_names(config)
    shapes = Checkpoint("", {name: Tensor(jnp.dtype(dtype), p.shape) for name, p in named.items()})  # type: ignore
    tensors = tensors_to_write(table, links_to_write(table, shapes, config.vocab_size), shapes, None)
    shards: list[dict[str, Tensor]] = [{}]
    for name, tensor in tensors.items():
        if sum(t.nbytes for t in shards[-1].values()) + tensor.nbytes > SHARD_BYTES:
            shards.append({})
        shards[-1][name] = tensor
    rng, places = np.random.default_rng(0), {}
    noise = rng.standard_normal(1 << 24, np.float32).astype(jnp.dtype(dtype))
    for number, shard in enumerate(shards):
        file = f"model-{number + 1:05d}-of-{len(shards):05d}.safetensors"
        writer = SafetensorsWriter(folder / file, {name: (t.dtype, t.shape) for name, t in shard.items()})
        for name, tensor in shard.items():
            writer.write(name, np.resize(noise, tensor.shape))
            places[name] = file
        writer.close()
    write_json(folder / "model.safetensors.index.json", {"weight_map": places})
    write_json(folder / "config.json", t5.to_hugging_face(config, {}))


def load(folder: pathlib.Path, devices: int, scan: bool) -> dict[str, float]:
    """Loads the folder in this process; bytes and seconds."""
    import dataclasses

    import jax

    from cat_jax.checkpoint.params import abstract_model, load_params, read_model_file
    from cat_jax.parallel.mesh import MeshConfig

    config = dataclasses.replace(read_model_file(folder)[0], scan_layers=scan)
    mesh = MeshConfig(data=1, fsdp=-1).build()
    assert mesh.size == devices
    _, abstract = abstract_model(config, mesh)
    jax.block_until_ready(jax.device_put(0.0))
    before = status("VmRSS")
    pathlib.Path("/proc/self/clear_refs").write_text("5")  # the peak begins here
    began = time.monotonic()
    params = load_params(folder, abstract, model=config)
    jax.block_until_ready(params)
    seconds = time.monotonic() - began
    leaves = jax.tree.leaves(params)
    held = sum(shard.data.nbytes for leaf in leaves for shard in leaf.addressable_shards)
    of_a_device = sum(leaf.addressable_shards[0].data.nbytes for leaf in leaves)
    return {
        "devices": devices,
        "seconds": seconds,
        "held": held,
        "of_a_device": of_a_device,
        "largest": max(leaf.nbytes for leaf in leaves),
        "before": before,
        "peak": status("VmHWM"),
        "after": status("VmRSS"),
    }


def status(field: str) -> int:
    """Bytes of a line of /proc/self/status."""
    lines = pathlib.Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith(field))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--directory", type=pathlib.Path, required=True)
    parser.add_argument("--gib", type=float, default=3.0)
    parser.add_argument("--dtype", default="float32", choices=("float32", "bfloat16", "float16"))
    parser.add_argument("--devices", type=int, help="load in this process, and print JSON")
    parser.add_argument("--scan", action="store_true", help="with stacked layers")
    args = parser.parse_args()
    folder = args.directory / f"{args.dtype}_{args.gib:g}"
    if args.devices:
        print(json.dumps(load(folder, args.devices, args.scan)))
        return
    make(folder, config_of(args.gib, args.dtype), args.dtype)
    for devices in (1, 8):
        for scan in (False, True):
            flags = f"--xla_force_host_platform_device_count={devices}"
            command = [sys.executable, __file__, *sys.argv[1:], f"--devices={devices}", *(["--scan"] if scan else [])]
            environment = {**os.environ, "JAX_PLATFORMS": "cpu", "XLA_FLAGS": flags}
            done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
            found = json.loads(done.stdout.splitlines()[-1])
            above = found["peak"] - found["before"] - found["held"]
            print(
                f"{devices} device(s), {'stacked' if scan else 'apart'}: {found['held'] / 2**30:.2f} GiB in "
                f"{found['seconds']:.1f} s, {found['of_a_device'] / 2**30:.2f} GiB a device; peak {above / 2**20:.0f} "
                f"MiB above the result = {above / found['largest']:.2f} x the largest tensor "
                f"({found['largest'] / 2**20:.0f} MiB)"
            )


if __name__ == "__main__":
    main()
