"""Token embeddings by table lookup or by one-hot product: the TPU compiler's estimate, forward and backward.

    python benchmarks/embedding.py [--tokens 16384] [--vocab 32128] [--width 768]    # needs libtpu, and no TPU

One v5e chip, table in f32, vectors in bfloat16. Milliseconds are estimated cycles at 1.503 GHz.
"""

from __future__ import annotations

import argparse
import json

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from cat_jax.planning.hlo import HloProgram
from cat_jax.planning.topology import Topology


def lookup(table: jax.Array, tokens: jax.Array) -> jax.Array:
    """As `models.layers.Embedding`."""
    return jnp.take(table, tokens, axis=0, mode="fill").astype(jnp.bfloat16)


def one_hot(table: jax.Array, tokens: jax.Array) -> jax.Array:
    """As t5x."""
    return jax.nn.one_hot(tokens, len(table), dtype=jnp.bfloat16) @ table.astype(jnp.bfloat16)


def main() -> None:
    """Prints the figures as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, default=16384)
    parser.add_argument("--vocab", type=int, default=32128)
    parser.add_argument("--width", type=int, default=768)
    args = parser.parse_args()
    where = Topology.parse("v5e:2x2")
    mesh = Mesh([where.devices()[0]], ("data",))
    placed = NamedSharding(mesh, PartitionSpec())
    table = jax.ShapeDtypeStruct((args.vocab, args.width), jnp.float32, sharding=placed)
    tokens = jax.ShapeDtypeStruct((args.tokens,), jnp.int32, sharding=placed)
    vectors = jax.ShapeDtypeStruct((args.tokens, args.width), jnp.bfloat16, sharding=placed)
    found = {}
    for embed in (lookup, one_hot):

        def both(table: jax.Array, tokens: jax.Array, gradient: jax.Array, embed=embed) -> tuple[jax.Array, jax.Array]:
            vectors, backward = jax.vjp(lambda table: embed(table, tokens), table)
            return vectors, backward(gradient)[0]

        compiled = jax.jit(both).lower(table, tokens, vectors).compile()
        found[embed.__name__] = {
            "estimated_ms": round(1e3 * HloProgram(compiled.as_text()).cycles() / where.chip.clock, 3),
            "temporaries_mib": round(compiled.memory_analysis().temp_size_in_bytes / 2**20, 1),
        }
    print(json.dumps({**vars(args), **found}))


if __name__ == "__main__":
    main()
