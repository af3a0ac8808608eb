"""Rows that two splits share, and `prepare` leaving them out."""

import dataclasses
import pathlib
import sys

import pytest

pytest.importorskip("seqio", reason="needs the `data` extra")

HERE = pathlib.Path(__file__).parent
sys.path.insert(0, str(HERE))

import seqio  # noqa: E402
import tensorflow as tf  # noqa: E402

from cat_jax.data.manifest import read_manifest  # noqa: E402
from cat_jax.data.overlap import HeldOut, content_of, find_overlap, normalize, parse_split  # noqa: E402
from cat_jax.data.prepare import PrepareConfig, prepare  # noqa: E402
from cat_jax.data.store import ExampleStore  # noqa: E402
from cat_jax.errors import UserError  # noqa: E402

LENGTHS = {"inputs": 64, "targets": 16}
ROWS = {
    "train": ["one", "The cat, sat.", "two", "Äh?", "the cat sat", "three"],
    "validation": ["the cat sat", "äh", "four"],
}


def _rows(split, shuffle_files, seed=None):
    texts = ROWS[split]
    return tf.data.Dataset.from_tensor_slices({"inputs": texts, "targets": ["t"] * len(texts)})


@pytest.fixture(scope="module", autouse=True)
def tasks():
    """A task that is known by its inputs, and one that hides the same texts behind a prompt."""
    features = {name: seqio.Feature(seqio.ByteVocabulary(), add_eos=True) for name in ("inputs", "targets")}
    steps = [seqio.preprocessors.tokenize, seqio.preprocessors.append_eos]
    prompt = seqio.map_over_dataset(
        lambda row: {"inputs": "Say it: " + row["inputs"], "targets": row["targets"], "content": row["inputs"]}
    )
    for name, first in (("overlap_plain", []), ("overlap_prompted", [prompt])):
        source = seqio.FunctionDataSource(
            _rows, splits=list(ROWS), num_input_examples={k: len(v) for k, v in ROWS.items()}
        )
        seqio.TaskRegistry.add(name, source, preprocessors=[*first, *steps], output_features=features)
    yield
    for name in ("overlap_plain", "overlap_prompted"):
        seqio.TaskRegistry.remove(name)


@pytest.mark.parametrize("left", ["overlap_plain", "overlap_prompted"])
@pytest.mark.parametrize("right", ["overlap_plain", "overlap_prompted"])
def test_rows_are_counted_whatever_their_prompt(left, right):
    found = find_overlap(parse_split(f"{left}:train"), parse_split(f"{right}:validation"))
    assert (found.rows, found.others, found.exact, found.normalized) == (6, 3, 1, 3)
    assert found.examples == ("The cat, sat.", "Äh?", "the cat sat")


def test_a_row_is_known_by_its_content_else_its_inputs_else_its_targets():
    row = {"content": b"c", "inputs_pretokenized": b"i", "targets_pretokenized": b"t"}
    assert content_of(row) == "c"
    del row["content"]
    assert content_of(row) == "i"
    del row["inputs_pretokenized"]
    assert content_of(row) == "t"
    with pytest.raises(UserError, match="rows keep no text to compare"):
        content_of({})


def test_normalized_texts_differ_in_letters_and_digits_only():
    assert normalize("A  b_c-D\n7!") == normalize("a bcd 7") == "a bcd 7"
    assert normalize("a b") != normalize("ab")


def test_held_out_rows_survive_their_file(tmp_path):
    rows = HeldOut.of([parse_split("overlap_plain:validation")])
    rows.save(tmp_path / "rows.npz")
    again = HeldOut.load(tmp_path / "rows.npz")
    assert again.fingerprint == rows.fingerprint
    assert [again.shares(text) for text in ("äh", "Äh?", "one")] == [(True, True), (False, True), (False, False)]


def config(root, **fields):
    return PrepareConfig(str(root), "overlap_prompted", None, LENGTHS, **fields)


@pytest.mark.parametrize("drop", [False, True])
def test_prepare_counts_and_drops_in_train_alone(tmp_path, drop, caplog):
    caplog.set_level("INFO")
    made = prepare(config(tmp_path, held_out="overlap_plain:validation", drop_held_out=drop))
    train, validation = (m for m in sorted(made, key=lambda m: m.split))
    assert train.shared == {"exact": 1, "normalized": 3}
    assert validation.shared is None
    assert (train.num_examples, validation.num_examples) == (3 if drop else 6, 3)
    assert train.recipe.held_out["splits"] == ["overlap_plain:validation"]
    assert read_manifest(tmp_path / "overlap_prompted/train") == train
    texts = [e.raw for e in ExampleStore.open(tmp_path, "overlap_prompted", "validation")]
    assert all("content" not in raw for raw in texts)
    line = "3 examples are in overlap_plain:validation, too, 1 of them letter for letter"
    assert line + ("; they are left out" if drop else "") in caplog.text
    assert not list(tmp_path.glob(".held_out*"))


def test_a_store_says_what_it_was_compared_with(tmp_path):
    settings = config(tmp_path, splits=["train"])
    plain = prepare(settings)[0]
    assert "held_out" not in plain.to_dict()
    assert "shared" not in plain.to_dict()["shards"][0]
    with pytest.raises(
        UserError, match=r"is another one: it has held_out None, asked for \{'splits': \['overlap_plain"
    ):
        prepare(dataclasses.replace(settings, held_out="overlap_plain:validation"))


@pytest.mark.parametrize(
    ("fields", "line"),
    [
        ({"drop_held_out": True}, "drop_held_out says nothing of what is held out"),
        ({"held_out": "overlap_plain"}, "'overlap_plain' names no split"),
        ({"held_out": "overlap_plain:tset"}, "'overlap_plain' has no split 'tset': name one of train, validation"),
        ({"held_out": "overlap_plan:train"}, r"no task or mixture 'overlap_plan' is registered \(close: overlap_plain"),
    ],
)
def test_bad_input_is_one_line(tmp_path, fields, line):
    with pytest.raises(UserError, match=line):
        prepare(config(tmp_path, **fields))
