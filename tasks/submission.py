"""Writes what gluebenchmark's SuperGLUE server takes, of the tables of a model on the test splits.

    python -m cat_jax_tasks.submission TABLES_DIR MODEL OUTPUT_DIR

`cat-jax evaluate` with EVAL_SPLITS=['test'] writes the tables. One file a task, `BoolQ.jsonl` and so on, in
OUTPUT_DIR; zip them. Tasks without a table are named and left out.
"""

from __future__ import annotations

import argparse
import json
import os
import pathlib
import sys
import tempfile
from collections.abc import Iterable, Mapping
from typing import Any

import pyarrow.parquet as pq

FILES = {
    "boolq": "BoolQ",
    "cb": "CB",
    "copa": "COPA",
    "multirc": "MultiRC",
    "record": "ReCoRD",
    "rte": "RTE",
    "wic": "WiC",
    "wsc": "WSC",
}
_OPTIONS = {"cb": ("entailment", "contradiction", "neutral"), "rte": ("entailment", "not_entailment")}
_BOOLEAN = {"True": "true", "False": "false"}


def lines(task: str, rows: Iterable[Mapping[str, str]]) -> list[dict[str, Any]]:
    """The lines of a task's file, by index.

    Args:
      task: of `FILES`.
      rows: `example_id`, `prediction` and `target` of each row. A prediction that is no label becomes the first one.

    """
    if task == "multirc":
        return _multirc(rows)
    by_index = sorted((int(row["example_id"].rpartition("-")[2]), row) for row in rows)
    return [{"idx": index, "label": _label(task, row)} for index, row in by_index]


def _label(task: str, row: Mapping[str, str]) -> Any:
    from cat_jax_tasks.metrics.wsc import same_referent

    prediction = row["prediction"].strip()
    if task == "wsc":
        return same_referent(prediction, {"targets_pretokenized": row["target"]}) or "False"
    if task == "copa":
        return int(prediction.removeprefix("choice")) - 1 if prediction in ("choice1", "choice2") else 0
    if task in ("boolq", "wic"):
        return _BOOLEAN.get(prediction, "false")
    options = _OPTIONS.get(task)
    return prediction if options is None or prediction in options else options[0]


def _multirc(rows: Iterable[Mapping[str, str]]) -> list[dict[str, Any]]:
    """Paragraphs hold a passage with questions, which hold answers."""
    paragraphs: dict[int, dict[int, dict[int, int]]] = {}
    for row in rows:
        paragraph, question, answer = map(int, row["example_id"].split("-"))
        found = paragraphs.setdefault(paragraph, {}).setdefault(question, {})
        found[answer] = int(row["prediction"].strip() == "True")
    return [
        {
            "idx": paragraph,
            "passage": {
                "questions": [
                    {"idx": question, "answers": [{"idx": a, "label": label} for a, label in sorted(answers.items())]}
                    for question, answers in sorted(questions.items())
                ]
            },
        }
        for paragraph, questions in sorted(paragraphs.items())
    ]


def main(argv: list[str] | None = None) -> int:
    """Runs the command; returns its exit code."""
    parser = argparse.ArgumentParser(prog="python -m cat_jax_tasks.submission", description=__doc__.split("\n")[0])
    parser.add_argument("tables_dir", type=pathlib.Path, help="TABLES_DIR of `cat-jax evaluate`")
    parser.add_argument("model", help="its name there")
    parser.add_argument("output_dir", type=pathlib.Path, help="where the files go")
    args = parser.parse_args(argv)
    tables = {task: args.tables_dir / args.model / f"super_glue_{task}.test.parquet" for task in FILES}
    there = {task: path for task, path in tables.items() if path.exists()}
    if not there:
        example = next(iter(tables.values()))
        print(f"error: no table such as {example}: run `cat-jax evaluate` with EVAL_SPLITS=['test']", file=sys.stderr)
        return 2
    args.output_dir.mkdir(parents=True, exist_ok=True)
    for task, path in there.items():
        rows = pq.read_table(path, columns=["example_id", "prediction", "target"]).to_pylist()
        _write(args.output_dir / f"{FILES[task]}.jsonl", lines(task, rows))
        print(f"{FILES[task]}.jsonl: {len(rows)} answers")
    missing = [FILES[task] for task in FILES if task not in there]
    if missing:
        print(f"no table of {', '.join(missing)}: the server wants all eight", file=sys.stderr)
    print("the diagnostics AX-b and AX-g are no tasks here: the server wants files for them, too", file=sys.stderr)
    return 0


def _write(path: pathlib.Path, content: Iterable[dict[str, Any]]) -> None:
    """Whole or not at all."""
    text = "".join(json.dumps(line) + "\n" for line in content)
    with tempfile.NamedTemporaryFile("w", dir=path.parent, delete=False, encoding="utf-8") as file:
        file.write(text)
    os.chmod(file.name, 0o644)
    os.replace(file.name, path)


if __name__ == "__main__":
    sys.exit(main())
