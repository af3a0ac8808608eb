"""Speed of the train step: beside `transformers` on torch, and what cascade-aware training costs over plain training.

    python benchmarks/train_step.py [--size mini|tiny] [--rounds 7] [--json FILE]

All contenders take turns in one process, round after round, on the same shapes; a contender's time is its best round,
the one that other work on the machine disturbed least. The median over rounds of the ratio to plain training in the
same round stands beside it: on a quiet machine the two agree. Tokens are encoder and decoder positions. Without torch
and transformers that contender is left out.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from flax import nnx

from cat_jax.data.assemble import HostBatch
from cat_jax.losses.fused import FusedHead
from cat_jax.losses.objective import Objective
from cat_jax.losses.terms import LossHead, Terms
from cat_jax.models.t5_config import T5Config
from cat_jax.parallel.mesh import MeshConfig
from cat_jax.train.inputs import make_place
from cat_jax.train.optimizer import AdamW
from cat_jax.train.program import TeacherProgram, TrainProgram, build_program
from cat_jax.train.window import MetricWindow
from cat_jax.types import Batch, SparseDistribution, TeacherSignal


@dataclasses.dataclass(frozen=True)
class Size:
    """A model and the shape of its batches."""

    vocab_size: int
    embed_dim: int
    num_heads: int
    head_dim: int
    mlp_dim: int
    layers: int
    rows: int
    inputs: int
    targets: int


SIZES = {
    "mini": Size(4096, 128, 4, 32, 512, 2, 32, 64, 32),
    "tiny": Size(32128, 256, 4, 64, 1024, 4, 16, 128, 64),  # models/t5_tiny.gin, 26M parameters
}


class WholeLogits(FusedHead):
    """Takes no terms, so that whole logits are made."""

    def takes(self, terms: Terms) -> bool:
        """Nothing."""
        del terms
        return False


Contender = Callable[[int], None]
"""Runs so many steps, and waits for them."""


def batch_of(size: Size) -> Batch:
    """Random tokens without padding."""
    draw = np.random.default_rng(0)
    targets = draw.integers(2, size.vocab_size, (size.rows, size.targets)).astype(np.int32)
    inputs = draw.integers(2, size.vocab_size, (size.rows, size.inputs)).astype(np.int32)
    shifted = np.pad(targets, ((0, 0), (1, 0)))[:, :-1]
    return Batch(targets, shifted, np.ones(targets.shape, np.float32), inputs)


def config_of(size: Size, wider: int = 1) -> T5Config:
    """The model, or one so many times as wide."""
    return T5Config(
        vocab_size=size.vocab_size,
        embed_dim=size.embed_dim * wider,
        num_heads=size.num_heads * wider,
        head_dim=size.head_dim,
        mlp_dim=size.mlp_dim * wider,
        num_encoder_layers=size.layers,
        num_decoder_layers=size.layers,
        dropout_rate=0.0,
    )


def make_program(
    size: Size, objective: Objective, teacher: TeacherProgram | None = None, head: LossHead | None = None
) -> TrainProgram:
    """The train step of a run on one device."""
    mesh = MeshConfig(data=1).build(jax.devices()[:1])
    return build_program(config_of(size), objective, AdamW(1e-3), mesh, teacher=teacher, head=head)


def make_teacher(size: Size) -> TeacherProgram:
    """A live teacher twice as wide, its parameters random."""
    graphdef, params = nnx.split(config_of(size, wider=2).build(jax.random.key(1)))
    return TeacherProgram(lambda params, batch: TeacherSignal(None, output=nnx.merge(graphdef, params)(batch)), params)


def teacher_forward(size: Size, teacher: TeacherProgram) -> Contender:
    """The teacher alone: its logits, and the greatest of each position."""
    batch = batch_of(size)

    @jax.jit
    def forward(params: Any) -> jax.Array:
        output = teacher.signal(params, batch).output
        assert output is not None
        return output.head.logits(output.hidden).max(-1)

    def run(steps: int) -> None:
        for _ in range(steps):
            forward(teacher.params).block_until_ready()

    return run


def stored_signal(size: Size, kind: str) -> TeacherSignal | None:
    """A random signal as the loader gives it: "bit", "sparse" (8 exact entries and 16 draws), or none."""
    if kind not in ("bit", "sparse"):
        return None
    draw = np.random.default_rng(1)
    shape = (size.rows, size.targets)
    right: Any = draw.random(shape) < 0.5
    if kind == "bit":
        return TeacherSignal(right)
    ids: Any = draw.integers(0, size.vocab_size, (*shape, 24)).astype(np.int32)
    probabilities: Any = draw.dirichlet(np.ones(24), shape).astype(np.float32)
    return TeacherSignal(right, sparse=SparseDistribution(ids, probabilities, None))


def ours(size: Size, objective: Objective, signal: str = "", head: LossHead | None = None) -> Contender:
    """cat-jax, with the loop's own handling of batches and metrics; `signal` is "bit", "sparse", "live" or none."""
    teacher = make_teacher(size) if signal == "live" else None
    program = make_program(size, objective, teacher, head)
    place = make_place(program.mesh, objective)
    host = HostBatch(batch_of(size), stored_signal(size, signal))
    state = program.init(0)

    def run(steps: int) -> None:
        nonlocal state
        window = MetricWindow()
        for step in range(steps):
            state, metrics = program.step(state, program.teacher_leaves, *place(host))
            window.add(step, metrics)
            window.settle(leave=2)
        window.settle()

    return run


def transformers_on_torch(size: Size) -> Contender | None:
    """The same model, loss and optimizer in PyTorch; None if it is not installed."""
    try:
        import torch
        import transformers
    except ModuleNotFoundError as e:
        print(f"without {e.name}: no comparison with transformers", file=sys.stderr)
        return None
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    config = transformers.T5Config(
        vocab_size=size.vocab_size,
        d_model=size.embed_dim,
        num_heads=size.num_heads,
        d_kv=size.head_dim,
        d_ff=size.mlp_dim,
        num_layers=size.layers,
        num_decoder_layers=size.layers,
        feed_forward_proj="gated-gelu",
        tie_word_embeddings=False,
        dropout_rate=0.0,
        decoder_start_token_id=0,
        pad_token_id=0,
    )
    model = transformers.T5ForConditionalGeneration(config)
    model.lm_head.weight = torch.nn.Parameter(model.lm_head.weight.detach().clone())  # the head is of its own
    model.train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.0)
    batch = batch_of(size)
    inputs = torch.from_numpy(batch.encoder_input_tokens).long()
    targets = torch.from_numpy(batch.decoder_target_tokens).long()

    def run(steps: int) -> None:
        for _ in range(steps):
            loss = model(input_ids=inputs, labels=targets).loss
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            loss.item()

    return run


def host_overhead(size: Size, steps: int = 200) -> float:
    """Milliseconds of Python per step: the loop's calls on a program that is too small to matter."""
    small = dataclasses.replace(size, vocab_size=64, embed_dim=8, head_dim=4, mlp_dim=8, rows=2, inputs=4, targets=4)
    objective = Objective(w=1.0, keep="either")
    program = make_program(small, objective)
    place = make_place(program.mesh, objective)
    batch = batch_of(small)
    host = HostBatch(batch, TeacherSignal(np.ones(batch.decoder_target_tokens.shape, bool)))
    state, metrics = program.step(program.init(0), [], *place(host))
    window, spent = MetricWindow(), []
    for step in range(steps):
        jax.block_until_ready(state)
        began = time.perf_counter()
        state, metrics = program.step(state, [], *place(host))
        called = time.perf_counter() - began
        jax.block_until_ready(state)
        began = time.perf_counter()
        window.add(step, metrics)
        window.settle()
        spent.append(called + time.perf_counter() - began)
    return 1000 * statistics.quantiles(spent, n=10)[0]


def take_turns(contenders: dict[str, Contender], rounds: int, seconds: float) -> dict[str, list[float]]:
    """Seconds per step of each contender in each round."""
    steps = {}
    for name, run in contenders.items():
        run(2)
        began = time.perf_counter()
        run(2)
        steps[name] = max(2, int(seconds / ((time.perf_counter() - began) / 2)))
    times: dict[str, list[float]] = {name: [] for name in contenders}
    for turn in range(rounds):
        order = list(contenders) if turn % 2 == 0 else list(contenders)[::-1]
        for name in order:
            began = time.perf_counter()
            contenders[name](steps[name])
            times[name].append((time.perf_counter() - began) / steps[name])
    return times


def main() -> None:
    """Prints a table, and JSON where `--json` says."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--size", choices=SIZES, default="tiny")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=1.5, help="of each contender in each round")
    parser.add_argument("--json", help="write the figures to this file too")
    args = parser.parse_args()
    size = SIZES[args.size]
    contenders = {
        "xent": ours(size, Objective(w=1.0, keep="all")),
        "cat_xent, stored bit": ours(size, Objective(w=1.0), "bit"),
        "cat_dist, stored sparse": ours(size, Objective(w=0.5), "sparse"),
        "cat_dist, live teacher": ours(size, Objective(w=0.5), "live"),
        "the teacher's forward": teacher_forward(size, make_teacher(size)),
        "xent, whole logits": ours(size, Objective(w=1.0, keep="all"), head=WholeLogits()),
    }
    torch = transformers_on_torch(size)
    if torch is not None:
        contenders["transformers (torch)"] = torch
    times = take_turns(contenders, args.rounds, args.seconds)
    tokens = size.rows * (size.inputs + size.targets)
    result = {"size": dataclasses.asdict(size), "host_overhead_ms": host_overhead(size), "contenders": {}}
    print(f"{'':24}{'ms/step':>10}{'tokens/s':>12}{'speed over xent':>18}{'median':>10}")
    for name, seconds in times.items():
        figures = {
            "ms": 1000 * min(seconds),
            "tokens_per_second": tokens / min(seconds),
            "speed_over_xent": min(times["xent"]) / min(seconds),
            "median_speed_over_xent": statistics.median(x / s for s, x in zip(seconds, times["xent"], strict=True)),
        }
        result["contenders"][name] = figures
        ms, rate, best, median = figures.values()
        print(f"{name:24}{ms:10.1f}{rate:12.0f}{best:18.3f}{median:10.3f}")
    alone = [sum(pair) for pair in zip(times["xent"], times["the teacher's forward"], strict=True)]
    ratios = [both / apart for both, apart in zip(times["cat_dist, live teacher"], alone, strict=True)]
    result["live_over_xent_and_forward"] = {"best": min(times["cat_dist, live teacher"]) / min(alone)}
    result["live_over_xent_and_forward"]["median"] = statistics.median(ratios)
    print(
        "live teacher over xent and the teacher's forward: {best:.3f}, median {median:.3f}".format(
            **result["live_over_xent_and_forward"]
        )
    )
    print(f"host time per step: {result['host_overhead_ms']:.2f} ms")
    if args.json:
        with open(args.json, "w") as f:
            json.dump(result, f, indent=2)


if __name__ == "__main__":
    main()
