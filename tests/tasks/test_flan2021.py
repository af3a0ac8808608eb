"""Every data set of FLAN2021: its templates, and that they name what TFDS's own builder declares."""

import json
import pathlib

import pytest

seqio = pytest.importorskip("seqio", reason="needs the `data` extra")

import made_up  # noqa: E402
import tensorflow as tf  # noqa: E402
from cat_jax_tasks import catalog  # noqa: E402
from cat_jax_tasks.flan2021.prompts import Prompts  # noqa: E402
from cat_jax_tasks.flan2021.registration import view_of  # noqa: E402
from cat_jax_tasks.templates import Template  # noqa: E402
from cat_jax_tasks.tfds_source import content  # noqa: E402

ENTRIES = {entry.name: entry for entry in catalog.flan2021()}
SNAPSHOT = pathlib.Path(__file__).parent / "flan2021_prompts.json"
SENTENCE = {"en": "It is, I think, a Test."}
WORDS = {
    "drop": {"answer": "1944-June-6"},
    "fix_punct": SENTENCE,
    "math_dataset": {"question": "Solve 2*x = 4 for x.", "answer": "2"},
    "story_cloze": {"label": 1},
    "true_case": SENTENCE,
    "word_segment": SENTENCE,
}
"""Values of features whose form a view reads."""


def entry_of(name):
    return ENTRIES[f"flan2021_{name}"]


@pytest.fixture(scope="module", params=sorted(name.removeprefix("flan2021_") for name in ENTRIES))
def name(request):
    return request.param


def source_rows(name, count=1, split="train", **values):
    """Made-up rows as `TfdsSource` gives them; ids count."""
    dataset = made_up.rows(entry_of(name).source, count, **WORDS.get(name, {}), **values)

    def with_origin(k, row):
        return {**row, "example_id": tf.strings.as_string(k), "split": tf.constant(split), "content": content(row)}

    return dataset.enumerate().map(with_origin)


def prompts_of(name, **arguments):
    return Prompts(entry_of(name), view_of(entry_of(name)))(source_rows(name, **arguments))


def examples(name, **arguments):
    return list(prompts_of(name, **arguments).as_numpy_iterator())


def test_there_are_the_70_data_sets():
    assert len(ENTRIES) == 70
    assert {kind: sum(entry.kind == kind for entry in ENTRIES.values()) for kind in ("cls", "gen")} == {
        "cls": 37,
        "gen": 33,
    }


def test_a_data_set_has_ten_templates_of_its_own(name):
    templates = [Template(**table) for table in entry_of(name).details["templates"]]
    assert len(templates) == 10
    assert len(set(templates)) == 10
    turned = [template for template in templates if template.is_turned]
    assert 2 <= len(turned) <= 4
    for template in turned:
        assert "options" not in template.fields, "options would not contain the target"
        assert template.targets.strip("{}") not in Template(template.inputs).fields - {"answer"}, "the input tells it"
    straight = [template for template in templates if not template.is_turned]
    is_ranked = entry_of(name).kind == "cls" and entry_of(name).details.get("ranked", True)
    with_options = sum("options" in template.fields for template in straight)
    assert with_options >= 4 if is_ranked else not with_options


def test_a_template_with_a_field_that_the_data_set_lacks_is_refused():
    entry = entry_of("rte")
    templates = [{"inputs": "{premise} {hypothesys}", "targets": "{answer}"}]
    broken = catalog.Entry(**{**vars(entry), "details": {**entry.details, "templates": templates}})
    with pytest.raises(ValueError, match=r"flan2021_rte: a template names \{hypothesys\}, which is no text among"):
        Prompts(broken, view_of(entry))(source_rows("rte"))


@pytest.mark.parametrize("name", [name for name, e in sorted(ENTRIES.items()) if "label" in e.details])
def test_every_label_is_reached_in_the_builders_order(name):
    entry = ENTRIES[name]
    label = entry.details["label"]
    feature = made_up.features(entry.source)[label["feature"]]
    count = len(label.get("options") or label["option_fields"])
    assert feature.num_classes == count if hasattr(feature, "num_classes") else count == 2
    short = name.removeprefix("flan2021_")
    made = examples(short, count=count + 1, split="validation", **{label["feature"]: [*range(count), -1]})
    assert len(made) == count, "a hidden label is left out"
    for k, row in enumerate(made):
        assert row["targets"] == row["options"][k]


def test_evaluation_asks_for_the_answer_and_training_in_every_way():
    trained, evaluated = (examples("rte", count=200, split=split) for split in ("train", "validation"))
    assert {int(row["template"]) for row in trained} == set(range(10))
    assert {int(row["template"]) for row in evaluated} == set(range(7))
    assert all(row["targets"] in row["options"] for row in evaluated)
    turned = [row for row in trained if row["template"] >= 7]
    assert all(not len(row["options"]) for row in turned)
    assert {row["content"] for row in trained} == {b"[hypothesis]\n[premise]"}


def test_prompts_are_what_they_were(name):
    """Three prompts of each data set on a made-up row of the builder's own types.

    All ten are traced: a field that the data set lacks would be an error. A change of a template changes what models
    are trained and compared on: when that is what you want, delete the entry in flan2021_prompts.json, and this test
    writes it anew and fails once.
    """
    prompts = prompts_of(name, count=3)
    is_ranked = entry_of(name).kind == "cls" and entry_of(name).details.get("ranked", True)
    assert {"example_id", "inputs", "targets", "template", "content"} <= set(prompts.element_spec)
    assert ("options" in prompts.element_spec) == is_ranked
    made = [[row["inputs"].decode(), row["targets"].decode()] for row in prompts.as_numpy_iterator()]
    known = json.loads(SNAPSHOT.read_text()) if SNAPSHOT.exists() else {}
    if name not in known:
        SNAPSHOT.write_text(
            json.dumps(dict(sorted({**known, name: made}.items())), indent=1, ensure_ascii=False) + "\n"
        )
        pytest.fail(f"the prompts of {name} were not known: they are now")
    assert made == known[name]


def test_mixtures_hold_the_clusters():
    members = {task.name for task in seqio.MixtureRegistry.get("flan2021").tasks}
    assert len(members) == 69, "wsc273 is in no cluster"
    both = [{t.name for t in seqio.MixtureRegistry.get(f"flan2021_{kind}").tasks} for kind in ("cls", "gen")]
    assert both[0] | both[1] == members
    assert not both[0] & both[1]
    cluster = {task.name for task in seqio.MixtureRegistry.get("flan2021_cluster_entailment").tasks}
    rest = {task.name for task in seqio.MixtureRegistry.get("flan2021_without_entailment").tasks}
    assert cluster == {name for name, entry in ENTRIES.items() if entry.cluster == "entailment"}
    assert cluster | rest == members
    assert not cluster & rest
