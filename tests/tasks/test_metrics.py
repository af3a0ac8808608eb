"""Metrics against hand-computed values, scikit-learn, and plain second implementations, on random predictions."""

import collections
import math
import re
import string

import numpy as np
import pytest

pytest.importorskip("seqio", reason="needs the `data` extra")

from cat_jax_tasks.metrics import answers, labels, numbers, segments, texts, wsc
from cat_jax_tasks.metrics.registry import scoring
from cat_jax_tasks.metrics.target import HIDDEN, Target, answer, references

OPTIONS = ("entailment", "contradiction", "neutral")
TWO = ("no", "yes")


def of_labels(texts_, options=OPTIONS):
    return [Target(text, (text,), options, "") for text in texts_]


def random_labels(seed, options, count=200, odd="?"):
    draw = np.random.default_rng(seed)
    return list(draw.choice([*options], count)), list(draw.choice([*options, odd], count))


@pytest.mark.parametrize("seed", range(4))
def test_classification_is_scikit_learns(seed):
    sklearn = pytest.importorskip("sklearn.metrics")
    right, predicted = random_labels(seed, OPTIONS)
    targets = of_labels(right)
    assert labels.accuracy(targets, predicted)["accuracy"] == pytest.approx(
        100 * sklearn.accuracy_score(right, predicted)
    )
    matthews = 100 * sklearn.matthews_corrcoef(right, predicted)
    assert labels.matthews(targets, predicted)["matthews"] == pytest.approx(matthews)
    f1 = 100 * sklearn.f1_score(right, predicted, labels=OPTIONS, average="macro")
    found = labels.commitment_bank(targets, predicted)
    assert found["f1"] == pytest.approx(f1)
    assert found["score"] == pytest.approx((f1 + found["accuracy"]) / 2)


@pytest.mark.parametrize("seed", range(4))
def test_f1_is_scikit_learns_with_odd_answers_as_wrong_ones(seed):
    sklearn = pytest.importorskip("sklearn.metrics")
    right, predicted = random_labels(seed, TWO)
    mended = [p if p in TWO else TWO[r == "no"] for r, p in zip(right, predicted, strict=True)]
    expected = 100 * sklearn.f1_score(right, mended, pos_label="yes")
    assert labels.f1_positive(of_labels(right, TWO), predicted)["f1"] == pytest.approx(expected)
    assert answers.multirc(of_labels(right, TWO), predicted)["f1a"] == pytest.approx(expected)


def test_classification_by_hand():
    targets = of_labels(["yes", "yes", "no", "no"], TWO)
    predicted = ["yes", "no", "yes", "no"]
    assert labels.accuracy(targets, predicted) == {"accuracy": 50.0}
    assert labels.f1_positive(targets, predicted) == {"f1": 50.0}
    assert labels.matthews(targets, predicted) == {"matthews": 0.0}
    assert labels.matthews(targets, ["no"] * 4) == {"matthews": 0.0}, "no spread"


def test_multirc_by_hand():
    """Question a has both answers right, question b one of two."""
    targets = [
        Target(text, (text,), TWO, group) for text, group in zip(["yes", "no", "yes", "no"], "aabb", strict=True)
    ]
    found = answers.multirc(targets, ["yes", "no", "yes", "yes"])
    assert found == {"score": pytest.approx((80 + 50) / 2), "f1a": pytest.approx(80.0), "em": 50.0}


def official_squad(text):
    """SQuAD's own order of steps, as its evaluation script words them."""
    text = "".join(c for c in text.lower() if c not in set(string.punctuation))
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", text).split())


def official_f1(prediction, right):
    predicted, expected = official_squad(prediction).split(), official_squad(right).split()
    same = sum((collections.Counter(predicted) & collections.Counter(expected)).values())
    if not same:
        return 0.0
    precision, recall = same / len(predicted), same / len(expected)
    return 2 * precision * recall / (precision + recall)


def test_record_and_squad_are_the_official_evaluations():
    draw = np.random.default_rng(0)
    words = ["the", "U.S.", "army", "An", "apple", "Bob's", "hat", "  "]

    def phrase():
        return " ".join(draw.choice(words, int(draw.integers(1, 5))))

    rows = [[phrase() for _ in range(int(draw.integers(1, 4)))] for _ in range(300)]
    predicted = [phrase() if draw.random() < 0.7 else row[-1] for row in rows]
    targets = [Target(row[0], tuple(row), (), "") for row in rows]
    f1 = 100 * np.mean([max(official_f1(p, a) for a in row) for p, row in zip(predicted, rows, strict=True)])
    exact = [any(official_squad(p) == official_squad(a) for a in row) for p, row in zip(predicted, rows, strict=True)]
    found = answers.record(targets, predicted)
    assert found["f1"] == pytest.approx(f1)
    assert found["em"] == pytest.approx(100 * np.mean(exact))
    assert found["score"] == pytest.approx((found["f1"] + found["em"]) / 2)
    assert answers.squad(targets, predicted) == {"f1": pytest.approx(f1), "em": pytest.approx(100 * np.mean(exact))}


def test_trivia_keeps_words_apart_that_squad_joins():
    targets = [Target("twenty-one", ("twenty-one", "21"), (), "")]
    assert answers.trivia_qa(targets, ["twenty one"]) == {"em": 100.0, "f1": 100.0}
    assert answers.squad(targets, ["twenty one"])["em"] == 0.0
    assert answers.trivia_qa(targets, ["the 21!"])["em"] == 100.0


@pytest.mark.parametrize(
    "function",
    [labels.accuracy, labels.f1_positive, labels.matthews, labels.commitment_bank, answers.squad, answers.multirc],
)
def test_rows_with_a_hidden_label_count_for_nothing(function):
    known, hidden = of_labels(["yes"], TWO), [Target(None, (HIDDEN,), TWO, "")]
    assert function(known + hidden, ["yes", "no"]) == function(known, ["yes"])
    assert all(math.isnan(value) for value in function(hidden, ["no"]).values())


def test_correlations():
    targets = [Target(text, (text,), (), "") for text in ("0.0", "1.0", "2.0", "5.0")]
    found = numbers.pearson_spearman(targets, ["0.2", "1.0", "2.2", "3.0"])
    pearson = np.corrcoef([0, 1, 2, 5], [0.2, 1.0, 2.2, 3.0])[0, 1]
    assert found == {"pearson": pytest.approx(100 * pearson), "spearman": pytest.approx(100.0)}
    assert numbers.pearson_spearman(targets, ["many", "1", "2", "5"])["spearman"] == pytest.approx(100.0)
    assert numbers.pearson_spearman(targets, ["1"] * 4) == {"pearson": 0.0, "spearman": 0.0}
    assert math.isnan(numbers.pearson_spearman(targets[:1] * 3, ["1", "2", "3"])["pearson"])


def test_wsc_compares_nouns_as_t5_does():
    example = {"targets_pretokenized": b"the water bottle", "label": 1}
    for said, same in {
        "water bottle": True,
        "The bottle": True,
        "his big water bottle": True,
        "backpack": False,
        "the bottle's": False,
    }.items():
        assert wsc.same_referent(said, example) == str(same), said
    assert wsc.same_referent("the", example) == ""
    assert wsc.same_referent("", example) == "", "an empty answer is wrong, whatever the label"
    assert wsc.same_referent("x", example, is_target=True).answer == "True"
    assert wsc.same_referent("x", {**example, "label": -1}, is_target=True).answer is None


def test_rouge_by_hand():
    found = texts.rouge([["the cat sat", "dogs"], ["a b"]], ["the cat", "c d"])
    assert found["rouge1"] == pytest.approx(100 * (2 * 1.0 * (2 / 3) / (1 + 2 / 3)) / 2)
    assert found["rouge2"] == pytest.approx(100 * (2 * 1.0 * 0.5 / 1.5) / 2)


def test_edit_distance_by_hand():
    found = texts.edit_distance([["abcd"], ["same"]], ["abxd", "same"])
    assert found == {"similarity": 87.5, "edit_distance": 0.5}


def test_bleu_takes_any_number_of_references_and_says_its_settings():
    metric = texts.SacreBleu()
    several = metric(
        [["the cat sat on the mat", "a cat sat on a mat"], ["dogs bark at night now"]],
        ["a cat sat on a mat", "dogs bark at night now"],
    )
    assert several["bleu"] == pytest.approx(100.0)
    assert metric.signatures["bleu"].startswith("nrefs:var|case:mixed|eff:no|tok:13a|smooth:exp|version:")


def test_postprocessors_read_raw_fields_as_seqio_hands_them():
    example = {"answers": np.array([b"a", b"b"], object), "options": np.array([b"a", b"c"], object), "group": b"g"}
    assert answer("a", example, is_target=True) == Target("a", ("a", "b"), ("a", "c"), "g")
    assert answer(" a \n", example) == "a"
    assert answer(HIDDEN, {}, is_target=True) == Target(None, (HIDDEN,), (), "")
    assert references("x", {"references": np.array([b"r1", b"r2"], object)}, is_target=True) == ["r1", "r2"]
    assert references("x", {}, is_target=True) == ["x"]


def test_metrics_that_do_not_go_together_are_refused():
    with pytest.raises(ValueError, match="do not go together"):
        scoring(["accuracy", "bleu"])
    with pytest.raises(ValueError, match=r"no metric acuracy; there are accuracy, bleu"):
        scoring(["acuracy"])


def test_segment_scores_come_from_a_file(tmp_path, monkeypatch):
    file = tmp_path / "comet.jsonl"
    file.write_text('{"src": "a", "mt": "b", "score": 0.5}\n{"src": "a", "mt": "c", "score": 0.7}\n')
    monkeypatch.setenv(segments.VARIABLE, str(file))
    [metric] = segments.from_environment()
    targets = [segments.references_of_source("r", {"source": b"a"}, is_target=True)] * 2
    assert targets[0] == ["r"]
    assert metric(targets, ["b", "c"]) == {"segment_score": pytest.approx(0.6)}
    with pytest.raises(ValueError, match="has no score of 'd' for the source 'a'"):
        metric(targets, ["b", "d"])
    file.write_text('{"src": "a"}\n')
    segments.read.cache_clear()
    with pytest.raises(ValueError, match=r"line 1 of .*comet.jsonl is no JSON object with src, mt and score"):
        metric(targets, ["b", "c"])
