"""`teach --align`: a teacher of one vocabulary, a student of another, and the bit that goes from one to the other."""

import dataclasses
import json
import random
import shutil
import types

import jax
import numpy as np
import pytest
import slow_alignment
from flax import nnx
from teacher_cases import CONFIG, contents, fitted_params, reference_logits, write_teacher

from cat_jax.checkpoint.params import load_model
from cat_jax.cli import main as cli
from cat_jax.data.loader import DatasetConfig, make_eval_batches, make_train_iterator
from cat_jax.data.manifest import FeatureInfo, Recipe
from cat_jax.data.record import Example
from cat_jax.data.spans import open_encoder
from cat_jax.data.store import ExampleStore
from cat_jax.data.vocabulary_file import vocabulary_path, write_vocabulary
from cat_jax.data.writer import write_store
from cat_jax.errors import UserError
from cat_jax.losses.objective import Objective
from cat_jax.parallel.mesh import MeshConfig
from cat_jax.teacher.aligned import align
from cat_jax.teacher.alignment import RULE
from cat_jax.teacher.layout import BitLayout, SparseLayout
from cat_jax.teacher.manifest import read_manifest, signal_directory
from cat_jax.teacher.store import SignalStore, StoredTeacher
from cat_jax.teacher.writer import teach
from cat_jax.train.loop import train

small = pytest.importorskip("small_tokenizers")

EOS = 1
LENGTHS = {"inputs": 16, "targets": 64}
WORDS = ["the", "fox", "jumps", "naïve", "café", "hello", "🙂", "日本語", "12", ",", "\n", " yes", "or  no"]


def texts(count, seed=0):
    draw = random.Random(seed)
    return {f"row {k}": " ".join(draw.choices(WORDS, k=draw.randint(0, 6))) for k in range(count)}


def write_side(root, tokenizer, vocabulary, targets, task="toy", lengths=LENGTHS, keep_raw=True, num_shards=2):
    """A store of `targets` {id: text} with a vocabulary, which is written down beside it."""
    content = json.loads(tokenizer.to_str())
    write_vocabulary(root, vocabulary, {"kind": "tokenizer.json", "content": content})
    feature = FeatureInfo(vocabulary, tokenizer.get_vocab_size(), EOS, True)
    tokenizer.encode_special_tokens = True

    def ids(text, limit):
        return np.array([*tokenizer.encode(text, add_special_tokens=False).ids, EOS][:limit], np.int32)

    examples = [
        Example(
            name,
            ids(name, lengths["inputs"]),
            ids(text, lengths["targets"]),
            {"targets_pretokenized": text} if keep_raw else None,
        )
        for name, text in targets.items()
    ]
    features = {"inputs": feature, "targets": feature}
    write_store(root, Recipe(task, "train", features, lengths, num_shards, keep_raw), examples)
    return ExampleStore.open(root, task, "train")


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """The teacher's store and signal, and the student's store: the same texts in another order and other shards."""
    root, targets = tmp_path_factory.mktemp("align"), texts(40)
    theirs, mine = small.unigram(), small.byte_level(merges=10)
    teacher = write_side(root / "teacher_store", theirs, "t" * 64, {**targets, **{"another": "fox"}}, num_shards=3)
    student = write_side(root / "store", mine, "s" * 64, dict(sorted(targets.items())))
    config = dataclasses.replace(CONFIG, vocab_size=theirs.get_vocab_size())
    [(batch, _)] = make_eval_batches(DatasetConfig(str(root / "teacher_store"), "toy", "train", LENGTHS, 41))
    write_teacher(root / "model", config=config, vocabulary="t" * 64, params=fitted_params(batch.batch, config))
    teach(root / "model", root / "teacher_store", "toy", root / "taught", layout=BitLayout(), batch_size=8)
    return types.SimpleNamespace(
        root=root, teacher=teacher, student=student, config=config, student_size=mine.get_vocab_size(), targets=targets
    )


def run(world, output, **fields):
    places = {"store_dir": world.root / "store", "teacher_store_dir": world.root / "teacher_store"}
    arguments = {**places, "teacher_signal_dir": world.root / "taught", **fields}
    return align(mixture_or_task="toy", output_dir=output, **arguments)["toy", "train"]


def bits_of(signal_dir, store):
    """{example id: bits}."""
    signal, shards, within = SignalStore.open(signal_dir, store), *store.locate(np.arange(len(store)))
    return {
        example.example_id: signal.read(int(shard), int(i), len(example.targets))["top1_correct"]
        for example, shard, i in zip(store, shards, within, strict=True)
    }


def pieces(root, vocabulary, text):
    [spans, *_] = open_encoder(root, vocabulary).encode(text)
    return list(zip(spans.starts.tolist(), spans.ends.tolist(), strict=True))


def test_the_teacher_s_top_1_by_the_characters_of_its_tokens(world, tmp_path):
    """From the teacher's logits to the student's bits, with none of the code under test."""
    manifest = run(world, tmp_path)
    _, graphdef, params, _ = load_model(world.root / "model", mesh=MeshConfig(data=1).build(jax.devices()[:1]))
    model = nnx.merge(graphdef, params)
    found = bits_of(tmp_path, world.student)
    theirs = {example.example_id: example for example in world.teacher}
    assert found.keys() == world.targets.keys()
    for name, text in world.targets.items():
        example = theirs[name]
        right = (reference_logits(model, example, LENGTHS).argmax(-1) == example.targets).tolist()
        sides = []
        for root, vocabulary in (("teacher_store", "t" * 64), ("store", "s" * 64)):
            spans = pieces(world.root / root, vocabulary, text)
            sides.append(slow_alignment.places(spans, len(spans), len(text), True, False))
        unknown = [*(int(i) == 2 for i in example.targets)]
        expected = slow_alignment.align(sides[0], right, unknown, sides[1], [False] * len(sides[1]))
        assert found[name].tolist() == expected
    everything = np.concatenate(list(found.values()))
    assert manifest.teacher_accuracy == np.mean(everything)
    assert 0 < everything.sum() < len(everything)
    assert manifest.recipe.layout == BitLayout()


def test_the_manifest_names_the_teacher_both_stores_and_the_rule(world, tmp_path):
    recipe = run(world, tmp_path).recipe
    source = read_manifest(signal_directory(world.root / "taught", "toy", "train"))
    assert recipe.teacher == source.recipe.teacher
    assert recipe.teacher.name == "model"
    assert (recipe.store, recipe.vocabulary) == (world.student.fingerprint, "s" * 64)
    assert recipe.aligned == {
        "rule": RULE,
        "signal": source.fingerprint,
        "store": world.teacher.fingerprint,
        "vocabulary": "t" * 64,
    }
    assert read_manifest(signal_directory(tmp_path, "toy", "train")).recipe == recipe
    assert "aligned" not in source.to_dict()  # those of other signals are what they were


def test_equal_vocabularies_give_back_the_very_same_bits(world, tmp_path):
    run(world, tmp_path, store_dir=world.root / "teacher_store")
    ours, theirs = contents(tmp_path), contents(world.root / "taught")
    shards = [name for name in theirs if name.endswith(".signal")]
    assert len(shards) == 3
    assert all(ours[name] == theirs[name] for name in shards)


def test_a_killed_run_goes_on_at_the_shard_where_it_was(world, tmp_path, monkeypatch):
    run(world, tmp_path)
    whole = contents(tmp_path)
    directory = signal_directory(tmp_path, "toy", "train")
    for name in ("manifest.json", "shard-00001-of-00002.json"):
        (directory / name).unlink()
    before = {path.name: path.stat().st_mtime_ns for path in directory.iterdir()}
    run(world, tmp_path)
    assert contents(tmp_path) == whole
    assert (directory / "shard-00000-of-00002.signal").stat().st_mtime_ns == before["shard-00000-of-00002.signal"]


def flags(world, output, **macros):
    values = {
        "STORE_DIR": world.root / "store",
        "TEACHER_STORE_DIR": world.root / "teacher_store",
        "TEACHER_SIGNAL_DIR": world.root / "taught",
        "SIGNAL_DIR": output,
        "MIXTURE_OR_TASK_NAME": "toy",
        **macros,
    }
    return ["teach", "--align", "--gin_file=runs/teach.gin", *(f"--gin.{k}={str(v)!r}" for k, v in values.items())]


def test_the_command_and_two_steps_of_cat_xent(world, tmp_path, capsys):
    """The student's own tokens and the aligned bits decide what is kept."""
    assert cli.main(flags(world, tmp_path / "signal")) == 0
    saved = (signal_directory(tmp_path / "signal", "toy", "train") / "config.gin").read_text()
    assert "cat-jax teach --align --gin_file=" in saved
    config = dataclasses.replace(CONFIG, vocab_size=world.student_size)
    dataset = DatasetConfig(str(world.root / "store"), "toy", "train", LENGTHS, 8)
    teacher = StoredTeacher(str(tmp_path / "signal"), str(world.root / "model"))
    train(tmp_path / "student", config, Objective(w=1.0), dataset, 2, teacher=teacher, log_period=1)
    first, _ = map(json.loads, (tmp_path / "student" / "metrics.jsonl").read_text().splitlines())
    examples = next(make_train_iterator(dataset)).examples
    bits, store = bits_of(tmp_path / "signal", world.student), world.student
    right = sum(int(bits[store[int(i)].example_id].sum()) for i in examples)
    assert right > 0
    assert first["train/teacher_accuracy"] == pytest.approx(right / first["train/target_tokens"])
    assert first["train/kept_fraction"] >= first["train/teacher_accuracy"]
    for more, problem in ((["--import=x.jsonl"], "two commands"), (["--multiprocess"], "one process's work")):
        assert cli.main([*flags(world, tmp_path / "other"), *more]) == 2
        assert problem in capsys.readouterr().err


def test_what_needs_a_distribution_is_refused(world, tmp_path):
    run(world, tmp_path)
    with pytest.raises(UserError, match=r"has bits alone: no distribution .*: set Objective.w = 1 \(cat_xent\)"):
        SignalStore.open(tmp_path, world.student, needs_distribution=True)


def test_a_teacher_of_another_vocabulary_is_refused_with_the_way_out(world, tmp_path):
    with pytest.raises(UserError, match=r"for cat_xent, carry its bits over by text with `cat-jax teach --align`"):
        teach(world.root / "model", world.root / "store", "toy", tmp_path, layout=BitLayout())
    with pytest.raises(UserError, match=r"over the vocabulary tttt.* carry the bits over with `cat-jax teach --align`"):
        SignalStore.open(world.root / "taught", world.student)


def test_what_cannot_be_aligned_is_refused_and_nothing_is_written(world, tmp_path):
    tokenizer, targets = small.byte_level(), dict(sorted(world.targets.items()))
    name = next(name for name, text in targets.items() if len(text) > 8)
    short = {"inputs": 16, "targets": 4}
    sides = {
        "no texts": (
            {"targets": targets, "keep_raw": False},
            "holds no texts to find the tokens in: .*keep_raw = 'all'",
        ),
        "another text": ({"targets": {**targets, name: "wrong"}}, f"the target of example {name} is 'wrong' in"),
        "an example more": ({"targets": {**targets, "more": "x"}}, "has no example more, which"),
    }
    for number, (fields, problem) in enumerate(sides.values()):
        write_side(tmp_path / str(number), tokenizer, "s" * 64, **fields)
        with pytest.raises(UserError, match=problem):
            run(world, tmp_path / "signal", store_dir=tmp_path / str(number))
    with pytest.raises(UserError, match=r"align.teacher_tasks names 'else', which is not aligned: these are: toy"):
        run(world, tmp_path / "signal", teacher_tasks={"else": "toy"})
    write_side(tmp_path / "short", small.unigram(), "t" * 64, targets, lengths=short)
    teach(world.root / "model", tmp_path / "short", "toy", tmp_path / "cut", layout=SparseLayout(top_k=4), batch_size=8)
    cut = {"teacher_store_dir": tmp_path / "short", "teacher_signal_dir": tmp_path / "cut"}
    with pytest.raises(UserError, match=r"cannot be aligned: the teacher's tokens end after .*with longer targets"):
        run(world, tmp_path / "signal", **cut)
    assert not [path for path in contents(tmp_path / "signal") if path.endswith((".signal", "manifest.json"))]
    run(world, tmp_path / "signal", **cut, store_dir=tmp_path / "short")  # cut alike
    again = {"teacher_store_dir": tmp_path / "short", "teacher_signal_dir": tmp_path / "signal"}
    with pytest.raises(UserError, match=r"is aligned itself"):
        run(world, tmp_path / "twice", **again, store_dir=tmp_path / "short")


def test_it_is_not_written_over_the_teachers_own(world, tmp_path):
    """Not even when told to overwrite."""
    taught = shutil.copytree(world.root / "taught", tmp_path / "taught")
    before = {path: path.read_bytes() for path in taught.rglob("*") if path.is_file()}
    for output in (taught, taught / ".." / "taught"):
        with pytest.raises(UserError, match=r"written over the teacher's own, .*: name another SIGNAL_DIR"):
            run(world, output, teacher_signal_dir=taught, overwrite=True)
    assert {path: path.read_bytes() for path in taught.rglob("*") if path.is_file()} == before


def test_tokens_that_are_more_than_the_text_are_refused(world, tmp_path):
    class Prefixed:
        """Adds a token that is not in the text."""

        def __init__(self, tokenizer):
            self.tokenizer = tokenizer

        def __getattr__(self, name):
            return getattr(self.tokenizer, name)

        def encode(self, text, **options):
            return types.SimpleNamespace(ids=[5, *self.tokenizer.encode(text, **options).ids])

    write_side(tmp_path / "store", Prefixed(small.byte_level()), "s" * 64, world.targets)
    with pytest.raises(
        UserError, match=r"the target of example row .* are not those that its vocabulary makes of its text"
    ):
        run(world, tmp_path / "signal", store_dir=tmp_path / "store")


def test_a_vocabulary_that_is_not_at_hand(world, tmp_path):
    write_side(tmp_path / "store", small.byte_level(), "s" * 64, world.targets)
    path = vocabulary_path(tmp_path / "store", "s" * 64)
    path.write_text(path.read_text().replace("fox", "fix", 1).replace('"the"', '"thx"', 1))
    with pytest.raises(UserError, match=r"was changed: delete it, and run `cat-jax prepare` again"):
        run(world, tmp_path / "signal", store_dir=tmp_path / "store")
    path.unlink()
    with pytest.raises(UserError, match=r"does not say what its vocabulary ssssssssssss is .*: run `cat-jax prepare`"):
        run(world, tmp_path / "signal", store_dir=tmp_path / "store")
