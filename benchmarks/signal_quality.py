"""How true stored teacher signals are: the gradient that they give the student's head, beside the whole distribution's.

    python benchmarks/signal_quality.py --checkpoint stories15M.bin                 # CPU, minutes
    python benchmarks/signal_quality.py --checkpoint stories15M.bin --noise 0.1     # a better student

Teacher: stories15M. Text: stories that it writes itself at temperature 1. Student: the teacher with Gaussian noise in
every matrix, its output head included, so that it is right less often. Each layout goes its whole way: `encode`, a
shard on disk written by `SignalWriter`, `ShardReader`, `assemble`, `Objective`. Compared is the gradient of the head's
kernel [D, V], summed over all target tokens:

  angle   degrees between it and the gradient that the teacher's logits give
  length  its length over that one's
  bias    degrees of the mean gradient over the draws' seeds: of unbiased draws it falls as 1 / sqrt(seeds), and the
          number in brackets is what noise alone would leave, angle / sqrt(seeds)
  alpha   tokens of which alpha is not the exact one

CAT is `Objective()`, w = 0.5 on the tokens that student or teacher gets right; KD is w = 0 on all tokens. Beside our
layouts stand the top 128 raw logits of MaxText (with the student's softmax whole, and renormalised over the same 128
ids), and 50 independent draws with their counts (arXiv 2503.16870), of which alpha is the most frequent id's.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import json
import pathlib
import pickle
import sys
import tempfile
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from stories import BOUNDARY, empty_cache, hidden_states, read_checkpoint, sample, target_weights, with_noise

from cat_jax.errors import UserError
from cat_jax.losses.formulas import cross_entropy, log_normalizer, top1_correct
from cat_jax.losses.objective import Objective
from cat_jax.teacher.draws import position_uniforms
from cat_jax.teacher.layout import BitLayout, FullLayout, SignalLayout, SparseLayout
from cat_jax.teacher.manifest import Recipe, TeacherIdentity
from cat_jax.teacher.output import SignalWriter
from cat_jax.teacher.shard import ShardBuffer, ShardReader
from cat_jax.types import Batch, Head, ModelOutput, SparseDistribution, TeacherSignal

OBJECTIVES = {"CAT": Objective(), "KD": Objective(w=0.0, keep="all")}
LAYOUTS: dict[str, SignalLayout] = {
    "SparseLayout()": SparseLayout(),
    "small": SparseLayout(top_k=4, tail_draws=40, draw_mass=1 / 80),
    "top_k=16, tail_draws=0": SparseLayout(top_k=16, tail_draws=0),
    "BitLayout()": BitLayout(),
    "FullLayout()": FullLayout(),
}
ROWS = 2
"""Stories of a shard, and of what is computed at once."""


@dataclasses.dataclass(frozen=True)
class Part:
    """The stories of one shard: what student and teacher make of them, and where targets stand."""

    batch: Batch  # [ROWS, T]
    student: jax.Array  # f32[ROWS, T, D]
    teacher: jax.Array  # f32[ROWS, T, D]
    places: np.ndarray  # i64[N]: the flat positions of the target tokens


@dataclasses.dataclass(frozen=True)
class World:
    """The text in parts, and both heads."""

    parts: list[Part]
    student: Head
    teacher: Head

    @property
    def tokens(self) -> int:
        return sum(len(part.places) for part in self.parts)


@dataclasses.dataclass
class Gradient:
    """Of the head's kernel, f32[D, V], and what alpha was, bool[tokens]."""

    kernel: np.ndarray
    alpha: np.ndarray


Signals = Callable[[int], Iterator[TeacherSignal]]
"""A seed of draws to the signal [ROWS, T, ...] of each part."""


def make_world(checkpoint: pathlib.Path, stories: int, noise: float, seed: int) -> World:
    """Has the teacher write its stories, and both models read them."""
    sizes, params = read_checkpoint(checkpoint)
    on_device = lambda tree: jax.tree.map(jnp.asarray, tree)  # noqa: E731
    teacher, student = on_device(params), on_device(with_noise(params, noise, seed))
    targets = sample(sizes, teacher, stories, seed)
    inputs = np.concatenate([np.full((stories, 1), BOUNDARY, np.int32), targets[:, :-1]], axis=1)
    weights = target_weights(targets)
    parts = []
    for rows in (slice(i, i + ROWS) for i in range(0, stories, ROWS)):
        batch = Batch(jnp.asarray(targets[rows]), jnp.asarray(inputs[rows]), jnp.asarray(weights[rows]))
        read = [
            hidden_states(sizes, p, batch.decoder_input_tokens, 0, empty_cache(sizes, ROWS))[0]
            for p in (student, teacher)
        ]
        parts.append(Part(batch, *read, np.flatnonzero(weights[rows])))
    heads = (Head(p["embedding"].T, sizes.vocab) for p in (student, teacher))
    return World(parts, *heads)


def describe(world: World) -> dict[str, float]:
    """How often each model is right, and its perplexity: the teacher's is that of English."""
    sums = {name: np.zeros(2) for name in ("teacher", "student")}

    @jax.jit
    def one(head: Head, hidden: jax.Array, batch: Batch) -> jax.Array:
        logits, targets = head.logits(hidden), batch.decoder_target_tokens
        own = jnp.take_along_axis(logits, targets[..., None], -1)[..., 0]
        values = jnp.stack([top1_correct(logits, targets), log_normalizer(logits) - own])
        return jnp.sum(values * batch.decoder_loss_weights, axis=(1, 2))

    for part in world.parts:
        for name in sums:
            sums[name] += np.asarray(one(getattr(world, name), getattr(part, name), part.batch))
    found: dict[str, float] = {"tokens": world.tokens}
    for name, (right, loss) in sums.items():
        found |= {f"{name}_accuracy": right / world.tokens, f"{name}_perplexity": float(np.exp(loss / world.tokens))}
    return found


class Stored:
    """Writes a layout's signal to disk as `teach` does, one shard a part, and reads it back."""

    def __init__(self, world: World, layout: SignalLayout, root: pathlib.Path):
        self._world, self._layout, self._root = world, layout, root
        self._encode = jax.jit(lambda head, hidden, targets, u: layout.encode(head.logits(hidden), targets, u))
        self.bytes_per_token = 0.0

    def __call__(self, seed: int) -> Iterator[TeacherSignal]:
        head, count = self._world.teacher, len(self._world.parts)
        identity = TeacherIdentity("stories15M", 0, "", "float32")
        lengths = {"targets": self._world.parts[0].batch.decoder_target_tokens.shape[1]}
        recipe = Recipe("stories", "all", "", "", head.vocab_size, lengths, identity, self._layout, ROWS, count, seed)
        directory = self._root / str(seed)
        directory.mkdir(parents=True)
        writer = SignalWriter(directory, recipe)
        for shard, part in enumerate(self._world.parts):
            buffer = ShardBuffer(recipe, len(part.places))
            buffer.put(np.arange(len(part.places)), self._fields(part, recipe.draw_key, shard))
            writer.write(shard, ROWS, buffer)
        manifest = writer.finish()
        assert manifest is not None
        self.bytes_per_token = manifest.bytes_per_token
        for part, entry in zip(self._world.parts, manifest.shards, strict=True):
            found = ShardReader(directory / entry.file, entry, recipe).gather(np.arange(len(part.places)))
            names = ("top1_correct", "records")
            padded = {name: _spread(x, part) for name, x in zip(names, found, strict=True) if x is not None}
            yield self._layout.assemble(padded, head.vocab_size)
            (directory / entry.file).unlink()

    def _fields(self, part: Part, key: int, shard: int) -> dict[str, np.ndarray]:
        weights = part.batch.decoder_loss_weights
        places = jnp.broadcast_to(jnp.arange(weights.shape[1]), weights.shape)
        uniforms = position_uniforms(np.uint32(key), np.uint32(shard), jnp.arange(ROWS, dtype=jnp.uint32), places)
        flat = part.teacher.reshape(-1, part.teacher.shape[-1]), part.batch.decoder_target_tokens.reshape(-1)
        fields = self._encode(self._world.teacher, *flat, uniforms.reshape(-1))
        return {name: np.asarray(values)[part.places] for name, values in fields.items()}


def _spread(values: np.ndarray, part: Part) -> np.ndarray:
    """[N, ...] at the target tokens to [ROWS, T, ...], zero elsewhere, as the loader does."""
    shape = part.batch.decoder_target_tokens.shape
    whole = np.zeros((shape[0] * shape[1], *values.shape[1:]), values.dtype)
    whole[part.places] = values
    return whole.reshape(*shape, *values.shape[1:])


def exact(world: World) -> Signals:
    """The teacher's logits, as a live teacher gives them."""
    logits = jax.jit(lambda hidden: world.teacher.logits(hidden))

    def signals(seed: int) -> Iterator[TeacherSignal]:
        for part in world.parts:
            found = logits(part.teacher)
            yield TeacherSignal(top1_correct(found, part.batch.decoder_target_tokens), logits=found)

    return signals


def independent_draws(world: World, count: int) -> tuple[Signals, Callable[[], float]]:
    """`count` independent draws a token, and the mean bytes of their distinct ids (2) and counts (1)."""
    distinct: list[np.ndarray] = []

    @jax.jit
    def draw(hidden: jax.Array, targets: jax.Array, key: jax.Array):
        logits = world.teacher.logits(hidden)
        cumulated = jnp.cumsum(jax.nn.softmax(logits), axis=-1)
        points = jax.random.uniform(key, (*targets.shape, count)) * cumulated[..., -1:]
        ids = jax.vmap(jax.vmap(functools.partial(jnp.searchsorted, side="right")))(cumulated, points)
        ids = jnp.minimum(ids, logits.shape[-1] - 1)
        same = ids[..., :, None] == ids[..., None, :]
        often = same.sum(-1)
        first = jnp.min(jnp.where(often == often.max(-1, keepdims=True), ids, logits.shape[-1]), axis=-1)
        return ids, first == targets, jnp.sum(1 / often, axis=-1)

    def signals(seed: int) -> Iterator[TeacherSignal]:
        for number, part in enumerate(world.parts):
            key = jax.random.fold_in(jax.random.key(seed), number)
            ids, right, names = draw(part.teacher, part.batch.decoder_target_tokens, key)
            distinct.append(np.asarray(names).reshape(-1)[part.places])
            yield TeacherSignal(right, sparse=SparseDistribution(ids, jnp.full(ids.shape, 1 / count), None))

    return signals, lambda: 3 * float(np.concatenate(distinct).mean())


def raw_top(world: World, k: int) -> Signals:
    """The top k of the teacher, renormalised: without the log-normalizer nobody knows what is left out."""

    @jax.jit
    def top(hidden: jax.Array) -> tuple[jax.Array, jax.Array]:
        values, ids = jax.lax.top_k(world.teacher.logits(hidden), k)
        return jax.nn.softmax(values, axis=-1), ids

    def signals(seed: int) -> Iterator[TeacherSignal]:
        for part in world.parts:
            p, ids = top(part.teacher)
            right = ids[..., 0] == part.batch.decoder_target_tokens
            yield TeacherSignal(right, sparse=SparseDistribution(ids, p, None))

    return signals


def raw_bytes(world: World, k: int, directory: pathlib.Path) -> float:
    """Bytes a token of MaxText's file: the top k's logits f32 and ids i32, pickled into a compressed ArrayRecord."""
    from array_record.python.array_record_module import ArrayRecordWriter

    path = directory / "top.array_record"
    writer = ArrayRecordWriter(str(path), "group_size:1000")
    top = jax.jit(lambda hidden: jax.lax.top_k(world.teacher.logits(hidden), k))
    for part in world.parts:
        values, ids = (np.asarray(x) for x in top(part.teacher))
        writer.write(pickle.dumps({"top_k_logits": values, "top_k_indices": ids}))
    writer.close()
    return path.stat().st_size / sum(part.batch.decoder_target_tokens.size for part in world.parts)


def gradients(world: World, signals: Iterator[TeacherSignal], step: Callable) -> dict[str, Gradient]:
    """Of each objective, summed over all parts."""
    zeros = lambda: jnp.zeros(world.student.kernel.shape)  # noqa: E731
    sums, alphas = {name: zeros() for name in OBJECTIVES}, {name: [] for name in OBJECTIVES}
    for part, signal in zip(world.parts, signals, strict=True):
        sums, alpha = step(sums, world.student, part.student, part.batch, signal)
        for name, kept in alpha.items():
            alphas[name].append(np.asarray(kept)[part.places])
    return {name: Gradient(np.asarray(sums[name]), np.concatenate(alphas[name])) for name in OBJECTIVES}


def make_step(loss: Callable) -> Callable:
    """Jitted: adds the gradients of a part to the sums, by objective, and says what alpha was, bool[tokens]."""

    def step(sums: dict[str, jax.Array], head: Head, hidden: jax.Array, batch: Batch, signal: TeacherSignal):
        found, alphas = {}, {}
        for name, objective in OBJECTIVES.items():
            if signal.logits is None and signal.sparse is None:  # the bit alone: alpha is all that can be compared
                objective = dataclasses.replace(objective, w=1.0)

            def of(kernel: jax.Array, objective: Objective = objective) -> tuple[jax.Array, jax.Array]:
                student = ModelOutput(hidden, dataclasses.replace(head, kernel=kernel))
                return loss(objective, student, batch, signal)

            own, alphas[name] = jax.grad(of, has_aux=True)(head.kernel)
            found[name] = sums[name] + own
        return found, alphas

    return jax.jit(step, donate_argnums=0)


def ours(objective: Objective, student: ModelOutput, batch: Batch, signal: TeacherSignal):
    """(the objective's loss sum, alpha bool[tokens])."""
    tokens, output = objective.losses(student, batch, signal)
    return output.loss_sum, objective.coefficients(tokens, batch.decoder_loss_weights.reshape(-1), None) > 0


def both_renormalised(objective: Objective, student: ModelOutput, batch: Batch, signal: TeacherSignal):
    """The same with the KD term over the teacher's top k alone, student and teacher renormalised there."""
    assert signal.sparse is not None
    _, alpha = ours(objective, student, batch, signal)
    logits = student.head.logits(student.hidden)
    listed = jnp.take_along_axis(logits, signal.sparse.token_ids, axis=-1)
    distillation = -jnp.sum(signal.sparse.probabilities * jax.nn.log_softmax(listed), axis=-1)
    loss = objective.w * cross_entropy(logits, batch.decoder_target_tokens) + (1 - objective.w) * distillation
    return jnp.sum(jnp.where(alpha, loss.reshape(-1), 0)), alpha


def compare(found: list[dict[str, Gradient]], truth: dict[str, Gradient], has_distribution: bool) -> dict[str, Any]:
    """The table's numbers of one signal, from its gradients of every seed."""
    result: dict[str, Any] = {"seeds": len(found)}
    wrong = [int(np.sum(g["CAT"].alpha != truth["CAT"].alpha)) for g in found]
    result["alpha_wrong"] = max(wrong)
    if not has_distribution:
        return result
    for name in OBJECTIVES:
        angles = [_degrees(g[name].kernel, truth[name].kernel) for g in found]
        mean = sum(g[name].kernel for g in found) / len(found)
        result[name] = {
            "angle": float(np.mean(angles)),
            "angle_least": min(angles),
            "angle_greatest": max(angles),
            "length": float(np.mean([np.linalg.norm(g[name].kernel) for g in found]))
            / float(np.linalg.norm(truth[name].kernel)),
            "bias": _degrees(mean, truth[name].kernel),
        }
    return result


def _degrees(one: np.ndarray, other: np.ndarray) -> float:
    """Between two arrays; from their difference, for the cosine of a small angle has lost its digits."""
    one, other = (x.astype(np.float64) / np.linalg.norm(x) for x in (one, other))
    return float(np.degrees(2 * np.arcsin(np.linalg.norm(one - other) / 2)))


def measure(
    world: World, seeds: int, root: pathlib.Path, only: list[str] | None
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Name and numbers of every signal."""
    steps = {loss: make_step(loss) for loss in (ours, both_renormalised)}
    truth = gradients(world, exact(world)(0), steps[ours])
    for name, layout in LAYOUTS.items():
        if only is not None and name not in only:
            continue
        stored = Stored(world, layout, root / layout.kind / name)
        drawn = isinstance(layout, SparseLayout) and layout.tail_draws > 0
        found = [gradients(world, stored(seed), steps[ours]) for seed in range(seeds if drawn else 1)]
        yield name, {"bytes": stored.bytes_per_token, **compare(found, truth, layout.has_distribution)}
    if only is not None:
        return
    raw, size = raw_top(world, 128), raw_bytes(world, 128, root)
    for name, step in (("top 128 raw logits", ours), ("top 128, both renormalised", both_renormalised)):
        yield name, {"bytes": size, **compare([gradients(world, raw(0), steps[step])], truth, True)}
    signals, size_of = independent_draws(world, 50)
    found = [gradients(world, signals(seed), steps[ours]) for seed in range(seeds)]
    yield "50 independent draws", {"bytes": size_of(), **compare(found, truth, True)}


def row(name: str, result: dict[str, Any]) -> str:
    """One line of the table."""
    cells = [name, f"{result['bytes']:.4g}"]
    for objective in OBJECTIVES:
        if (of := result.get(objective)) is None:
            cells += ["-"] * 3
            continue
        spread = f" ({of['angle_least']:.2f} to {of['angle_greatest']:.2f})" if result["seeds"] > 1 else ""
        noise = f" ({of['angle'] / result['seeds'] ** 0.5:.2f})" if result["seeds"] > 1 else ""
        cells += [f"{of['angle']:.2f}{spread}", f"{of['length']:.4f}", f"{of['bias']:.2f}{noise}"]
    return "| " + " | ".join([*cells, str(result["alpha_wrong"])]) + " |"


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", type=pathlib.Path, default=pathlib.Path("stories15M.bin"))
    parser.add_argument("--stories", type=int, default=24, help="an even number; about 190 tokens each")
    parser.add_argument("--noise", type=float, default=0.15, help="of the student, in standard deviations of a matrix")
    parser.add_argument("--seeds", type=int, default=4, help="of the draws")
    parser.add_argument("--seed", type=int, default=0, help="of the stories and of the student's noise")
    parser.add_argument("--only", nargs="*", help="layouts, by their names in the table")
    parser.add_argument("--json", type=pathlib.Path)
    args = parser.parse_args()
    try:
        world = make_world(args.checkpoint, args.stories, args.noise, args.seed)
    except UserError as e:
        sys.exit(f"error: {e}")
    facts = describe(world)
    print(", ".join(f"{name} {value:.4g}" for name, value in facts.items()), flush=True)
    heads = [f"{o} {what}" for o in OBJECTIVES for what in ("angle", "length", "bias")]
    print("| signal | bytes a token | " + " | ".join(heads) + " | alpha wrong |")
    print("|---" * 9 + "|", flush=True)
    results = {}
    with tempfile.TemporaryDirectory() as root:
        for name, result in measure(world, args.seeds, pathlib.Path(root), args.only):
            results[name] = result
            print(row(name, result), flush=True)
    if args.json:
        figures = {"noise": args.noise, "seed": args.seed, **facts, "signals": results}
        args.json.write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()
