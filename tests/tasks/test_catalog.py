"""The catalogue, which imports nothing heavy, says what the modules register."""

import importlib
import json
import subprocess
import sys
import time

import pytest

seqio = pytest.importorskip("seqio", reason="needs the `data` extra")

from cat_jax_tasks import catalog, on_disk, vocabulary  # noqa: E402

from cat_jax.cli import main  # noqa: E402

LISTED = [entry.name for entry in catalog.entries()]
NEEDS_LEXICONS = "cat_jax_tasks.pronunciation"


@pytest.fixture
def run(capfd):
    """Runs `cat-jax tasks` in this process, which has SeqIO already; its exit code, stdout and stderr."""

    def run(*arguments):
        capfd.readouterr()
        code = main.main(["tasks", *arguments])
        out, err = capfd.readouterr()
        return subprocess.CompletedProcess(arguments, code, out, err)

    return run


def test_there_are_the_99_tasks_and_more_once_each():
    assert len(LISTED) == len(set(LISTED))
    counts = {
        prefix: sum(name.startswith(prefix) for name in LISTED) for prefix in ("super_glue_", "wmt22_", "flan2021_")
    }
    assert counts == {"super_glue_": 9, "wmt22_": 42, "flan2021_": 70}


@pytest.mark.parametrize("module", [m for m in catalog.modules() if m != NEEDS_LEXICONS])
def test_it_lists_what_the_modules_register(module):
    importlib.import_module(module)
    names = {entry.name for entry in catalog.entries() if entry.module == module}
    assert names <= set(seqio.TaskRegistry.names())
    for mixture in catalog.mixtures():
        if mixture.module == module and mixture.tasks:  # nothing may be at hand
            assert {task.name for task in seqio.MixtureRegistry.get(mixture.name).tasks} == set(mixture.tasks)


def test_nothing_registers_what_it_does_not_list():
    for module in catalog.modules():
        if module != NEEDS_LEXICONS:
            importlib.import_module(module)
    ours = ("super_glue", "wmt22", "flan2021", "at_hand")
    tasks = {name for name in seqio.TaskRegistry.names() if name.startswith(ours)}
    mixtures = {name for name in seqio.MixtureRegistry.names() if name.startswith(ours)}
    assert tasks == {name for name in LISTED if name.startswith(ours)}
    assert mixtures == {m.name for m in catalog.mixtures() if m.name.startswith(ours) and m.tasks}


def test_splits_and_metrics_are_the_tasks_own():
    for module in ("super_glue", "wmt22", "flan2021"):
        importlib.import_module(f"cat_jax_tasks.{module}")
    for entry in catalog.entries():
        if entry.module == NEEDS_LEXICONS:
            continue
        task = seqio.TaskRegistry.get(entry.name)
        here = {split for split, count in entry.rows().items() if count is not None}
        assert set(task.splits) <= set(entry.splits)
        if entry.is_at_hand() and not entry.name.startswith("wmt22"):
            assert set(task.splits) == here
            assert {split: task.num_input_examples(split) for split in here} == {
                split: entry.rows()[split] for split in here
            }
        assert task.output_features.keys() == {"inputs", "targets"}


def test_listing_is_quick_and_light():
    began = time.monotonic()
    command = [sys.executable, "-m", "cat_jax.cli.main", "tasks"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert time.monotonic() - began < 3
    for name in ("super_glue_boolq", "wmt22_en_de", "flan2021_hellaswag", "flan2021_without_entailment", "super_glue"):
        assert f"\n{name} " in done.stdout, name
    code = "import sys; from cat_jax.cli import main; main.main(['tasks']); "
    code += "print(sorted({'tensorflow', 'seqio', 'jax', 'numpy', 'pyarrow'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


def test_a_few_are_shown_in_full_and_as_json(run, tmp_path):
    done = run("super_glue_c*", f"--json={tmp_path / 'tasks.json'}")
    assert "super_glue_cb: Does a text commit its author to a clause?" in done.stdout
    assert "  options: entailment, contradiction, neutral\n" in done.stdout
    found = json.loads((tmp_path / "tasks.json").read_text())
    assert [item["name"] for item in found] == ["super_glue_cb", "super_glue_copa"]
    assert found[0]["sizes"] == {"train": 250, "validation": 56, "test": 250}
    assert json.loads(run("super_glue", "--json=-").stdout)[0]["tasks"][0] == "super_glue_boolq"


def test_rows_are_shown_with_what_lengths_would_cut(run, data):
    done = run(
        "super_glue_cb", "--examples", "2", "--split", "validation", "--lengths", "{'inputs': 40, 'targets': 16}"
    )
    assert done.returncode == 0, done.stderr
    assert "inputs of the first 56 rows: " in done.stdout
    assert " % are longer than 40\n" in done.stdout
    assert done.stdout.count("would be cut)") >= 1
    assert done.stdout.count("      cb hypothesis: ") == 2


def test_of_several_tasks_none_is_fetched(run, data, caplog):
    caplog.set_level("INFO")
    done = run("flan2021_p[ia]*", "--examples", "1")
    assert done.returncode == 0, done.stderr
    assert "flan2021_piqa" in done.stdout
    assert "\n  test:\n    inputs of the first 1,000 rows: " in done.stdout, "the split that is here"
    assert "flan2021_paws_wiki: no rows, its data is not on this machine; name it alone" in caplog.text


def test_what_is_at_hand_has_the_splits_that_are_here(data):
    mixture = seqio.MixtureRegistry.get("at_hand")
    rows = {entry.name: entry.rows() for entry in catalog.entries()}
    assert len(mixture.tasks) > 40
    for task in mixture.tasks:
        assert set(task.splits) == {split for split, count in rows[task.name].items() if count is not None}, task.name
    assert "validation" not in next(task.splits for task in mixture.tasks if task.name == "wmt22_en_de")
    assert "validation" in seqio.TaskRegistry.get("wmt22_en_de").splits


def test_overlap_of_two_phrasings_of_one_data_set(run, data, tmp_path):
    """FLAN's validation split of CB is a part of SuperGLUE's training split, with other prompts."""
    file = tmp_path / "overlap.json"
    done = run("--overlap", "flan2021_cb:validation", "super_glue_cb:train", f"--json={file}")
    assert done.returncode == 0, done.stderr
    found = json.loads(file.read_text())
    assert (found["rows"], found["others"], found["exact"], found["normalized"]) == (50, 250, 50, 50)
    assert "in both, exactly: 50 (100.00 %)" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["super_glue_bolq"], "no task or mixture is called 'super_glue_bolq': did you mean super_glue_boolq"),
        (["super_glue", "--examples", "1"], "super_glue are mixtures: name a task to see rows of"),
        (["super_glue_cb", "--lengths", "40"], "--lengths is '40': write it as \"{'inputs': 512, 'targets': 128}\""),
        (["--overlap", "super_glue_cb", "x:y"], "'super_glue_cb' names no split: write TASK_OR_MIXTURE:SPLIT"),
        (["super_glue_cb", "--examples", "1", "--split", "tset"], "'super_glue_cb' has no split 'tset': name one of"),
    ],
)
def test_bad_input_is_one_line(run, arguments, line):
    done = run(*arguments)
    assert done.returncode == 2
    assert line in done.stderr.splitlines()[-1], done.stderr
    assert "Traceback" not in done.stderr


def test_data_that_tfds_cannot_have_is_named(monkeypatch, caplog):
    importlib.import_module("cat_jax_tasks.flan2021")
    source = seqio.TaskRegistry.get("flan2021_hellaswag").source
    if source.rows_at_hand("test") is not None:
        pytest.skip("hellaswag is here")
    builder = source.tfds_dataset.builder
    monkeypatch.setattr(type(builder), "download_and_prepare", lambda self: (_ for _ in ()).throw(OSError("no route")))
    for read in (source.list_shards, source.num_input_examples, source.get_dataset):
        with pytest.raises(
            FileNotFoundError, match=r"TFDS has no hellaswag:1.1.0 at .*\(no route\): set TFDS_DATA_DIR"
        ):
            read("test")
    assert "hellaswag/1.1.0: it is fetched" in caplog.text


def test_a_directory_of_tfds_that_is_not_there_is_not_made(tmp_path, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "tfsd"))
    source = seqio.TaskRegistry.get("flan2021_hellaswag").source
    with pytest.raises(FileNotFoundError, match=r"TFDS_DATA_DIR names .*/tfsd, which is no directory"):
        source.num_input_examples("test")
    assert not (tmp_path / "tfsd").exists()


def test_data_that_comes_by_hand_says_how(monkeypatch):
    source = seqio.TaskRegistry.get("flan2021_newsroom").source
    if source.rows_at_hand("test") is not None:
        pytest.skip("newsroom is here")
    builder = source.tfds_dataset.builder
    monkeypatch.setattr(type(builder), "download_and_prepare", lambda self: (_ for _ in ()).throw(OSError("no file")))
    with pytest.raises(FileNotFoundError, match=r"\(no file\): its files come by hand: .*summari.es/download"):
        source.num_input_examples("test")


@pytest.mark.parametrize(
    ("variables", "words"),
    [
        ({"CAT_JAX_VOCABULARY": "/nowhere/spiece.model"}, "CAT_JAX_VOCABULARY names /nowhere/spiece.model"),
        ({"CAT_JAX_VOCABULARY": __file__, "CAT_JAX_EXTRA_IDS": "many"}, "CAT_JAX_EXTRA_IDS is 'many'"),
    ],
)
def test_a_vocabulary_that_is_not_there_is_named(monkeypatch, variables, words):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with pytest.raises((FileNotFoundError, ValueError), match=words):
        vocabulary.vocabulary()


def test_more_shards_than_rows_are_empty_or_hold_one(data):
    source = seqio.TaskRegistry.get("super_glue_cb").source
    parts = [seqio.ShardInfo(index, 70) for index in (0, 1, 2, 3, 4)]
    counts = [len(list(source.get_dataset("validation", shuffle=False, shard_info=part))) for part in parts]
    assert counts == [0, 1, 1, 1, 1], "56 rows in 70 shards"


def test_slices_fit_a_smaller_copy(tmp_path, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    directory = tmp_path / "set" / "config" / "1.0.0"
    directory.mkdir(parents=True)
    splits = {"train": "train[:300]", "validation": "train[-20:]", "test": "test", "more": "validation[:5]"}
    assert on_disk.splits_there("set/config:1.0.0", splits) == splits, "nothing is there yet"

    def copy(**rows):
        info = {"splits": [{"name": name, "shardLengths": [str(count)]} for name, count in rows.items()]}
        (directory / "dataset_info.json").write_text(json.dumps(info))
        return on_disk.splits_there("set/config:1.0.0", splits)

    assert copy(train=1000, test=9, validation=9) == {
        "train": "train[0:300]",
        "validation": "train[980:1000]",
        "test": "test",
        "more": "validation[0:5]",
    }
    assert copy(train=100) == {"train": "train[0:80]", "validation": "train[80:100]"}, "train gives way"
    assert copy(train=10, validation=3) == {"validation": "train", "more": "validation"}, "nothing is left of train"
