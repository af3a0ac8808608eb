"""`evaluate` from models and stores to tables, without SeqIO."""

import dataclasses
import json
import pathlib
import shutil
import signal
import socket
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import small_world
from fake_devices import environment

import cat_jax.evaluate.run
import cat_jax.evaluate.text
from cat_jax.data.store import ExampleStore
from cat_jax.errors import NonFiniteError, UserError
from cat_jax.evaluate.job import EvaluatedModel
from cat_jax.evaluate.run import evaluate
from cat_jax.models.flops import parameter_count
from cat_jax.table import read_table, table_path

HERE = pathlib.Path(__file__).parent
SETTINGS = {"mixture_or_task": "both", "splits": ("test",), "mode": "auto", "batch_size": 4}


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    root = tmp_path_factory.mktemp("world")
    small_world.write_world(root)
    return root


@pytest.fixture(autouse=True)
def _texts(monkeypatch):
    for module, name in small_world.PATCHED:
        monkeypatch.setattr(module, name, getattr(module, name))
    small_world.without_seqio()


def run(world, output_dir, **changes):
    models = {f"model{seed}": str(world / "models" / str(seed)) for seed in (0, 1)}
    settings = {"models": models, "store_dir": str(world / "store"), "output_dir": str(output_dir), **SETTINGS}
    return evaluate(**{**settings, **changes})


@pytest.fixture(scope="module")
def tables(world, tmp_path_factory):
    output_dir = tmp_path_factory.mktemp("tables")
    with pytest.MonkeyPatch.context() as patch:
        for module, name in small_world.PATCHED:
            patch.setattr(module, name, getattr(module, name))
        small_world.without_seqio()
        run(world, output_dir)
    return output_dir


def contents(directory):
    return {str(p.relative_to(directory)): p.read_bytes() for p in sorted(directory.rglob("*")) if p.is_file()}


def test_writes_a_table_for_each_model_and_task_and_nothing_else(tables):
    expected = {f"{task}.test.parquet" for task in ("letters", "choices")} | {"both.test.metrics.json"}
    assert set(contents(tables)) == {f"model{seed}/{name}" for seed in (0, 1) for name in expected}


def test_generated_rows(world, tables):
    table, info = read_table(tables / "model0" / "letters.test.parquet")
    store = ExampleStore.open(world / "store", "letters", "test")
    by_id = {example.example_id: example for example in store}
    assert table["example_id"].to_pylist() == sorted(by_id)
    for row in table.to_pylist():
        example = by_id[row["example_id"]]
        assert row["input"] == example.raw["inputs_pretokenized"]
        assert row["target"] == example.raw["targets_pretokenized"]
        assert row["prediction"] == small_world.Letters().decode(row["prediction_tokens"])
        assert row["input_length"] == len(example.inputs)
        assert row["target_length"] == len(example.targets)
        count = row["prediction_length"]
        assert {len(row[name]) for name in ("prediction_tokens", "token_logprobs", "token_margins")} == {count}
        assert row["flops"] == small_world.CONFIG.answer_flops(len(example.inputs), count)
        assert row["score"] == float(row["prediction"] == row["target"])
        assert row["options"] is None
    assert (info.mode, info.metric, info.metric_kind, info.step) == ("generate", "accuracy", "mean", 3)
    assert info.metrics == {"accuracy": np.mean(table["score"].to_numpy())}
    assert info.parameters == parameter_count(small_world.CONFIG)
    assert info.settings == {"decoding": {"name": "greedy"}, "max_decode_length": 6, "dtype": None}


def test_scored_rows(tables):
    table, info = read_table(tables / "model1" / "choices.test.parquet")
    assert len(table) == 26
    config = small_world.CONFIG
    for row in table.to_pylist():
        best = int(np.argmax(row["option_scores"]))
        assert row["prediction"] == row["options"][best]
        assert row["option_lengths"] == [len(option) + 1 for option in row["options"]]
        np.testing.assert_allclose(sum(row["token_logprobs"]), row["option_scores"][best], rtol=1e-5)
        first = config.answer_flops(row["input_length"], 1)
        rest = sum(config.answer_flops(row["input_length"], n) - first for n in row["option_lengths"])
        np.testing.assert_allclose(row["flops"], first + rest, rtol=1e-12)
    assert (info.mode, info.settings) == ("score", {"option_normalization": "sum", "dtype": None})
    assert len({row["prediction_length"] for row in table.to_pylist()}) > 1


def test_metrics_file(tables):
    content = json.loads((tables / "model0" / "both.test.metrics.json").read_text())
    accuracy = {}
    for task in ("letters", "choices"):
        table, info = read_table(tables / "model0" / f"{task}.test.parquet")
        accuracy[task] = info.metrics["accuracy"]
        assert content["tasks"][task]["metrics"] == info.metrics
        assert content["tasks"][task]["examples"] == len(table)
        assert content["tasks"][task]["mean_flops"] == np.mean(table["flops"].to_numpy())
    assert accuracy["choices"] > 0
    mean = (accuracy["letters"] + accuracy["choices"]) / 2
    assert content["average"] == {"headline": mean, "metrics": {"accuracy": mean}, "examples": 63}
    assert (content["model"], content["step"], content["split"]) == ("model0", 3, "test")


def loaded(monkeypatch):
    """The models that are loaded from now on."""
    names, load = [], cat_jax.evaluate.run.load_model

    def load_model(model_dir, **settings):
        names.append(pathlib.Path(model_dir).name)
        return load(model_dir, **settings)

    monkeypatch.setattr(cat_jax.evaluate.run, "load_model", load_model)
    return names


def test_finished_tables_are_left_alone(world, tables, monkeypatch):
    before, names = contents(tables), loaded(monkeypatch)
    again = run(world, tables)
    assert not names
    assert contents(tables) == before
    assert again["model1"]["test"] == json.loads(before["model1/both.test.metrics.json"])


def test_tables_of_something_else_are_made_again(world, tables, tmp_path, monkeypatch):
    for name, content in contents(tables).items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(content)
    names = loaded(monkeypatch)
    other = {"model0": str(world / "models" / "1")}
    run(world, tmp_path, models=other)
    assert names == ["1"], "another checkpoint under the same name"
    ours, theirs = (read_table(tmp_path / f"model{i}" / "letters.test.parquet")[0] for i in (0, 1))
    assert ours.equals(theirs)
    run(world, tmp_path, models=other, max_decode_length=3)
    assert names == ["1", "1"]
    assert max(read_table(tmp_path / "model0" / "letters.test.parquet")[0]["prediction_length"].to_pylist()) == 3
    (tmp_path / "model1" / "letters.test.parquet").write_bytes(b"PAR1 of old")
    run(world, tmp_path, models={"model1": str(world / "models" / "1")})
    assert contents(tmp_path / "model1") == contents(tables / "model1")


def test_a_step_by_number_or_by_path_is_the_same(world, tables, tmp_path):
    model_dir = str(world / "models" / "0")
    for i, entry in enumerate((EvaluatedModel("model0", model_dir, 3), EvaluatedModel("model0", model_dir, None))):
        run(world, tmp_path / str(i), models=[entry], mixture_or_task="letters")
    run(world, tmp_path / "2", models={"model0": f"{model_dir}/checkpoints/3"}, mixture_or_task="letters")
    for i in range(3):
        table = (tmp_path / str(i) / "model0" / "letters.test.parquet").read_bytes()
        assert table == contents(tables)["model0/letters.test.parquet"]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"models": {"x": "nowhere"}}, "nowhere"),
        ({"models": {}}, "models to evaluate"),
        ({"models": {"a/b": "nowhere"}}, "'a/b' cannot be the name"),
        ({"mode": "guess"}, "no mode 'guess'"),
        ({"option_normalization": "max"}, "'max'"),
        ({"batch_size": 0}, "batch_size is 0"),
        ({"mixture_or_task": "bath"}, "'bath'"),
        ({"splits": ["train"]}, "of 'both' has a split 'train'"),
        ({"mode": "score", "mixture_or_task": "letters"}, "lists no options"),
    ],
)
def test_user_errors_leave_nothing_behind(world, tmp_path, changes, words):
    with pytest.raises(UserError) as error:
        run(world, tmp_path / "out", **changes)
    assert words in str(error.value)
    assert not (tmp_path / "out").exists()


def test_finished_tables_are_scored_again_when_asked(world, tables, tmp_path, monkeypatch):
    """The task's metrics have changed: answers are kept, and no model is loaded."""
    shutil.copytree(tables, tmp_path / "out")
    before, names = contents(tables), loaded(monkeypatch)

    def mistakes(*arguments):
        scored = small_world.score_letters(*arguments)
        wrong = [1 - score for score in scored.scores]
        found = {"mistakes": float(np.mean(wrong))}
        return dataclasses.replace(scored, metrics=found, headline="mistakes", scores=wrong, higher_is_better=False)

    monkeypatch.setattr(cat_jax.evaluate.text, "score_table", mistakes)
    run(world, tmp_path / "out")
    assert contents(tmp_path / "out") == before
    metrics = run(world, tmp_path / "out", rescore=True)
    assert not names
    for model in ("model0", "model1"):
        for task in ("letters", "choices"):
            old, was = read_table(table_path(tables, model, task, "test"))
            new, info = read_table(table_path(tmp_path / "out", model, task, "test"))
            assert new.drop_columns("score").equals(old.drop_columns("score"))
            assert new["score"].to_pylist() == [1 - score for score in old["score"].to_pylist()]
            assert info == dataclasses.replace(
                was, metric="mistakes", metrics={"mistakes": 1 - was.metrics["accuracy"]}, higher_is_better=False
            )
            assert metrics[model]["test"]["tasks"][task]["metrics"] == info.metrics


def test_a_store_without_texts_is_told_before_a_model_is_loaded(world, tmp_path, monkeypatch):
    small_world.write_examples(tmp_path / "store", keep_raw=False)
    names = loaded(monkeypatch)
    with pytest.raises(
        UserError, match=r"no texts .* of letters: prepare the split 'test' with PrepareConfig.keep_raw"
    ):
        run(world, tmp_path / "out", store_dir=str(tmp_path / "store"), mixture_or_task="letters")
    assert not names


def test_a_model_of_another_vocabulary_is_refused(world, tmp_path):
    odd = small_world.save_model(tmp_path / "odd", vocabulary="numerals")
    with pytest.raises(UserError, match=r"vocabulary numerals, and the store .*letters.* has letters"):
        run(world, tmp_path / "out", models={"odd": str(odd)}, mixture_or_task="letters")


def test_a_directory_that_cannot_be_written_is_told_before_a_model_is_loaded(world, tmp_path, monkeypatch):
    names = loaded(monkeypatch)
    (tmp_path / "model0").write_text("a file where a directory should be")
    with pytest.raises(UserError, match="cannot write"):
        run(world, tmp_path)
    assert not names


SCRIPT = """
import logging, os, sys
logging.basicConfig()
logging.getLogger("cat_jax").setLevel(logging.INFO)
sys.path.insert(0, {here!r})
process, processes, port, kill_at = map(int, sys.argv[3:7])
if processes > 1:
    from cat_jax.cli.distributed import join
    os.environ.update(CAT_JAX_COORDINATOR=f"127.0.0.1:{{port}}", CAT_JAX_NUM_PROCESSES=sys.argv[4])
    os.environ.update(CAT_JAX_PROCESS_ID=sys.argv[3])
    join()
import small_world
from cat_jax.evaluate.run import evaluate
from cat_jax.parallel.mesh import MeshConfig
small_world.without_seqio()
if kill_at:
    small_world.kill_at_write(kill_at)
world = sys.argv[1]
models = {{f"model{{seed}}": f"{{world}}/models/{{seed}}" for seed in (0, 1)}}
for name, axes in {meshes!r}.items():
    settings = {{"output_dir": f"{{sys.argv[2]}}/{{name}}", "mesh": MeshConfig(*axes), "save_seconds": 0.0}}
    evaluate(models, f"{{world}}/store", **settings, **{settings!r}, reproducible={reproducible})
"""


@pytest.fixture(scope="module")
def start(world):
    """Starts `evaluate` in a process of its own."""

    def start(
        output_dir, devices=1, process=0, processes=1, port=0, kill_at=0, meshes=None, reproducible=True, world=world
    ):
        meshes = meshes or {"": (-1, 1, 1)}
        script = SCRIPT.format(here=str(HERE), settings=SETTINGS, meshes=meshes, reproducible=reproducible)
        arguments = [str(world), str(output_dir), *map(str, (process, processes, port, kill_at))]
        command = [sys.executable, "-c", script, *arguments]
        return subprocess.Popen(command, env=environment(devices), stderr=subprocess.PIPE, text=True)

    return start


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def finish(*jobs):
    """The exit codes and what the jobs said."""
    said = [job.communicate(timeout=400)[1] for job in jobs]
    return [job.returncode for job in jobs], "\n".join(said)


MESHES = {"data 8": (8, 1, 1), "data 2, fsdp 4": (2, 4, 1), "fsdp 2, tensor 4": (1, 2, 4)}


@pytest.mark.exhaustive
def test_eight_devices_write_the_same_bytes_on_every_mesh(tables, start, tmp_path):
    codes, said = finish(start(tmp_path, devices=8, meshes=MESHES))
    assert codes == [0], said
    for name in MESHES:
        assert contents(tmp_path / name) == contents(tables), name
    assert said.count("evaluate.reproducible=False is faster") == 1, "said where the tensor axis is longer than one"


@pytest.mark.slow
@pytest.mark.parametrize(
    "names", [["fsdp 2, tensor 4"], pytest.param(["data 8", "data 2, fsdp 4"], marks=pytest.mark.exhaustive)]
)
def test_two_processes_write_the_same_bytes_on_every_mesh(tables, start, tmp_path, names):
    port = free_port()
    # Process 1 is given another directory: it must not write anything, nor need to see what process 0 writes.
    directories = [tmp_path / "first", tmp_path / "second"]
    meshes = {name: MESHES[name] for name in names}
    jobs = [start(d, devices=4, process=i, processes=2, port=port, meshes=meshes) for i, d in enumerate(directories)]
    codes, said = finish(*jobs)
    assert codes == [0, 0], said
    for name in names:
        assert contents(directories[0] / name) == contents(tables), name
    assert not directories[1].exists()


@pytest.mark.exhaustive
def test_shared_layers_round_otherwise(tables, start, tmp_path):
    """With reproducible=False the tensor axis shares the work of each layer: sums are rounded in another order."""
    codes, said = finish(start(tmp_path, devices=4, meshes={"": (1, 1, 4)}, reproducible=False))
    assert codes == [0], said
    assert "evaluate.reproducible=False" not in said
    rounded = 0
    for path in sorted(tables.rglob("*.parquet")):
        (expected, info), (table, other) = (read_table(x) for x in (path, tmp_path / path.relative_to(tables)))
        assert other == info
        for column in expected.column_names:
            if column.startswith(("token_", "option_scores")):
                left, right = (np.concatenate([x or [] for x in t[column].to_pylist()]) for t in (table, expected))
                np.testing.assert_allclose(left, right, rtol=1e-4, atol=1e-4)
                rounded += int((left != right).sum())
            else:
                assert table[column].equals(expected[column]), (path, column)
    assert rounded > 0, "then nothing was shared"


@pytest.mark.parametrize("instants", [(3, 17), pytest.param((1, 3, 9, 17), marks=pytest.mark.exhaustive)], ids=str)
def test_killed_anywhere_and_started_again_gives_the_same_bytes(tables, start, tmp_path, instants):
    """SIGKILL in the middle of a write: of a part, of a table; exhaustively, of the first part and of others, too."""
    left = {}
    for kill_at in instants:
        codes, said = finish(start(tmp_path, kill_at=kill_at))
        assert codes == [-signal.SIGKILL], said
        patterns = ("*/*.parts/*.parquet", "*/*.test.parquet")
        left[kill_at] = [len(list(tmp_path.glob(pattern))) for pattern in patterns]
    assert left.get(1, [0, 0]) == [0, 0]
    assert left[3] == [2, 0], "killed in the third part of the first table"
    assert 0 < left[17][1] < 4, "killed with some tables finished"
    codes, said = finish(start(tmp_path))
    assert codes == [0], said
    assert "evaluate model0 on choices" not in said, "that table was finished and is not made again"
    assert contents(tmp_path) == contents(tables)


def broken(model_dir):
    params = jax.tree.map(lambda x: x.at[(0,) * x.ndim].set(jnp.nan), small_world.model()[1])
    return small_world.save_params(model_dir, params)


@pytest.mark.parametrize("task", ["letters", "choices"])
def test_numbers_that_are_not_finite_are_refused_and_no_table_is_written(world, tmp_path, task):
    models = {"broken": str(broken(tmp_path / "broken"))}
    said = rf"evaluate broken on {task} \(test\): the log-probabilities of \d+ of \d+ examples are not finite"
    with pytest.raises(NonFiniteError, match=said):
        run(world, tmp_path / "tables", models=models, mixture_or_task=task)
    assert not list((tmp_path / "tables").rglob("*.parquet"))


@pytest.mark.exhaustive
def test_they_are_refused_by_all_processes(world, start, tmp_path):
    (tmp_path / "store").symlink_to(world / "store")
    shutil.copytree(broken(tmp_path / "models" / "0"), tmp_path / "models" / "1")
    port = free_port()
    jobs = [start(tmp_path / "out", process=i, processes=2, port=port, world=tmp_path) for i in range(2)]
    said = [job.communicate(timeout=400)[1] for job in jobs]
    assert ["NonFiniteError: evaluate model0 on choices" in words for words in said] == [True, True], said
