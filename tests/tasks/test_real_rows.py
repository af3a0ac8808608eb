"""Every task whose data is at hand, through `prepare` and back: the smallest of its splits."""

import hashlib
import importlib
import json
import pathlib

import pytest

seqio = pytest.importorskip("seqio", reason="needs the `data` extra")

import made_up  # noqa: E402
from cat_jax_tasks import catalog  # noqa: E402

from cat_jax.data.manifest import read_manifest  # noqa: E402
from cat_jax.data.prepare import PrepareConfig, prepare  # noqa: E402
from cat_jax.data.store import ExampleStore  # noqa: E402

LENGTHS = {"inputs": 512, "targets": 128}
SNAPSHOT = pathlib.Path(__file__).parent / "real_rows.json"
"""Hashes of three rows of each: the rows themselves are not ours to copy."""

HERE = {
    entry.name: entry
    for entry in catalog.entries()
    if entry.is_at_hand() and not entry.name.startswith("pronunciation")
}
FIXED = {name: entry for name, entry in HERE.items() if entry.options}
MOST = 2_500
"""Rows of a split that a test may prepare."""


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return tmp_path_factory.mktemp("stores")


def smallest(entry):
    rows = {split: count for split, count in entry.rows().items() if count and split != "train"}
    return min(rows, key=lambda split: rows[split])


@pytest.mark.parametrize("name", sorted(name for name in HERE if not name.startswith("wmt22_templates")))
def test_a_task_goes_through_prepare_and_back(root, name):
    entry = HERE[name]
    split = smallest(entry)
    if entry.rows()[split] > MOST:
        pytest.skip(f"its smallest split has {entry.rows()[split]} rows: benchmarks/prepare_throughput.py takes all")
    importlib.import_module(entry.module)
    [manifest] = prepare(PrepareConfig(str(root), name, None, LENGTHS, splits=[split]))
    assert manifest.shards[0].example_ids == "feature"
    task = seqio.TaskRegistry.get(name)
    store = ExampleStore.open(root, name, split)
    assert len(store) == manifest.num_examples == read_manifest(store.directory).num_examples
    answers = set()
    for example in store:
        raw = example.raw
        for feature in ("inputs", "targets"):
            text, ids = raw[f"{feature}_pretokenized"], getattr(example, feature)
            assert text.strip()
            vocabulary = task.output_features[feature].vocabulary
            expected = [*vocabulary.encode(text)[: LENGTHS[feature] - 1], 1]
            # SentencePiece in TensorFlow breaks ties between equal segmentations ("!!!!!!") in its own way.
            assert ids.tolist() == expected or vocabulary.decode(ids.tolist()) == vocabulary.decode(expected)
        if raw.get("options") and raw["targets_pretokenized"] != "<unk>":
            assert raw["targets_pretokenized"] in raw["options"]
        answers.add(raw["targets_pretokenized"])
    if entry.options and entry.rows()[split] >= 50:
        assert answers == set(entry.options) or answers == {"<unk>"}
    if name.startswith(("flan2021", "super_glue")):
        assert_unchanged(f"{name}:{split}", list(store)[:3])


def assert_unchanged(key, examples):
    texts = [f"{e.example_id}\n{e.raw['inputs_pretokenized']}\n{e.raw['targets_pretokenized']}" for e in examples]
    made = [hashlib.sha256(text.encode()).hexdigest()[:12] for text in texts]
    known = json.loads(SNAPSHOT.read_text()) if SNAPSHOT.exists() else {}
    if key not in known:
        SNAPSHOT.write_text(json.dumps(dict(sorted({**known, key: made}.items())), indent=1) + "\n")
        pytest.fail(f"the rows of {key} were not known: they are now")
    assert made == known[key], "a prompt changed; if that is meant, delete the entry in real_rows.json"


def test_what_has_no_rows_here_is_named_and_its_builder_declares_what_it_has(capsys):
    """Templates and labels of these are checked against the declarations alone, in test_flan2021.py."""
    absent = {entry.name: entry.source for entry in catalog.flan2021() if entry.name not in HERE}
    with capsys.disabled():
        print(f"\nno rows at hand of {len(absent)} FLAN2021 data sets: {', '.join(sorted(absent))}")
    silent = [name for name, source in absent.items() if not made_up.features(source)]
    assert not silent, "their builders say nothing without the data: nothing about them is checked"
