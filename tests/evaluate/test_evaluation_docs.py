"""The example of docs/evaluation.md from vLLM to a curve, as it stands; who answers in its place writes backwards."""

import json
import pathlib
import re
import runpy
import shlex
import sys

import numpy as np
import pytest

from cat_jax.cli import main as cli
from cat_jax.data.manifest import Recipe
from cat_jax.data.mixture import write_mixture
from cat_jax.data.record import Example
from cat_jax.data.writer import write_store
from cat_jax.evaluate.foreign import ROWS, read_answers
from cat_jax.evaluate.imported import import_answers

pytest.importorskip("seqio", reason="needs the `data` extra")

ROOT = pathlib.Path(__file__).parents[2]
BLOCK = re.compile(r"^```(\w+)(?: (\S+))?\n(.*?)^```", re.MULTILINE | re.DOTALL)
BLOCKS = BLOCK.findall((ROOT / "docs/evaluation.md").read_text())
FILES = {name: text for _, name, text in BLOCKS if name}
COMMANDS = [
    shlex.split(line)
    for language, _, text in BLOCKS
    if language == "bash"
    for line in text.replace("\\\n", " ").splitlines()
]
TASKS = next(text for _, name, text in BLOCK.findall((ROOT / "README.md").read_text()) if name == "my_tasks.py")


@pytest.fixture
def workspace(tmp_path, monkeypatch):
    """Where the README's experiment has run, as far as the example reads it: its store, and a student's table."""
    from cat_jax.data import seqio_task

    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "my_tasks.py").write_text(TASKS)
    for name, text in FILES.items():
        (tmp_path / name).write_text(text)
    seqio_task.load_modules("my_tasks")
    task = seqio_task.get_task("reversal")
    vocabulary, examples = task.output_features["targets"].vocabulary, []
    words = sys.modules["my_tasks"].rows("validation", False).as_numpy_iterator()
    for number, word in enumerate(words):
        raw = {f"{name}_pretokenized": text.decode() for name, text in word.items()}
        tokens = (np.array([*vocabulary.encode(text), 1], np.int32) for text in raw.values())
        examples.append(Example(str(number), *tokens, raw))
    recipe = Recipe("reversal", "validation", seqio_task.feature_infos(task), {"inputs": 8, "targets": 8}, 1, True)
    write_store("runs/reversal/store", recipe, examples)
    write_mixture("runs/reversal/store", seqio_task.resolve_mixture(seqio_task.get_provider("reversal")))
    small = [
        {"example_id": e.example_id, "prediction": e.raw["targets_pretokenized"] if number % 2 else "?", "flops": 1e7,
         "token_logprobs": [-0.1 if number % 2 else -1.0]}
        for number, e in enumerate(examples)
    ]  # fmt: skip
    (tmp_path / "small.jsonl").write_text("".join(json.dumps(row) + "\n" for row in small))
    import_answers("small.jsonl", "runs/reversal/store", "reversal", "runs/reversal/tables", model="student.cat_xent.0")
    yield tmp_path
    sys.modules.pop("my_tasks")


def answer(requests, responses):
    """Answers a batch of chat requests as `vllm run-batch` does."""
    with open(requests) as asked, open(responses, "w") as given:
        for number, request in enumerate(map(json.loads, asked)):
            assert (request["url"], request["body"]["logprobs"]) == ("/v1/chat/completions", True)
            word = request["body"]["messages"][0]["content"].rpartition(" ")[2][::-1]
            tokens = [{"token": letter, "logprob": -0.25} for letter in word]
            choice = {
                "index": 0,
                "message": {"role": "assistant", "content": f" {word}\n"},
                "logprobs": {"content": tokens},
            }
            usage = {"prompt_tokens": 30 + number, "completion_tokens": len(word) + 1}
            body = {"object": "chat.completion", "choices": [choice], "usage": usage}
            response = {"status_code": 200, "request_id": "r", "body": body}
            line = {"id": "vllm-1", "custom_id": request["custom_id"], "response": response, "error": None}
            given.write(json.dumps(line) + "\n")


def test_from_vllm_to_a_curve(workspace, capsys):
    runpy.run_path("write_requests.py")
    for program, *words in COMMANDS[1:]:  # the first is that of the page's beginning
        if program == "vllm":
            answer(words[words.index("-i") + 1], words[words.index("-o") + 1])
        elif program == "python":
            runpy.run_path(words[0])
        else:
            assert cli.main(words) == 0
    results = json.loads((workspace / "runs/reversal/with_qwen/results.json").read_text())
    summary = results["summary"]["task:reversal"]["cat_xent"]
    assert (summary["large_quality"]["mean"], summary["small_quality"]["mean"]) == (100, 50)
    assert summary["quality_at_50"]["mean"] == 100, "it defers what it gets wrong"
    assert results["models"]["qwen"]["parameters"] == 72_000_000_000
    count = results["examples"]
    assert results["models"]["qwen"]["flops"] == pytest.approx(1.44e11 * (30 + (count - 1) / 2 + 5))
    capsys.readouterr()
    runpy.run_path("read_table.py")
    assert "'prediction': 'anab'" in capsys.readouterr().out


def test_rows_have_fields_that_are_read(tmp_path):
    (rows,) = [text for language, _, text in BLOCKS if language == "json"]
    (tmp_path / "rows.jsonl").write_text(rows)
    found = list(read_answers(str(tmp_path / "rows.jsonl")))
    assert [row.example_id for row in found] == ["17", "18", "19"]
    assert all(set(json.loads(row)) <= ROWS.fields for row in rows.splitlines())


def test_every_file_and_command_of_the_page_is_run():
    assert set(FILES) == {"write_requests.py", "write_rows.py", "read_table.py"}
    assert [words[0] for words in COMMANDS] == ["cat-jax", "vllm", "python", "cat-jax", "cat-jax"]
