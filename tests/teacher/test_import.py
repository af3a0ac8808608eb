"""A signal from elsewhere: the same bytes as our own bit, rows that do not fit are refused, training cannot tell."""

import json

import jax
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from teacher_cases import CONFIG, LENGTHS, VOCAB, contents, reference_logits

from cat_jax.checkpoint.params import load_model
from cat_jax.cli import main as cli
from cat_jax.data.loader import DatasetConfig
from cat_jax.errors import UserError
from cat_jax.losses.objective import Objective
from cat_jax.parallel.mesh import MeshConfig
from cat_jax.parallel.names import flatten_names
from cat_jax.teacher.imported import import_signal
from cat_jax.teacher.layout import BitLayout, SparseLayout
from cat_jax.teacher.manifest import read_manifest, signal_directory
from cat_jax.teacher.store import SignalStore, StoredTeacher
from cat_jax.train.loop import train


@pytest.fixture(scope="module")
def rows(world):
    """What an API would say of the teacher's answers: bits, and the five likeliest ids in no order."""
    found = []
    for example in world.store:
        logits = reference_logits(world.model, example)
        logprobs = logits - np.logaddexp.reduce(logits, axis=-1, keepdims=True)
        order = np.argsort(-logits, axis=-1, kind="stable")[:, :5]
        shuffled = order[:, [3, 0, 4, 1, 2]]
        found.append(
            {
                "example_id": example.example_id,
                "target_tokens": example.targets.tolist(),
                "top1_correct": (order[:, 0] == example.targets).tolist(),
                "top_ids": shuffled.tolist(),
                "top_logprobs": np.take_along_axis(logprobs, shuffled, axis=-1).tolist(),
            }
        )
    return found


def bits(rows):
    return [{name: row[name] for name in ("example_id", "target_tokens", "top1_correct")} for row in rows]


def write(path, rows):
    if path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def run(world, files, output, **options):
    return import_signal(files, world.root / "store", "toy:a", output, **options)["toy:a", "train"]


@pytest.mark.parametrize("suffix", [".jsonl", ".parquet"])
def test_bits_are_those_that_teach_writes(world, rows, tmp_path, suffix):
    half = len(rows) // 2
    files = [write(tmp_path / f"{name}{suffix}", part) for name, part in (("a", rows[half:]), ("b", rows[:half]))]
    manifest = run(world, files, tmp_path / "signal", keep="bit", teacher_name="an API")
    ours, theirs = contents(world.signals["bit"]), contents(tmp_path / "signal")
    shards = {name: content for name, content in ours.items() if name.endswith(".signal")}
    assert {name: content for name, content in theirs.items() if name.endswith(".signal")} == shards
    assert manifest.recipe.layout == BitLayout()
    assert manifest.recipe.teacher.name == "an API"
    assert manifest.bytes_per_token < 1.02 / 8 + 3 * 1 / manifest.target_tokens  # a shard's last byte is begun


def test_bits_alone_need_no_probabilities(world, rows, tmp_path):
    run(world, write(tmp_path / "bits.jsonl", bits(rows)), tmp_path / "signal")
    shards = [name for name in contents(tmp_path / "signal") if name.endswith(".signal")]
    assert all(contents(tmp_path / "signal")[name] == contents(world.signals["bit"])[name] for name in shards)


def test_probabilities_come_back_likeliest_first_with_the_rest_as_one_bucket(world, rows, tmp_path):
    without_bits = [{name: value for name, value in row.items() if name != "top1_correct"} for row in rows]
    manifest = run(world, write(tmp_path / "top.jsonl", without_bits), tmp_path / "signal")
    assert manifest.recipe.layout == SparseLayout(top_k=5, tail_draws=0)
    store = world.store
    signal = SignalStore.open(tmp_path / "signal", store, needs_distribution=True)
    native = SignalStore.open(world.signals["bit"], store)
    for number in range(0, len(store), 7):
        (shard,), (within,) = store.locate(np.array([number]))
        length = len(store[number].targets)
        fields = signal.read(int(shard), int(within), length)
        sparse = signal.assemble({name: value[None] for name, value in fields.items()}).sparse
        row = rows[number]
        order = np.argsort(-np.array(row["top_logprobs"]), axis=-1)
        expected = np.exp(np.take_along_axis(np.array(row["top_logprobs"]), order, axis=-1))
        np.testing.assert_array_equal(sparse.token_ids[0], np.take_along_axis(np.array(row["top_ids"]), order, axis=-1))
        np.testing.assert_allclose(sparse.probabilities[0], expected, rtol=1e-3, atol=1e-6)
        np.testing.assert_allclose(sparse.tail_mass[0], 1 - expected.sum(-1), rtol=1e-3, atol=1e-6)
        right = native.read(int(shard), int(within), length)["top1_correct"]
        np.testing.assert_array_equal(fields["top1_correct"], right)


def test_tokens_may_have_different_numbers_of_entries(world, rows, tmp_path):
    ragged = [dict(row, top_ids=[list(ids) for ids in row["top_ids"]]) for row in rows]
    ragged[0]["top_ids"][0] = ragged[0]["top_ids"][0][1:2]
    ragged[0]["top_logprobs"] = [[row[1]] if i == 0 else row for i, row in enumerate(ragged[0]["top_logprobs"])]
    run(world, write(tmp_path / "top.jsonl", ragged), tmp_path / "signal")
    signal = SignalStore.open(tmp_path / "signal", world.store, needs_distribution=True)
    (shard,), (within,) = world.store.locate(np.array([0]))
    fields = signal.read(int(shard), int(within), len(world.store[0].targets))
    sparse = signal.assemble({name: value[None] for name, value in fields.items()}).sparse
    assert (sparse.probabilities[0, 0] > 0).sum() == 1


def changed(rows, **fields):
    return [dict(rows[0], **fields), *rows[1:]]


BAD = {
    "another token": (
        lambda r: changed(r, target_tokens=[39 if t != 39 else 38 for t in r[0]["target_tokens"]]),
        "token 0",
    ),
    "too few tokens": (lambda r: changed(bits(r), target_tokens=[], top1_correct=[]), "has 0 target tokens"),
    "bits of another length": (lambda r: changed(r, top1_correct=[True] * 99), "top1_correct is no list"),
    "bits that are none": (lambda r: changed(r, top1_correct=[1.5] * len(r[0]["target_tokens"])), "true and false"),
    "an id beyond": (lambda r: changed(r, top_ids=[[0, 1, 2, 3, VOCAB]] * len(r[0]["target_tokens"])), f"id {VOCAB}"),
    "an id twice": (lambda r: changed(r, top_ids=[[0, 1, 2, 3, 3]] * len(r[0]["target_tokens"])), "twice"),
    "no logarithms": (lambda r: changed(r, top_logprobs=[[0.5] * 5] * len(r[0]["target_tokens"])), "sum to"),
    "a row twice": (lambda r: [*r, r[0]], "had a row before"),
    "a row missing": (lambda r: r[1:], "1 of 60 examples"),
    "neither": (lambda r: [{n: r[0][n] for n in ("example_id", "target_tokens")}, *r[1:]], "neither top1_correct"),
    "one of two": (lambda r: [{n: v for n, v in r[0].items() if n != "top_ids"}, *r[1:]], "one of top_ids"),
    "a flat list": (lambda r: changed(r, top_ids=[1] * len(r[0]["target_tokens"])), "no list of top_ids"),
    "null entries": (lambda r: changed(r, top_ids=[None] * len(r[0]["target_tokens"])), "no list of top_ids"),
    "null tokens": (lambda r: changed(r, target_tokens=None), "has no target_tokens"),
    "no list of tokens": (lambda r: changed(r, target_tokens=3), "target_tokens is no list"),
    "bits of null alone": (lambda r: changed(bits(r), top1_correct=None), "neither top1_correct"),
    "fractions": (lambda r: changed(r, top_ids=[[0.5, 1, 2, 3, 4]] * len(r[0]["target_tokens"])), "no whole numbers"),
    "words": (lambda r: changed(r, top_logprobs=[["a"] * 5] * len(r[0]["target_tokens"])), "no numbers"),
    "a misspelt field": (
        lambda r: [{n.replace("logprobs", "logprob"): v for n, v in r[0].items()}, *r[1:]],
        "a field 'top_logprob': did you mean top_logprobs",
    ),
    "no id": (lambda r: [{"target_tokens": [1]}, *r[1:]], "has no example_id"),
}


@pytest.mark.parametrize("name", BAD)
def test_what_does_not_fit_is_refused_and_nothing_is_written(world, rows, tmp_path, name):
    spoil, problem = BAD[name]
    with pytest.raises(UserError, match=problem):
        run(world, write(tmp_path / "bad.jsonl", spoil(rows)), tmp_path / "signal")
    assert not contents(tmp_path / "signal")


def test_a_bad_file_leaves_the_finished_signal_that_it_was_to_replace(world, rows, tmp_path):
    run(world, write(tmp_path / "good.jsonl", bits(rows)), tmp_path / "signal")
    before = contents(tmp_path / "signal")
    with pytest.raises(UserError, match="have no row"):
        run(world, write(tmp_path / "bad.jsonl", bits(rows)[1:]), tmp_path / "signal", overwrite=True)
    assert contents(tmp_path / "signal") == before


def test_probabilities_are_checked_where_the_bit_alone_is_kept(world, rows, tmp_path):
    bad = changed(rows, top_logprobs=[["a"] * 5] * len(rows[0]["target_tokens"]))
    with pytest.raises(UserError, match="no numbers"):
        run(world, write(tmp_path / "bad.jsonl", bad), tmp_path / "signal", keep="bit")


def test_bits_among_probabilities_are_refused_unless_bits_are_kept(world, rows, tmp_path):
    mixed = write(tmp_path / "mixed.jsonl", [*rows[:3], *bits(rows)[3:]])
    with pytest.raises(UserError, match=r"line 4 has no top_ids"):
        run(world, mixed, tmp_path / "signal")
    assert run(world, mixed, tmp_path / "signal", keep="bit").recipe.layout == BitLayout()


def test_files_that_are_none(world, tmp_path):
    (tmp_path / "latin.jsonl").write_bytes(b'{"example_id": "\xe9"}\n')
    (tmp_path / "broken.jsonl").write_text('{"example_id": "0", \n')
    (tmp_path / "broken.parquet").write_text("no")
    (tmp_path / "list.jsonl").write_text("[1]\n")
    for file, problem in (
        ("broken.jsonl", "line 1 is not JSON"),
        ("latin.jsonl", "line 1 is not JSON"),
        ("broken.parquet", "not a Parquet file"),
        ("list.jsonl", "no object"),
        ("none.jsonl", "there is no file"),
        ("signal.csv", "neither .jsonl nor .parquet"),
    ):
        with pytest.raises(UserError, match=problem):
            run(world, str(tmp_path / file), tmp_path / "signal")


def test_another_files_signal_is_not_mixed_in(world, rows, tmp_path):
    run(world, write(tmp_path / "a.jsonl", bits(rows)), tmp_path / "signal")
    wrong = [dict(row, top1_correct=[not bit for bit in row["top1_correct"]]) for row in bits(rows)]
    other = write(tmp_path / "b.jsonl", wrong)
    with pytest.raises(UserError, match="teacher"):
        run(world, other, tmp_path / "signal")
    run(world, other, tmp_path / "signal", overwrite=True)
    directory = signal_directory(tmp_path / "signal", "toy:a", "train")
    accuracy = read_manifest(signal_directory(world.signals["bit"], "toy:a", "train")).teacher_accuracy
    assert read_manifest(directory).teacher_accuracy == pytest.approx(1 - accuracy)


def test_the_command(world, rows, tmp_path):
    file = write(tmp_path / "a.jsonl", bits(rows))
    flags = {
        "SIGNAL_DIR": repr(str(tmp_path / "signal")),
        "STORE_DIR": repr(str(world.root / "store")),
        "MIXTURE_OR_TASK_NAME": "'toy:a'",
        "TEACHER_NAME": "'an API'",
    }
    gin = [f"--gin.{name}={value}" for name, value in flags.items()]
    assert cli.main(["teach", "--gin_file=runs/teach.gin", f"--import={file}", *gin]) == 0
    assert read_manifest(signal_directory(tmp_path / "signal", "toy:a", "train")).recipe.teacher.name == "an API"
    assert cli.main(["teach", "--gin_file=runs/teach.gin", f"--import={file}.gone.jsonl", *gin]) == 2


@pytest.mark.exhaustive
def test_training_cannot_tell_it_from_our_own_bit(world, rows, tmp_path):
    """cat_xent on the imported and on the taught bit: the same parameters, bit for bit."""
    run(world, write(tmp_path / "a.jsonl", bits(rows)), tmp_path / "imported")
    dataset = DatasetConfig(str(world.root / "store"), "toy:a", "train", LENGTHS, 8)
    for name, signal in (("ours", world.signals["bit"]), ("theirs", tmp_path / "imported")):
        train(
            tmp_path / name,
            CONFIG,
            Objective(w=1.0),
            dataset,
            4,
            teacher=StoredTeacher(str(signal)),
        )
    ours, theirs = (params_of(tmp_path / name) for name in ("ours", "theirs"))
    assert ours
    assert all(np.array_equal(ours[name], theirs[name]) for name in ours)


def params_of(model_dir):
    _, _, params, _ = load_model(model_dir, mesh=MeshConfig(data=1).build(jax.devices()[:1]))
    return {name: np.asarray(value) for name, value in flatten_names(params).items()}
