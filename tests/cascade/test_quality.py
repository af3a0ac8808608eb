"""Corpus BLEU from sums, and the three ways to score a merged output, against brute force."""

import dataclasses

import cascade_tables
import numpy as np
import pytest

from cat_jax.cascade.bleu import bleu
from cat_jax.cascade.pairs import join, load_answers
from cat_jax.cascade.quality import (
    FunctionQuality,
    MacroQuality,
    SumQuality,
    bleu_value,
    mean_value,
    score_scale,
    task_quality,
)
from cat_jax.cascade.running import Running, no_weights, ordering
from cat_jax.errors import UserError

sacrebleu = pytest.importorskip("sacrebleu")


def sentences(generator, count, shortest=0, longest=12):
    words = ["the", "a", "cat", "dog", "sat", "ran", "on", "mat", "tree", ".", "and", "old"]
    return [" ".join(generator.choice(words, generator.integers(shortest, longest))) for _ in range(count)]


def statistics(hypotheses, references):
    """Sufficient statistics of each sentence, as sacrebleu makes them."""
    return np.array(sacrebleu.BLEU()._extract_corpus_statistics(hypotheses, [references]), dtype=np.float64)


@pytest.mark.parametrize(
    ("count", "shortest", "longest"), [(200, 5, 12), (20, 0, 6), (5, 0, 4), (3, 1, 3), (1, 4, 5), (2, 0, 2)]
)
def test_bleu_equals_sacrebleu(count, shortest, longest):
    generator = np.random.default_rng(count)
    for _ in range(30):
        hypotheses = sentences(generator, count, shortest, longest)
        references = sentences(generator, count, max(shortest, 1), longest + 2)
        expected = sacrebleu.BLEU().corpus_score(hypotheses, [references]).score
        assert float(bleu(statistics(hypotheses, references).sum(axis=0))) == pytest.approx(expected, abs=1e-9)


def test_bleu_of_a_perfect_and_of_an_empty_output():
    references = ["the cat sat on the mat .", "a dog ran and ran and ran ."]
    assert float(bleu(statistics(references, references).sum(axis=0))) == pytest.approx(100, abs=1e-9)
    assert float(bleu(statistics(["", ""], references).sum(axis=0))) == 0.0


def test_bleu_curve_equals_sacrebleu_on_every_merged_output():
    generator = np.random.default_rng(1)
    references = sentences(generator, 40, 4)
    small = [r if generator.random() < 0.3 else s for r, s in zip(references, sentences(generator, 40), strict=True)]
    large = [r if generator.random() < 0.7 else s for r, s in zip(references, sentences(generator, 40), strict=True)]
    where = ordering(generator.normal(size=40))
    quality = SumQuality(statistics(small, references), statistics(large, references), bleu_value)
    ours = quality.merged(Running(where.order, where.cuts, no_weights(40)))[0]
    for cut, value in zip(where.cuts, ours, strict=True):
        deferred = set(where.order[:cut].tolist())
        merged = [large[i] if i in deferred else small[i] for i in range(40)]
        assert value == pytest.approx(sacrebleu.corpus_bleu(merged, [references]).score, abs=1e-9)


def pair_of(tmp_path, kind, small, large, **more):
    ids = [str(i) for i in range(len(small))]
    for model, rows in (("small", small), ("large", large)):
        columns = {key: values[model] for key, values in more.items()}
        cascade_tables.write(tmp_path, model, "t", "test", ids=ids, scores=rows, kind=kind, **columns)
    return join(*(load_answers(tmp_path, model, "t", "test") for model in ("small", "large")))


def test_an_arbitrary_function_is_recomputed_on_each_merged_output(tmp_path):
    small, large = ["a", "b", "c"], ["x", "x", "z"]
    pair = pair_of(tmp_path, "function", [None] * 3, [None] * 3, prediction={"small": small, "large": large})
    seen = []

    def distinct(predictions, rows, split):
        assert split == "test"
        seen.append((predictions, rows.column("target").to_pylist()))
        return 100 * len(set(predictions)) / len(predictions)

    quality = task_quality(pair, function=distinct)
    got = quality.merged(Running(np.array([1, 0, 2]), np.array([0, 1, 2, 3]), no_weights(3)))[0]
    assert [predictions for predictions, _ in seen] == [
        ["a", "b", "c"],
        ["a", "x", "c"],
        ["x", "x", "c"],
        ["x", "x", "z"],
    ]
    assert all(targets == ["target 0", "target 1", "target 2"] for _, targets in seen)
    np.testing.assert_allclose(got, [100, 100, 200 / 3, 200 / 3])


def test_function_and_sums_agree_under_weights():
    generator = np.random.default_rng(2)
    small, large = generator.random((2, 12)).round(3)
    tables = [cascade_table(values) for values in (small, large)]
    function = FunctionQuality(
        *tables, lambda predictions, rows, split: float(np.mean([float(p) for p in predictions]))
    )
    sums = SumQuality(small[:, None], large[:, None], mean_value)
    where = ordering(generator.normal(size=12))
    weights = generator.integers(0, 3, (12, 5)).astype(float)
    running = Running(where.order, where.cuts, weights)
    np.testing.assert_allclose(function.merged(running), sums.merged(running), rtol=1e-12)


def cascade_table(values):
    import pyarrow as pa

    return pa.table({"prediction": [str(v) for v in values]})


def test_macro_is_the_mean_of_tasks_under_one_order():
    generator = np.random.default_rng(3)
    first, second = cascade_tables.random_view(1, 30).quality, cascade_tables.random_view(2, 10).quality
    where = ordering(generator.normal(size=40))
    weights = generator.integers(0, 3, (40, 4)).astype(float)
    got = MacroQuality([first, second], [30, 10]).merged(Running(where.order, where.cuts, weights))
    for p, cut in enumerate(where.cuts):
        deferred = np.isin(np.arange(40), where.order[:cut])
        parts = []
        for quality, span in ((first, slice(0, 30)), (second, slice(30, 40))):
            scores = np.where(deferred[span, None], quality.large, quality.small)[:, 0]
            parts.append((weights[span] * scores[:, None]).sum(axis=0) / weights[span].sum(axis=0))
        np.testing.assert_allclose(got[:, p], np.mean(parts, axis=0), rtol=1e-12)


def test_sums_are_the_same_however_they_are_taken():
    generator = np.random.default_rng(4)
    values, weights = generator.normal(size=(500, 3)), generator.integers(0, 4, (500, 50)).astype(float)
    order = generator.permutation(500)
    for cuts in ([0, 500], [7], [0, 3, 3, 500], list(range(0, 501, 5))):
        got = Running(order, np.array(cuts), weights).sums(values)
        for p, cut in enumerate(cuts):
            expected = weights[order[:cut]].T @ values[order[:cut]]
            np.testing.assert_allclose(got[:, p], expected, atol=1e-9)
    np.testing.assert_allclose(Running(order, np.array([0]), weights).totals(values), weights.T @ values, atol=1e-9)
    one = Running(order, np.arange(501), weights[:, :1]).sums(values)
    np.testing.assert_allclose(one[0, 17], weights[order[:17], 0] @ values[order[:17]], atol=1e-9)


def test_what_a_kind_needs_is_asked_for(tmp_path):
    pair = pair_of(tmp_path, "bleu", [None], [None])
    with pytest.raises(UserError, match="lacks the 10 BLEU statistics"):
        task_quality(pair)
    pair = pair_of(tmp_path, "mean", [None], [1.0])
    with pytest.raises(UserError, match="score is missing in 1 of 1 rows of the table of small"):
        task_quality(pair)
    pair = pair_of(tmp_path, "function", [None], [None])
    with pytest.raises(UserError, match="task's own function"):
        task_quality(pair)


def test_kinds_that_nobody_knows_are_refused(tmp_path):
    cascade_tables.write(tmp_path, "m", "t", "test", ids=["1"], kind="median")
    with pytest.raises(UserError, match="metric kind 'median'"):
        load_answers(tmp_path, "m", "t", "test")


def test_a_metric_of_which_less_is_better_is_refused(tmp_path):
    info = {"metric": "word_error_rate", "higher_is_better": False}
    cascade_tables.write(tmp_path, "m", "t", "test", ids=["1"], scores=[3.0], info=info)
    with pytest.raises(UserError, match="of the metric word_error_rate of t less is better"):
        load_answers(tmp_path, "m", "t", "test")


def test_statistics_in_a_table_give_the_corpus_score(tmp_path):
    generator = np.random.default_rng(5)
    references = sentences(generator, 15, 4)
    outputs = {m: sentences(generator, 15, 4) for m in ("small", "large")}
    rows = {m: statistics(outputs[m], references).tolist() for m in outputs}
    pair = pair_of(tmp_path, "bleu", [None] * 15, [None] * 15, statistics=rows)
    order = np.array([pair.small.ids.index(str(i)) for i in range(15)])
    got = task_quality(pair).merged(Running(order, np.array([0, 15]), no_weights(15)))[0]
    expected = [sacrebleu.corpus_bleu(outputs[m], [references]).score for m in ("small", "large")]
    np.testing.assert_allclose(got, expected, atol=1e-9)
    assert dataclasses.is_dataclass(pair)


@pytest.mark.parametrize(
    ("stated", "scale"),
    [([0.25, 1.0], 100), ([0.25, np.nan], 100), ([np.nan, 40.0], 1), ([-0.5, np.nan], 1), ([np.nan, np.nan], 1)],
)
def test_the_scale_is_that_of_the_metrics_that_are_defined(tmp_path, stated, scale):
    """A metric that is not defined, a correlation of constant answers for example, is stated as NaN."""
    tables = []
    for model, value in zip(("small", "large"), stated, strict=True):
        info = {"metric": "pearson", "metrics": {"pearson": value}}
        cascade_tables.write(tmp_path, model, "t", "test", ids=["0", "1"], kind="function", info=info)
        tables.append(load_answers(tmp_path, model, "t", "test"))
    assert score_scale(tables) == scale
