"""Makes per-example tables for the tests of the cascade: by hand, or a whole experiment that looks like a real one."""

import dataclasses
import json
import zlib

import numpy as np

from cat_jax.cascade.quality import Quality, SumQuality, mean_value
from cat_jax.cascade.view import View
from cat_jax.table import TableInfo, table_path, write_table

TASKS = {"speak_en": 0.2, "speak_de": -1.2, "speak_fr": -0.8, "spell_en": 1.2}
SKILL = {"xent": 0.0, "dist": 0.05, "cat_xent": 0.2, "cat_dist": 0.12}


def write(
    tables_dir, model, task, split, *, ids, scores=None, kind="mean", flops=1.0, logprobs=None, store="store", **more
):
    """Writes one small table; `more` are further columns, `info` further fields of its metadata."""
    info = more.pop("info", {})
    count = len(ids)
    rows = {
        "example_id": list(ids),
        "task": [task] * count,
        "input": [f"in {i}" for i in ids],
        "target": [f"target {i}" for i in ids],
        "prediction": [f"{model} {i}" for i in ids],
        "token_logprobs": logprobs if logprobs is not None else [[-1.0]] * count,
        "input_length": [3] * count,
        "target_length": [2] * count,
        "prediction_length": [1] * count,
        "flops": [flops] * count if np.isscalar(flops) else list(flops),
        "score": scores,
        **more,
    }
    fields = {
        "task": task,
        "split": split,
        "model": model,
        "mode": "generate",
        "metric": "accuracy",
        "metric_kind": kind,
        "metrics": {},
        "store_fingerprint": store,
        "parameters": 100,
        **info,
    }
    rows = {name: values for name, values in rows.items() if values is not None}
    path = table_path(tables_dir, model, task, split)
    write_table(path, rows, TableInfo(**fields))
    return path


def words(generator, count):
    """Letters that look like words."""
    return ["".join(generator.choice(list("aeioulnrstmp"), size=generator.integers(3, 10))) for _ in range(count)]


def experiment(tables_dir, tasks=TASKS, objectives=SKILL, seeds=(0, 1), count=300, splits=("validation", "test")):
    """Tables of a teacher and of students that miss harder examples more often, and know it in part.

    Returns:
      from each student's name to its (objective, seed).
    """
    students = {f"{objective}-{seed}": (objective, seed) for objective in objectives for seed in seeds}
    for task, hardness in tasks.items():
        for split in splits:
            generator = np.random.default_rng(zlib.crc32(f"{task} {split}".encode()))
            hard = generator.normal(hardness, 1.0, count)
            spoken = words(generator, count)
            ids = [str(i) for i in range(count)]
            teacher = hard + generator.normal(0, 0.5, count) < 0.7
            _answers(tables_dir, "teacher", task, split, ids, spoken, teacher, hard, 900.0, generator)
            for name, (objective, seed) in students.items():
                luck = np.random.default_rng([zlib.crc32(f"{task} {split}".encode()), seed])
                skill = objectives[objective] + luck.normal(0, 0.05) - 0.5
                right = hard + luck.normal(0, 0.8, count) < skill
                seen = hard - skill + luck.normal(0, 1.0 - 0.8 * objectives[objective], count)
                _answers(tables_dir, name, task, split, ids, spoken, right, seen, 37.5, luck)
    return students


def _answers(tables_dir, model, task, split, ids, spoken, right, seen, flops, generator):
    lengths = np.array([len(word) for word in spoken])
    sure = -0.05 - np.log1p(np.exp(seen))
    write(
        tables_dir,
        model,
        task,
        split,
        ids=ids,
        input=spoken,
        target=[word[::-1] for word in spoken],
        prediction=[
            word[::-1] if ok else word[::-1].replace("e", "a") + "n" for word, ok in zip(spoken, right, strict=True)
        ],
        scores=(100.0 * right).tolist(),
        logprobs=[(s * generator.uniform(0.5, 1.5, n)).tolist() for s, n in zip(sure, lengths, strict=True)],
        token_entropies=[(-s * generator.uniform(0.8, 2, n)).tolist() for s, n in zip(sure, lengths, strict=True)],
        flops=flops * 1e3 * (10 + lengths),
        info={
            "metrics": {"accuracy": float(100 * right.mean())},
            "parameters": 450_000 if model == "teacher" else 18_500,
        },
    )


def history(path, steps=400, start=0.3, end=0.9, every=10):
    """Writes a training log as the trainer does."""
    generator = np.random.default_rng(zlib.crc32(str(path).encode()))
    lines = []
    for step in range(every, steps + 1, every):
        right = start + (end - start) * (1 - np.exp(-3 * step / steps)) + generator.normal(0, 0.01)
        both, small_only = right * 0.93, right * 0.07
        large_only = (1 - right) * 0.6
        lines.append(
            {
                "step": step,
                "train/cells/both_right": both,
                "train/cells/student_only_right": small_only,
                "train/cells/teacher_only_right": large_only,
                "train/cells/both_wrong": 1 - both - small_only - large_only,
                "train/kept_fraction": both + small_only + large_only,
                "train/student_accuracy": right,
                "train/teacher_accuracy": both + large_only,
            }
        )
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def view(confidence, small, large, small_cost=1.0, large_cost=10.0, task="t"):
    """A view of one task from plain lists of scores on 0 to 100."""
    small, large = np.asarray(small, float), np.asarray(large, float)
    count = len(small)
    return View(
        tasks=(task,),
        clusters=(np.arange(count),),
        confidence=np.asarray(confidence, float),
        quality=SumQuality(small[:, None], large[:, None], mean_value),
        small_cost=np.broadcast_to(np.asarray(small_cost, float), count).copy(),
        large_cost=np.broadcast_to(np.asarray(large_cost, float), count).copy(),
        small_scores=small,
        large_scores=large,
    )


def tiny():
    """Four queries; deferring 0 to 4 of them scores 50, 75, 75, 100, 75, computed by hand."""
    return view([-4, -3, -2, -1], [0, 100, 0, 100], [100, 100, 100, 0])


@dataclasses.dataclass(frozen=True)
class Undefined:
    """A quality without a value where so many examples are deferred."""

    quality: Quality
    numbers: tuple
    max_points = None

    def merged(self, running):
        return np.where(np.isin(running.cuts, self.numbers), np.nan, self.quality.merged(running))


def undefined(made, *numbers):
    """The view with a metric that has no value where so many examples are deferred."""
    return dataclasses.replace(made, quality=Undefined(made.quality, numbers))


def random_view(seed, count=200, levels=None, informative=True):
    """A view with random answers; `levels` makes confidences collide."""
    generator = np.random.default_rng(seed)
    small, large = generator.random(count) < 0.4, generator.random(count) < 0.7
    confidence = generator.normal(size=count) + informative * small
    if levels:
        confidence = np.round(confidence * levels) / levels
    return view(confidence, 100 * small, 100 * large, generator.uniform(1, 2, count), generator.uniform(10, 30, count))
