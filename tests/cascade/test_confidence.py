"""Confidence rules on tables small enough to compute by hand."""

import json

import cascade_tables
import numpy as np
import pyarrow as pa
import pytest

from cat_jax.cascade.confidence import RULES, ConfidenceRule, option_keys, parse_rule, register
from cat_jax.cascade.pairs import join, load_answers
from cat_jax.cascade.view import task_view
from cat_jax.errors import UserError
from cat_jax.table import SCHEMA, read_table


def table(**columns):
    count = len(next(iter(columns.values())))
    arrays = [pa.array(columns.get(f.name, [None] * count), f.type) for f in SCHEMA]
    return pa.Table.from_arrays(arrays, schema=SCHEMA)


LOGPROBS = table(token_logprobs=[[-1.0, -3.0], [-0.5], [], [-2.0, -1.0, -6.0]])


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        ("chow_sum", [-4.0, -0.5, -np.inf, -9.0]),
        ("chow_average", [-2.0, -0.5, -np.inf, -3.0]),
        ("minimum", [-3.0, -0.5, -np.inf, -6.0]),
        ("chow_quantile(0)", [-3.0, -0.5, -np.inf, -6.0]),
        ("chow_quantile(1)", [-1.0, -0.5, -np.inf, -1.0]),
        ("chow_quantile(0.5)", [-2.0, -0.5, -np.inf, -2.0]),
        ("chow_quantile(0.25)", [-2.5, -0.5, -np.inf, -4.0]),
    ],
)
def test_rules_on_token_logprobs(rule, expected):
    np.testing.assert_allclose(parse_rule(rule)(LOGPROBS), expected)


def test_quantiles_agree_with_numpy():
    generator = np.random.default_rng(0)
    rows = [np.float32(generator.normal(size=n)).tolist() for n in generator.integers(1, 20, 50)]
    ours = parse_rule("chow_quantile(0.3)")(table(token_logprobs=rows))
    np.testing.assert_allclose(ours, [np.quantile(np.array(row, np.float64), 0.3) for row in rows], rtol=1e-12)


def test_a_certain_failure_beside_another_is_not_nan():
    rows = table(token_logprobs=[[-np.inf, -np.inf, -1.0]])
    assert parse_rule("minimum")(rows).tolist() == [-np.inf]


def test_entropy_is_negative_mean():
    rows = table(token_entropies=[[1.0, 3.0], [0.25]])
    assert parse_rule("entropy")(rows).tolist() == [-2.0, -0.25]


def test_margin_of_tokens_is_their_mean():
    rows = table(token_margins=[[1.0, 2.0], [0.5]])
    assert parse_rule("margin")(rows).tolist() == [1.5, 0.5]


def test_rules_on_options_of_different_number():
    rows = table(option_scores=[[-1.0, -3.0], [-2.0, -2.5, -7.0]], token_margins=[[9.0], [9.0]])
    assert parse_rule("margin")(rows).tolist() == [2.0, 0.5]
    best = [1 / (1 + np.exp(-2)), 1 / (1 + np.exp(-0.5) + np.exp(-5))]
    np.testing.assert_allclose(parse_rule("max_option_probability")(rows), best, rtol=1e-6)


SCORES, LENGTHS = [[-3.0, -4.0], [-2.0, -9.0, -8.0]], [[1, 4], [2, 3, 1]]


def chosen(rows, **settings):
    """The table with settings in its metadata, as `write_table` puts them there."""
    return rows.replace_schema_metadata({b"cat_jax": json.dumps({"settings": settings}).encode()})


def test_rules_speak_of_the_option_that_was_chosen_by_its_mean():
    rows = chosen(table(option_scores=SCORES, option_lengths=LENGTHS), option_normalization="mean")
    # Of the first row the second option is the answer: its tokens are likelier, not their sum.
    np.testing.assert_allclose(option_keys(rows).values, [-3, -1, -1, -3, -8])
    np.testing.assert_allclose(parse_rule("margin")(rows), [2.0, 2.0])
    best = [1 / (1 + np.exp(-2)), 1 / (1 + np.exp(-2) + np.exp(-7))]
    np.testing.assert_allclose(parse_rule("max_option_probability")(rows), best, rtol=1e-6)


@pytest.mark.parametrize("settings", [{"option_normalization": "sum"}, {}, None])
def test_rules_read_sums_where_options_were_chosen_by_them(settings):
    rows = table(option_scores=SCORES, option_lengths=LENGTHS)
    rows = rows if settings is None else chosen(rows, **settings)
    np.testing.assert_allclose(parse_rule("margin")(rows), [1.0, 6.0])


def test_a_mean_without_lengths_is_refused():
    rows = chosen(table(option_scores=SCORES), option_normalization="mean")
    with pytest.raises(UserError, match="option_lengths is empty in 2 of 2 rows"):
        parse_rule("margin")(rows)


def test_how_options_were_chosen_is_read_from_the_file(tmp_path):
    """The rows are joined and sorted on the way; a table from before the setting was there chose by the sum."""
    for model, settings in (("large", {}), ("mean", {"option_normalization": "mean"}), ("old", {})):
        columns = {"option_scores": SCORES[::-1], "option_lengths": LENGTHS[::-1], "scores": [0.0, 1.0]}
        info = {"mode": "score", "settings": settings}
        cascade_tables.write(tmp_path, model, "t", "test", ids=["b", "a"], info=info, **columns)
    large = load_answers(tmp_path, "large", "t", "test")
    for model, expected in (("mean", [2.0, 2.0]), ("old", [1.0, 6.0])):
        pair = join(load_answers(tmp_path, model, "t", "test"), large)
        np.testing.assert_allclose(task_view(pair, parse_rule("margin")).confidence, expected)
        rows, _ = read_table(tmp_path / model / "t.test.parquet")
        np.testing.assert_allclose(parse_rule("margin")(rows), expected)


def test_infinite_confidence_can_still_be_deferred():
    rows = table(option_scores=[[0.0, -np.inf]])
    assert parse_rule("margin")(rows)[0] < np.inf


def test_rules_have_one_spelling():
    assert parse_rule("chow_quantile( 0.10 )") == ConfidenceRule("chow_quantile", (0.1,))
    assert str(parse_rule("chow_quantile(0.10)")) == "chow_quantile(0.1)"
    for name in RULES:
        if name != "chow_quantile":
            assert str(parse_rule(name)) == name


@pytest.mark.parametrize(
    ("text", "problem", "mend"),
    [
        ("chow_avrage", "no confidence rule is called 'chow_avrage'", "chow_average"),
        ("zzz", "no confidence rule", "choose one of"),
        ("chow_sum(0.1)", "wrong numbers", "write it as chow_sum"),
        ("chow_quantile", "wrong numbers", "chow_quantile(q)"),
        ("chow_quantile(x)", "wrong numbers", "chow_quantile(q)"),
        ("chow_quantile(1.5)", "outside 0 to 1", "chow_quantile(0.1)"),
        ("chow_sum; rm", "no confidence rule", "chow_sum"),
    ],
)
def test_unknown_rules_are_named_with_a_mend(text, problem, mend):
    with pytest.raises(UserError) as error:
        parse_rule(text)
    assert problem in error.value.problem
    assert mend in error.value.mend


@pytest.mark.parametrize(
    ("rule", "columns", "problem"),
    [
        ("chow_sum", {"input": ["a"]}, "token_logprobs is empty in 1 of 1 rows"),
        ("chow_sum", {"token_logprobs": [[-1.0], None]}, "token_logprobs is empty in 1 of 2 rows"),
        ("chow_sum", {"token_logprobs": [[float("nan")]]}, "token_logprobs holds NaN"),
        ("margin", {"option_scores": [[-1.0, -2.0], None]}, "option_scores is there in some rows"),
        ("margin", {"option_scores": [[-1.0]]}, "two options"),
        ("max_option_probability", {"token_logprobs": [[-1.0]]}, "option_scores is empty"),
    ],
)
def test_missing_columns_are_named(rule, columns, problem):
    with pytest.raises(UserError, match=r"rule|evaluate") as error:
        parse_rule(rule)(table(**columns))
    assert problem in error.value.problem


def test_a_user_adds_one_function():
    @register("test_shortest_first")
    def shortest_first(rows):
        return -rows.column("prediction_length").to_numpy()

    try:
        assert parse_rule("test_shortest_first")(table(prediction_length=[3, 1])).tolist() == [-3, -1]
        with pytest.raises(ValueError, match="already"):
            register("test_shortest_first")(shortest_first)
    finally:
        del RULES["test_shortest_first"]


def test_a_rule_that_gives_nonsense_is_refused():
    try:
        register("test_nan")(lambda rows: np.full(len(rows), np.nan))
        register("test_short")(lambda rows: np.zeros(1))
        with pytest.raises(UserError, match="gave NaN"):
            parse_rule("test_nan")(LOGPROBS)
        with pytest.raises(UserError, match=r"shape \(1,\) for 4 rows"):
            parse_rule("test_short")(LOGPROBS)
    finally:
        del RULES["test_nan"], RULES["test_short"]
