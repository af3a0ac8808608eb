"""Answers from elsewhere: scored as `evaluate` scores, refused where they do not fit, priced in one unit."""

import dataclasses
import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cat_jax.cascade.experiment import cascade
from cat_jax.cli import main as cli
from cat_jax.errors import UserError
from cat_jax.evaluate.cost import Cost
from cat_jax.evaluate.imported import import_answers
from cat_jax.evaluate.run import evaluate
from cat_jax.report.files import write_report
from cat_jax.table import read_table, write_table

WORDS = ["a0", "b1", "c2", "a3", "b4", "c5", "a6"]  # of `choice_world`: the answers are the words in capitals
FLOPS = Cost(per_answer=5.0)


def rows(**fields):
    """A row an example, right at the even ones; each of `fields` is a value a row, or one for all."""
    made = [{"example_id": str(k), "prediction": w.upper() if k % 2 == 0 else "?"} for k, w in enumerate(WORDS)]
    for name, values in fields.items():
        for row, value in zip(made, values if isinstance(values, list) else [values] * len(made), strict=True):
            row[name] = value
    return made


def write(path, rows):
    if path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def run(world, files, output_dir, task="shout", cost=FLOPS, model="api", **options):
    options = {"splits": ["test"], "model": model, "cost": cost} | options
    return import_answers(files, str(world / "store"), task, str(output_dir), **options)[model]["test"]


def table_of(output_dir, task="shout", model="api"):
    return read_table(output_dir / model / f"{task}.test.parquet")


@pytest.mark.parametrize("suffix", [".jsonl", ".parquet"])
def test_texts_are_scored_by_the_task(choice_world, tmp_path, suffix):
    files = [write(tmp_path / f"{k}{suffix}", part) for k, part in enumerate((rows()[4:], rows()[:4]))]
    content = run(choice_world, files, tmp_path / "tables", parameters=70, keep_fields=["inputs_pretokenized"])
    table, info = table_of(tmp_path / "tables")
    assert content["tasks"]["shout"]["metrics"] == info.metrics == {"accuracy": pytest.approx(400 / 7), "first": 4 / 7}
    assert table["score"].to_pylist() == [100.0, 0.0, 100.0, 0.0, 100.0, 0.0, 100.0]
    assert table["input"].to_pylist() == WORDS
    assert json.loads(table["fields"][0].as_py()) == {"inputs_pretokenized": "a0"}
    assert (info.metric, info.metric_kind, info.mode, info.parameters) == ("accuracy", "mean", "generate", 70)
    assert table["flops"].to_pylist() == [5.0] * 7
    assert table["prediction_length"].to_pylist() == [3, 2] * 3 + [3], "bytes and the end"
    assert table["input_length"].to_pylist() == [3] * 7
    assert json.loads((tmp_path / "tables/api/shout.test.metrics.json").read_text()) == content


def test_a_table_of_ours_comes_back_as_it_was(choice_world, tmp_path):
    """Its columns are the fields of a row: texts, metrics and confidence are the same; so in score mode."""
    models, store = {"m": str(choice_world / "model")}, str(choice_world / "store")
    for task, mode in (("shout", "generate"), ("choose", "score")):
        evaluate(models, store, task, str(tmp_path), None, ["test"], mode, batch_size=4)
        path = tmp_path / "m" / f"{task}.test.parquet"
        run(choice_world, str(path), tmp_path, task, Cost(), mode=mode)
        (ours, info), (theirs, said) = read_table(path), table_of(tmp_path, task)
        assert ours.drop_columns("fields").equals(theirs.drop_columns("fields"))
        same = ("metrics", "metric", "metric_kind", "store_fingerprint", "mode", "cost_unit")
        assert all(getattr(info, name) == getattr(said, name) for name in same)
        assert (said.model, said.parameters) == ("api", None)


def test_the_likeliest_option_is_the_answer(choice_world, tmp_path):
    scores, lengths = (
        [[-2.0, -1.0, -9.0], [-1.0, -2.0, -3.0]] * 3 + [[-1.0] * 3],
        [[1, 1, 1], [3, 2, 20]] * 3 + [[1] * 3],
    )
    made = [{k: v for k, v in row.items() if k != "prediction"} for row in rows(option_scores=scores)]
    found = run(choice_world, write(tmp_path / "a.jsonl", made), tmp_path, "choose", mode="auto")["tasks"]["choose"]
    table, info = table_of(tmp_path, "choose")
    chosen = ["é", "B1", "é", "A3", "é", "C5", "A6"]
    assert table["prediction"].to_pylist() == chosen
    assert table["prediction_length"].to_pylist() == [len(text.encode()) + 1 for text in chosen]
    assert info.mode == "score"
    assert found["metrics"]["lead"] == pytest.approx((3 * -1 + 3 * 1 + 0) / 7), "a metric of scores"
    means = write(tmp_path / "b.jsonl", rows(option_scores=scores, option_lengths=lengths, prediction=None))
    run(choice_world, means, tmp_path, "choose", mode="score", option_normalization="mean")
    assert table_of(tmp_path, "choose")[0]["prediction"].to_pylist() == [*["é", "nothing of the kind"] * 3, "A6"]


def changed(**fields):
    made = rows()
    made[2] |= fields
    return made


SCORES = [[-1.0, -2.0, -3.0]] * 7
BAD = {
    "missing": (lambda: rows()[2:], {}, "2 of 7 examples of shout \\(test\\) have no row \\(the first: 0\\)"),
    "unknown": (
        lambda: [*rows(), {"example_id": "x", "prediction": "a"}, {"example_id": "y", "prediction": "a"}],
        {},
        "2 of the rows are of no example of shout \\(test\\) \\(the first: x, .*bad.jsonl line 8\\)",
    ),
    "twice": (lambda: [*rows(), *rows()[:3]], {}, "3 of 7 examples .* have several rows \\(the first: 0, .* line 8\\)"),
    "all three": (
        lambda: [*rows()[1:], rows()[1], {"example_id": 7, "prediction": ""}],
        {},
        "1 of 7 .* no row \\(the first: 0\\); 1 of 7 .* several rows .*; 1 of the rows is of no example .*: give every",
    ),
    "no prediction": (lambda: changed(prediction=None), {}, "line 3: example 2 of shout \\(test\\) has no prediction"),
    "a number": (lambda: changed(prediction=3), {}, "the prediction 3 is no text"),
    "no id": (lambda: [{"prediction": "a"}], {}, "line 1 has no example_id"),
    "misspelt": (lambda: changed(token_logprob=[-1.0]), {}, "did you mean token_logprobs"),
    "some confidence": (
        lambda: changed(token_logprobs=[-1.0]), {}, "6 of 7 rows of shout \\(test\\) have no token_logprobs",
    ),
    "probabilities": (lambda: changed(token_logprobs=[0.9]), {}, "token_logprobs has 0.9, which is no"),
    "infinite": (lambda: changed(token_margins=[float("inf")]), {}, "token_margins is no list of finite numbers"),
    "null in a list": (lambda: changed(token_entropies=[None]), {}, "token_entropies is no list of finite numbers"),
    "uneven": (
        lambda: changed(token_logprobs=[-1.0], token_margins=[1.0, 2.0]), {}, "has 1 token_logprobs, 2 token_margins",
    ),
    "a negative length": (lambda: changed(input_length=-1), {}, "input_length is -1, no number of tokens"),
    "free": (lambda: changed(flops=0), {}, "flops is 0, no number above 0"),
    "no cost": (rows, {"cost": Cost()}, "do not say what they cost: give each row flops"),
    "two costs": (lambda: rows(flops=1.0), {}, "state their flops, and Cost.per_answer is set, too"),
    "no unit": (lambda: rows(cost=1.0), {"cost": Cost()}, "have a field cost, and Cost.unit is FLOPs"),
    "no tokens": (rows, {"cost": Cost(per_input_token=2.0)}, "have no input_length, and there is a price on it"),
    "nothing written": (
        lambda: rows(prediction_length=[1, 0, 1, 1, 1, 1, 1]),
        {"cost": Cost(per_output_token=2.0)},
        "line 2: the answer to example 1 costs 0 FLOPs",
    ),
    "no scores": (rows, {"mode": "score"}, "the rows of shout \\(test\\) have no option_scores"),
    "no lengths": (
        lambda: rows(option_scores=SCORES),
        {"mode": "score", "option_normalization": "mean", "task": "choose"},
        "have no option_lengths",
    ),
    "too few scores": (
        lambda: rows(option_scores=[[-1.0]] * 7),
        {"mode": "score", "task": "choose"},
        "line 1 has 1 option_scores, and example 0 of choose \\(test\\) lists 3 options",
    ),
    "another answer": (
        lambda: rows(option_scores=SCORES),
        {"mode": "score", "task": "choose"},
        "line 2: example 1 predicts '\\?', and its best option is 'B1'",
    ),
    "which task": (rows, {"task": "shout_and_choose"}, "example 0 is in choose \\(test\\) and in shout \\(test\\)"),
    "a name": (rows, {"model": "a/b"}, "cannot be the name of a model's directory"),
    "a mode": (rows, {"mode": "chose"}, "import_answers.mode is 'chose': use one of generate, score, auto"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_what_does_not_fit_is_one_line_and_nothing_is_written(choice_world, tmp_path, name):
    made, options, problem = BAD[name]
    with pytest.raises(UserError, match=problem) as error:
        run(choice_world, write(tmp_path / "bad.jsonl", made()), tmp_path / "tables", **options)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "tables").exists()


def test_rows_may_say_which_task_they_are_of(choice_world, tmp_path):
    both = [*rows(task="shout"), *rows(task="choose")]
    content = run(choice_world, write(tmp_path / "a.jsonl", both), tmp_path, "shout_and_choose")
    assert content["average"]["metrics"] == {"accuracy": pytest.approx(400 / 7)}


def test_the_table_of_a_model_that_was_evaluated_is_left_alone(choice_world, tmp_path):
    file, path = write(tmp_path / "a.jsonl", rows()), tmp_path / "api/shout.test.parquet"
    run(choice_world, file, tmp_path)
    once = path.read_bytes()
    run(choice_world, file, tmp_path)
    assert path.read_bytes() == once, "an imported one is written anew"
    table, info = read_table(path)
    columns = {name: table[name].combine_chunks() for name in table.column_names}
    write_table(path, columns, dataclasses.replace(info, settings={"decoding": {"kind": "greedy"}}))
    before = path.read_bytes()
    with pytest.raises(UserError, match=r"shout.test.parquet is the table of a model that `cat-jax evaluate` ran"):
        run(choice_world, file, tmp_path)
    assert path.read_bytes() == before


def test_prices_by_the_token_in_another_unit(choice_world, tmp_path):
    made = rows(input_length=[10, 20, 30, 40, 50, 60, 70], token_logprobs=[[-0.5] * (k % 3) for k in range(7)])
    price = Cost(unit="USD", per_answer=0.5, per_input_token=0.01, per_output_token=0.1)
    content = run(choice_world, write(tmp_path / "a.jsonl", made), tmp_path, cost=price)["tasks"]["shout"]
    table, info = table_of(tmp_path)
    expected = [0.5 + 0.01 * row["input_length"] + 0.1 * len(row["token_logprobs"]) for row in made]
    np.testing.assert_allclose(table["cost"].to_pylist(), expected)
    assert table["flops"].null_count == 7
    assert info.cost_unit == content["cost_unit"] == "USD"
    assert content["mean_cost"] == pytest.approx(np.mean(expected))
    assert content["mean_flops"] is None
    assert table["prediction_length"].to_pylist() == [0, 1, 2, 0, 1, 2, 0]


@pytest.mark.parametrize(
    ("fields", "free"),
    [
        ({"per_input_token": 0.01}, "output"),
        ({"per_output_token": 0.01}, "input"),
        ({"per_input_token": 0.01, "per_output_token": 0.1}, None),
        ({"per_input_token": 0.01, "per_answer": 0.1}, None),
        ({"per_answer": 0.1}, None),
    ],
)
def test_tokens_that_seem_to_cost_nothing_are_told(fields, free, caplog):
    Cost(unit="USD", **fields)
    assert [f"Cost.per_{free}_token is not" in message for message in caplog.messages] == [True] * (free is not None)


@pytest.mark.parametrize(
    ("fields", "problem"),
    [
        ({"unit": "flops"}, "write 'FLOPs'"),
        ({"unit": ""}, "name what is paid"),
        ({"per_answer": -1}, "Cost.per_answer is -1: give a price of 0 or more"),
        ({"per_output_token": float("nan")}, "Cost.per_output_token is nan"),
        ({"per_flop": 1.0}, "Cost.per_flop has no meaning"),
    ],
)
def test_prices_that_are_none(fields, problem):
    with pytest.raises(UserError, match=problem):
        Cost(**fields)


LOGPROBS = [[-0.1 - 0.1 * k, -0.2] for k in range(7)]


def curve(tables, report_dir, **options):
    options = {"large": "big", "students": {"small": ("xent", 0)}} | options
    return cascade(tables_dir=tables, tasks=["shout"], output_dir=report_dir, test_split="test", validation_split=None,
                   resamples=0, **options)  # fmt: skip


@pytest.fixture
def tables(choice_world, tmp_path):
    """Tables of a small model with confidence in FLOPs and in dollars, and of large ones without."""
    made = rows(token_logprobs=LOGPROBS, flops=2e9)
    small, right = (
        write(tmp_path / "small.jsonl", made),
        [dict(row, prediction=w.upper()) for row, w in zip(rows(), WORDS, strict=True)],
    )
    large = write(tmp_path / "large.jsonl", right)
    run(choice_world, small, tmp_path, cost=Cost(), model="small")
    run(
        choice_world,
        str(tmp_path / "small/shout.test.parquet"),
        tmp_path,
        cost=Cost(unit="USD", per_flop=1e-12),
        model="cents",
    )
    run(choice_world, large, tmp_path, cost=Cost(per_answer=2e11), model="big", parameters=7)
    run(choice_world, large, tmp_path, cost=Cost(unit="USD", per_answer=0.04), model="api")
    return tmp_path


def test_a_curve_has_the_unit_of_its_tables(tables):
    in_flops = curve(tables, tables / "flops")
    in_usd = curve(tables, tables / "usd", large="api", students={"cents": ("xent", 0)})
    assert (in_flops["cost_unit"], in_usd["cost_unit"]) == ("FLOPs", "USD")
    for results, share in ((in_flops, 0.01), (in_usd, 0.05)):
        summary = results["summary"]["task:shout"]["xent"]
        assert summary["small_cost"]["mean"] == pytest.approx(share)
        assert (summary["small_quality"]["mean"], summary["large_quality"]["mean"]) == (pytest.approx(400 / 7), 100)
        np.testing.assert_allclose(results["curves"]["task:shout"]["xent"]["flops"][-1], 1 + share)
    assert in_usd["models"]["api"] | {"metrics": None, "checkpoint": None} == {
        "role": "large", "objective": None, "seed": None, "parameters": None, "step": 0, "flops": 0.04,
        "metrics": None, "checkpoint": None,
    }  # fmt: skip
    page = write_report(in_usd, tables / "usd").report_path.read_text()
    assert "of the 0.04 USD that the large one spends" in page
    assert "USD saved at 95 % of large" in page
    assert "USD per query, share of the large model" in page
    assert "FLOP" not in page.replace("flops", "")
    assert "go to big (7 parameters)" in write_report(in_flops, tables / "flops").report_path.read_text()


def test_units_are_not_mixed(tables):
    problem = (
        r"the table of small on shout \(test\) has cost_unit 'FLOPs', the table of api on shout \(test\) has 'USD'"
    )
    with pytest.raises(UserError, match=problem):
        curve(tables, tables / "out", large="api")
    assert not (tables / "out").exists()


def test_a_small_model_needs_what_its_rule_reads(tables):
    problem = r"chow_average cannot rate the table of big on shout \(test\): token_logprobs is empty in 7 of 7 rows"
    with pytest.raises(UserError, match=problem) as error:
        curve(tables, tables / "out", students={"big": ("xent", 0)}, large="small")
    assert "import its answers with it" in error.value.mend


def test_the_command(choice_world, tmp_path, capfd):
    file = write(tmp_path / "a.jsonl", rows(cost=0.25))
    flags = {
        "TABLES_DIR": f"'{tmp_path}/tables'", "STORE_DIR": f"'{choice_world}/store'", "EVAL_SPLITS": "['test']",
        "MIXTURE_OR_TASK_NAME": "'shout'", "MIXTURE_OR_TASK_MODULE": "[]", "IMPORTED_MODEL": "'api'",
        "Cost.unit": "'USD'",
    }  # fmt: skip
    command = ["evaluate", "--gin_file=runs/evaluate.gin", f"--import={file}"]
    gin = [f"--gin.{name}={value}" for name, value in flags.items()]
    assert cli.main([*command, *gin]) == 0
    assert table_of(tmp_path / "tables")[0]["cost"].to_pylist() == [0.25] * 7
    saved = (tmp_path / "tables/api/shout.test.config.gin").read_text()
    assert saved.startswith(f"# Do it again: cat-jax evaluate --import={file} --gin_file=")
    capfd.readouterr()
    assert cli.main([*command, *gin, "--rescore"]) == 2
    assert "--rescore has no meaning with --import" in capfd.readouterr().err
    assert cli.main([*command, "--import=gone.jsonl", *gin]) == 2
    assert "there is no file gone.jsonl" in capfd.readouterr().err
