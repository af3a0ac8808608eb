"""SuperGLUE's prompts are T5's, to the letter: literals here; against the package itself in benchmarks/."""

import json
import subprocess
import sys

import pytest

seqio = pytest.importorskip("seqio", reason="needs the `data` extra")

import pyarrow as pa  # noqa: E402
import pyarrow.parquet as pq  # noqa: E402
import tensorflow as tf  # noqa: E402
from cat_jax_tasks import catalog, submission  # noqa: E402

ORIGIN = {"example_id": "t", "split": "train", "content": "c"}


def examples(name, *rows):
    """What the task's first preprocessor makes of rows of TFDS."""
    task = seqio.TaskRegistry.get(f"super_glue_{name}")
    columns = {key: [row[key] for row in rows] for key in rows[0] if key not in ("idx", "answers", "entities")}
    for key in ("answers", "entities"):
        if key in rows[0]:
            columns[key] = tf.ragged.constant([row[key] for row in rows])
    index = rows[0]["idx"]
    columns["idx"] = (
        {key: [r["idx"][key] for r in rows] for key in index} if isinstance(index, dict) else [r["idx"] for r in rows]
    )
    source = tf.data.Dataset.from_tensor_slices(columns)
    found = task.preprocessors[0](source)
    return [{k: text(v) for k, v in row.items()} for row in found.as_numpy_iterator()]


def text(value):
    if isinstance(value, bytes):
        return value.decode()
    return [text(item) for item in value.tolist()] if getattr(value, "ndim", 0) else value


def test_the_eight_and_wsc_with_options_are_registered():
    names = {entry.name.removeprefix("super_glue_") for entry in catalog.super_glue()}
    assert names == {"boolq", "cb", "copa", "multirc", "record", "rte", "wic", "wsc", "wsc_choice"}
    assert len(seqio.MixtureRegistry.get("super_glue").tasks) == 8


def test_plain_ones_join_their_features_by_name():
    row = {**ORIGIN, "hypothesis": "H.", "premise": "P.", "label": 1, "idx": 3}
    [made] = examples("rte", row)
    assert made["inputs"] == "rte hypothesis: H. premise: P."
    assert made["targets"] == "not_entailment"
    assert made["example_id"] == "3"
    assert made["options"] == ["entailment", "not_entailment"]
    [hidden] = examples("rte", {**row, "label": -1})
    assert hidden["targets"] == "<unk>"


def test_multirc_is_cleaned_of_html_and_knows_its_question():
    idx = {"paragraph": 1, "question": 2, "answer": 3}
    [made] = examples(
        "multirc",
        {**ORIGIN, "paragraph": "<b>Sent 1: </b>A.<br>B.", "question": "Q?", "answer": "a", "label": 1, "idx": idx},
    )
    assert made["inputs"] == "multirc question: Q? answer: a paragraph: Sent 1: A. B."
    assert (made["targets"], made["example_id"], made["group"]) == ("True", "1-2-3", "1-2")


RECORD = {
    **ORIGIN,
    "passage": 'He came."\n@highlight\nShe left\n@highlight\nEnd',
    "query": "A @placeholder.",
    "entities": ["x", "y", "z"],
    "answers": ["y", "z"],
    "idx": {"passage": 5, "query": 6},
}


def test_record_trains_on_every_right_entity_and_evaluates_once():
    expected = 'record query: A @placeholder. entities: x, y, z passage: He came." She left. End'
    made = examples("record", RECORD)
    assert [(row["inputs"], row["targets"], row["example_id"]) for row in made] == [
        (expected, "y", "5-6-0"),
        (expected, "z", "5-6-1"),
    ]
    [once] = examples("record", {**RECORD, "split": "validation"})
    assert (once["targets"], once["answers"], once["example_id"]) == ("y", ["y", "z"], "5-6")
    assert once["options"] == ["x", "y", "z"]


WSC = {**ORIGIN, "text": "Bob saw Tom before he left . ", "idx": 0, "label": 1}
WSC |= {"span1_text": "Tom", "span1_index": 2, "span2_text": "he", "span2_index": 4}


def test_wsc_marks_the_pronoun_and_asks_for_the_noun():
    wrong = {**WSC, "label": 0, "span1_text": "Bob", "span1_index": 0}
    [made] = examples("wsc", WSC, wrong)
    assert (made["inputs"], made["targets"]) == ("wsc: Bob saw Tom before *he* left . ", "Tom")
    evaluated = examples("wsc", *({**row, "split": "validation"} for row in (WSC, wrong)))
    assert [(row["targets"], row["label"]) for row in evaluated] == [("Tom", 1), ("Bob", 0)]


def test_wsc_choice_marks_both():
    [made] = examples("wsc_choice", WSC)
    assert made["inputs"] == "wsc text: Bob saw * Tom * before # he # left . "
    assert (made["targets"], made["options"]) == ("True", ["False", "True"])


def test_the_servers_files(tmp_path):
    def table(task, rows):
        path = tmp_path / "m" / f"super_glue_{task}.test.parquet"
        path.parent.mkdir(exist_ok=True)
        columns = dict(zip(("example_id", "prediction", "target"), map(list, zip(*rows, strict=True)), strict=True))
        pq.write_table(pa.table(columns), path)

    table("boolq", [("10", "True", "<unk>"), ("2", "odd", "<unk>")])
    table("copa", [("0", "choice2", "<unk>")])
    table("multirc", [("0-0-1", "True", "<unk>"), ("0-0-0", "False", "<unk>"), ("0-1-2", "True", "<unk>")])
    table("record", [("3-7", "Bob", "<unk>")])
    table("wsc", [("4", "the bottle", "a water bottle")])
    command = [sys.executable, "-m", "cat_jax_tasks.submission", tmp_path, "m", tmp_path / "out"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stderr.splitlines()[0] == "no table of CB, RTE, WiC: the server wants all eight"
    found = {p.stem: [json.loads(line) for line in p.read_text().splitlines()] for p in (tmp_path / "out").iterdir()}
    assert found == {
        "BoolQ": [{"idx": 2, "label": "false"}, {"idx": 10, "label": "true"}],
        "COPA": [{"idx": 0, "label": 1}],
        "MultiRC": [
            {
                "idx": 0,
                "passage": {
                    "questions": [
                        {"idx": 0, "answers": [{"idx": 0, "label": 0}, {"idx": 1, "label": 1}]},
                        {"idx": 1, "answers": [{"idx": 2, "label": 1}]},
                    ]
                },
            }
        ],
        "ReCoRD": [{"idx": 7, "label": "Bob"}],
        "WSC": [{"idx": 4, "label": "True"}],
    }


def test_a_submission_of_nothing_is_one_line(tmp_path, capsys):
    assert submission.main([str(tmp_path), "m", str(tmp_path / "out")]) == 2
    assert capsys.readouterr().err.startswith("error: no table such as ")
    assert not (tmp_path / "out").exists()
