"""WMT22's directions, and that their metrics are what the `sacrebleu` command prints."""

import json
import subprocess
import sys

import numpy as np
import pytest

seqio = pytest.importorskip("seqio", reason="needs the `data` extra")

from cat_jax_tasks import catalog, wmt22  # noqa: E402
from cat_jax_tasks.metrics.segments import references_of_source  # noqa: E402

DIRECTIONS = sorted(catalog.read("wmt22.toml")["directions"])


def rows(task, split="test"):
    return list(seqio.TaskRegistry.get(task).source.get_dataset(split, shuffle=False).as_numpy_iterator())


def test_there_are_the_21_directions_twice():
    assert len(DIRECTIONS) == 21
    for prefix in ("wmt22", "wmt22_templates"):
        assert len(seqio.MixtureRegistry.get(prefix).tasks) == 21


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_every_segment_is_there(data, direction):
    task = f"wmt22_{direction.replace('-', '_')}"
    found = rows(task)
    assert len(found) == seqio.TaskRegistry.get(task).num_input_examples("test")
    assert [row["example_id"] for row in found] == [str(k).encode() for k in range(len(found))]
    for row in found:
        assert row["source"]
        assert row["target"] == row["references"][0]
        assert set(row["references"]) <= set(row["all_references"])
        assert len(row["all_references"]) == len(row["reference_names"])
        assert row["document"]
    assert {row["origlang"] for row in found} - {b""}


def garbled(texts, seed):
    """Answers that are partly right: some words and letters are gone, some answers empty."""
    draw = np.random.default_rng(seed)
    made = []
    for text in texts:
        kept = [word for word in text.split(" ") if draw.random() < 0.8]
        made.append("" if draw.random() < 0.02 else " ".join(kept)[: max(3, int(0.9 * len(text)))].strip())
    return made


@pytest.mark.parametrize("direction", ["en-zh", "en-ja", "sah-ru"])
def test_scores_and_signatures_are_those_of_the_sacrebleu_command(data, tmp_path, direction):
    """All 21 in benchmarks/wmt22_against_sacrebleu.py."""
    if direction == "en-ja":
        pytest.importorskip("MeCab", reason="needs the `data` extra")
    task = seqio.TaskRegistry.get(f"wmt22_{direction.replace('-', '_')}")
    found = rows(task.name)
    texts = garbled([row["target"].decode() for row in found], 0)
    (tmp_path / "answers").write_text("\n".join(texts) + "\n")
    command = [sys.executable, "-m", "sacrebleu", "-t", "wmt22", "-l", direction, "-i", tmp_path / "answers"]
    command += ["-m", "bleu", "chrf", "-w", "12"]
    said = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    targets = [references_of_source("", row, is_target=True) for row in found]
    for metric, expected in zip(task.metric_fns, said, strict=True):
        [(name, value)] = metric(targets, texts).items()
        assert value == pytest.approx(expected["score"], abs=1e-9)
        assert metric.signatures == {name: expected["signature"]}


def test_t5s_prompt_and_one_of_ten():
    [t5], [other] = (
        seqio.TaskRegistry.get(f"{prefix}_en_de").preprocessors[:1] for prefix in ("wmt22", "wmt22_templates")
    )
    import tensorflow as tf

    text = [f"s{k}" for k in range(60)]
    source = tf.data.Dataset.from_tensor_slices({"source": text, "target": text, "example_id": text})
    assert next(t5(source).as_numpy_iterator())["inputs"] == b"translate English to German: s0"
    found = [row["inputs"].decode() for row in other(source).as_numpy_iterator()]
    assert all(f"s{k}" in prompt and "German" in prompt for k, prompt in enumerate(found))
    assert len({prompt.replace(f"s{k}", "") for k, prompt in enumerate(found)}) == 10


@pytest.fixture
def fetched(tmp_path, monkeypatch):
    directory = tmp_path / "wmt22-deen"
    directory.mkdir()
    monkeypatch.setenv("WMT22_MTDATA_DIR", str(tmp_path))
    (directory / "train.deu").write_text("eins\n\ndrei\nvier\n")
    (directory / "train.eng").write_text("one\ntwo\nthree\nfour\n")
    (directory / "train.stats.json").write_text('{"total": 4}')
    return directory


def test_training_pairs_come_from_mtdatas_files(fetched):
    source = wmt22.Wmt22Source("en-de")
    assert source.splits == ("train", "validation", "test")
    assert source.num_input_examples("train") == 4
    made = [(row["source"], row["target"]) for row in source.get_dataset("train").as_numpy_iterator()]
    assert made == [(b"one", b"eins"), (b"three", b"drei"), (b"four", b"vier")]


def test_shards_of_the_files_hold_every_pair_once(fetched):
    source = wmt22.Wmt22Source("en-de")
    parts = [seqio.ShardInfo(index, 3) for index in range(3)]
    found = [row for part in parts for row in source.get_dataset("train", shard_info=part).as_numpy_iterator()]
    assert [(row["example_id"], row["target"]) for row in found] == [(b"0", b"eins"), (b"2", b"drei"), (b"3", b"vier")]


def test_files_of_different_lengths_are_refused(fetched):
    (fetched / "train.eng").write_text("one\ntwo\nthree\n")
    with pytest.raises(ValueError, match=r"train.eng and .*train.deu have different numbers of lines"):
        wmt22.Wmt22Source("en-de").num_input_examples("train")


def test_that_tfds_stands_in_for_mtdata_is_told(tmp_path, monkeypatch, caplog):
    monkeypatch.setenv("WMT22_MTDATA_DIR", str(tmp_path))
    wmt22._tell_of_tfds.cache_clear()
    wmt22._tell_of_tfds("en-de")
    assert f"WMT22_MTDATA_DIR has no training files of en-de ({tmp_path}/" in caplog.text


def test_a_direction_without_training_data_is_for_evaluation_only(monkeypatch):
    monkeypatch.delenv("WMT22_MTDATA_DIR", raising=False)
    assert wmt22.Wmt22Source("liv-en").splits == ("test",)
    assert wmt22.Wmt22Source("en-ja").splits == ("validation", "test")


def test_of_a_direction_only_some_splits_may_be_asked_for(fetched):
    source = wmt22.Wmt22Source("en-de").only(["test", "train"])
    assert source.splits == ("train", "test")
    assert len(list(source.get_dataset("train"))) == 3


def test_a_test_set_that_is_not_there_is_named(data, monkeypatch):
    dataset = type(wmt22.sacrebleu.DATASETS["wmt21"])
    monkeypatch.setattr(dataset, "get_files", lambda self, pair: (_ for _ in ()).throw(OSError("x")))
    monkeypatch.setattr(dataset, "fieldnames", lambda self, pair: ["src"])
    with pytest.raises(FileNotFoundError, match=r"sacreBLEU has no wmt21/en-de \(x\): run `sacrebleu -t wmt21"):
        wmt22.official_set("wmt21", "en-de")
