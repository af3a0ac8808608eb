"""Loss and gradients of the head, fused against whole logits: memory, and time.

    python benchmarks/loss_head.py cpu [--rounds 5] [--json FILE]
    python benchmarks/loss_head.py tpu --vocab 32128 --signal output|sparse|bit [--json FILE]    # needs libtpu, no TPU

cpu: 8,192 tokens, student 512 wide, teacher 1,024, vocabulary 32,128, float32; both heads take turns in one process.
tpu: 131,072 tokens over a v5e 4x4 (data 4 x tensor 4), student 1,024 wide, teacher 4,096, bfloat16, compiled ahead of
time: bytes a chip from `memory_analysis()`, and the compiler's own estimate of cycles (bodies of loops times their trip
counts, collectives left out) at 1.503 GHz. All with cat_dist (w = 0.5), and cat_xent for the bit.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from cat_jax.losses.fused import FusedHead
from cat_jax.losses.objective import Objective
from cat_jax.losses.terms import LossHead
from cat_jax.parallel.batches import ROW_AXES, VOCAB_AXIS
from cat_jax.parallel.mesh import MeshConfig
from cat_jax.planning.hlo import HloProgram
from cat_jax.planning.topology import Topology
from cat_jax.types import Array, Batch, Head, ModelOutput, SparseDistribution, TeacherSignal

MIB = 1 << 20
ENTRIES = 56  # of a sparse signal


def arguments(
    rows: int, positions: int, width: int, teacher_width: int, vocab_size: int, signal: str, dtype: Any, mesh: Mesh
) -> tuple[ModelOutput, Batch, TeacherSignal]:
    """Shapes and shardings."""
    by_row = NamedSharding(mesh, PartitionSpec(ROW_AXES))
    by_column = NamedSharding(mesh, PartitionSpec(None, VOCAB_AXIS))

    def tokens(*shape: int, of: Any = dtype) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct((rows, positions, *shape), of, sharding=by_row)

    def model(width: int) -> Any:
        kernel: Any = jax.ShapeDtypeStruct((width, vocab_size), dtype, sharding=by_column)
        return ModelOutput(tokens(width), Head(kernel, vocab_size))  # type: ignore[arg-type]

    batch: Any = Batch(tokens(of=jnp.int32), tokens(of=jnp.int32), tokens(of=jnp.float32))  # type: ignore[arg-type]
    bit: Any = tokens(of=bool)
    sparse: Any = SparseDistribution(tokens(ENTRIES, of=jnp.int32), tokens(ENTRIES, of=jnp.float32), None)  # type: ignore[arg-type]
    signals = {
        "output": TeacherSignal(None, output=model(teacher_width)),
        "sparse": TeacherSignal(bit, sparse=sparse),
        "bit": TeacherSignal(bit),
    }
    return model(width), batch, signals[signal]


def gradients(signal: str, head: LossHead | None) -> Any:
    """A jitted (student, batch, signal) -> (loss sum, gradients of hidden states and kernel)."""
    objective = Objective(w=1.0 if signal == "bit" else 0.5)

    def run(student: ModelOutput, batch: Batch, signal: TeacherSignal) -> tuple[Array, tuple[Array, Array]]:
        def loss(hidden: Array, kernel: Array) -> Array:
            output = ModelOutput(hidden, Head(kernel, student.head.vocab_size))
            return objective(output, batch, signal, head=head).loss_sum

        return jax.value_and_grad(loss, (0, 1))(student.hidden, student.head.kernel)

    return jax.jit(run)


def on_cpu(rounds: int) -> dict[str, Any]:
    """Both heads, interleaved."""
    mesh = MeshConfig(data=1).build(jax.devices()[:1])
    shapes = arguments(64, 128, 512, 1024, 32128, "output", jnp.float32, mesh)
    draw = np.random.default_rng(0)

    def filled(x: jax.ShapeDtypeStruct) -> Array:
        if x.dtype == jnp.int32:
            return jnp.asarray(draw.integers(0, 32128, x.shape, np.int32))
        return (
            jnp.ones(x.shape)
            if len(x.shape) == 2 and x.shape[0] == 64
            else jnp.asarray(draw.normal(size=x.shape).astype(np.float32) * (0.05 if len(x.shape) == 2 else 1))
        )

    real = jax.tree.map(filled, shapes)
    heads = {"dense": None, "fused": FusedHead(mesh, ROW_AXES, VOCAB_AXIS)}
    compiled = {name: gradients("output", head).lower(*shapes).compile() for name, head in heads.items()}
    seconds: dict[str, list[float]] = {name: [] for name in heads}
    for round_ in range(rounds + 1):
        for name, program in compiled.items():
            began = time.perf_counter()
            jax.block_until_ready(program(*real))
            if round_:
                seconds[name].append(time.perf_counter() - began)
    ratio = statistics.median(f / d for f, d in zip(seconds["fused"], seconds["dense"], strict=True))
    return {
        "temporaries_mib": {n: round(c.memory_analysis().temp_size_in_bytes / MIB, 1) for n, c in compiled.items()},
        "best_seconds": {name: round(min(each), 3) for name, each in seconds.items()},
        "median_ratio_of_times": round(ratio, 3),
    }


def on_tpu(vocab_size: int, signal: str, block_tokens: int | None) -> dict[str, Any]:
    """The fused head, compiled for chips that are not here."""
    where = Topology.parse("v5e:4x4")
    mesh = MeshConfig(data=4, tensor=4).build(where.devices())
    shapes = arguments(256, 512, 1024, 4096, vocab_size, signal, jnp.bfloat16, mesh)
    head = FusedHead(mesh, ROW_AXES, VOCAB_AXIS, block_tokens)
    compiled = gradients(signal, head).lower(*shapes).compile()
    return {
        "vocab_size": vocab_size,
        "signal": signal,
        "block_tokens": head.block_tokens or head._block_tokens(vocab_size),
        "temporaries_mib": round(compiled.memory_analysis().temp_size_in_bytes / MIB, 2),
        "estimated_ms": round(1e3 * HloProgram(compiled.as_text()).cycles() / where.chip.clock, 2),
    }


def main() -> None:
    """Prints the figures as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("where", choices=("cpu", "tpu"))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--vocab", type=int, default=32128)
    parser.add_argument("--signal", choices=("output", "sparse", "bit"), default="output")
    parser.add_argument("--block_tokens", type=int)
    parser.add_argument("--json")
    args = parser.parse_args()
    figures = on_cpu(args.rounds) if args.where == "cpu" else on_tpu(args.vocab, args.signal, args.block_tokens)
    text = json.dumps(figures, indent=2)
    print(text)
    if args.json:
        with open(args.json, "w") as file:
            file.write(text + "\n")


if __name__ == "__main__":
    main()
