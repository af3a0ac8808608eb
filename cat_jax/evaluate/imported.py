"""`evaluate --import`: answers that are not ours, checked against the store, scored and written as `evaluate` does."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from cat_jax.data import seqio_task
from cat_jax.data.layout import safe_name, split_names
from cat_jax.data.record import Example
from cat_jax.data.store import ExampleStore
from cat_jax.errors import UserError
from cat_jax.evaluate import text
from cat_jax.evaluate.cost import Cost
from cat_jax.evaluate.foreign import COLUMNS, ROWS, ForeignAnswer, read_answers
from cat_jax.evaluate.job import EvaluatedModel, Job, sweep
from cat_jax.evaluate.options import FIELD
from cat_jax.evaluate.report import write_metrics
from cat_jax.evaluate.run import MODES, groups_of, open_stores
from cat_jax.evaluate.score import NORMALIZATIONS
from cat_jax.table import FLOPS, SCHEMA, read_table, table_path

logger = logging.getLogger(__name__)

_MEND = "docs/evaluation.md shows what a row has"


def import_answers(
    files: str | Sequence[str],
    store_dir: str,
    mixture_or_task: str,
    output_dir: str,
    module: str | Sequence[str] | None = None,
    *,
    model: str = "imported",
    splits: str | Sequence[str] = ("validation",),
    mode: str = "generate",
    cost: Cost = Cost(),  # noqa: B008
    option_normalization: str = "sum",
    parameters: int | None = None,
    keep_fields: Sequence[str] = (),
    averages: Sequence[str] = (),
) -> dict[str, Any]:
    """Writes the tables and metrics of answers that `evaluate.foreign` describes, as `evaluate` writes a model's.

    All rows are checked before anything is written.

    Args:
      files: .jsonl or .parquet.
      store_dir: the root that `prepare` wrote.
      mixture_or_task: what was answered.
      output_dir: where the tables go.
      module: modules that register the SeqIO tasks, for metrics.
      model: the name of the model, and of the directory that its tables go to.
      splits: of each task; tasks that lack one are left out of it.
      mode: "generate" takes the rows' predictions, "score" the likeliest option by their option_scores, "auto" the one
        or the other, by task and split.
      cost: what answers cost.
      option_normalization: in "score" mode as in `evaluate`; "mean" needs option_lengths.
      parameters: of the model, for the report; None if nobody knows.
      keep_fields: as in `evaluate`.
      averages: as in `evaluate`.

    Returns:
      {model: {split: metrics as in the JSON file}}.

    Raises:
      UserError: a file cannot be read; an example has no row or two; a row is of no example, or lacks something.
    """
    paths = [files] if isinstance(files, str) else list(files)
    _check(paths, model, mode, option_normalization, cost)
    seqio_task.load_modules(module)
    stores = [store for split in split_names(splits) for store in open_stores(store_dir, mixture_or_task, split)]
    parts = [_Part(store) for store in stores]
    _gather(parts, paths)
    digest, entry = ROWS.digest(paths), EvaluatedModel(model, "")
    written = []
    for part in parts:
        chosen = part.mode(mode)
        columns, predictions = part.columns(chosen, option_normalization)
        unit = {"cost_unit": cost.unit, "parameters": parameters}
        settings: dict[str, Any] = {"imported": True, "cost": cost.to_dict()}
        if chosen == "score":
            settings["option_normalization"] = option_normalization
        path = table_path(output_dir, model, part.store.task, part.store.split)
        job = Job(entry, part.store, path, chosen, 0, digest, settings)
        _refuse_evaluated(job)
        written.append((job, part.examples, predictions, {**columns, **part.cost(cost)}, unit))
    groups = groups_of(averages, module)
    for job, examples, predictions, columns, unit in written:
        sweep(job.path)
        text.write_columns(job, examples, predictions, columns, split_names(keep_fields), **unit)
    return write_metrics(output_dir, mixture_or_task, [job for job, *_ in written], groups)


def _check(paths: Sequence[str], model: str, mode: str, option_normalization: str, cost: Cost) -> None:
    if not paths:
        raise UserError("there is no file to import", "name at least one, --import=FILE")
    if not model or model != safe_name(model):
        raise UserError(f"{model!r} cannot be the name of a model's directory", "use letters, digits, - and _")
    for name, value, known in (("mode", mode, MODES), ("option_normalization", option_normalization, NORMALIZATIONS)):
        if value not in known:
            raise UserError(f"import_answers.{name} is {value!r}", f"use one of {', '.join(known)}")
    if not isinstance(cost, Cost):
        raise UserError(f"import_answers.cost cannot be {cost!r}", "use @Cost()")


def _refuse_evaluated(job: Job) -> None:
    """A table that took hours to compute is not written over by mistake."""
    if not job.path.exists():
        return
    try:
        _, info = read_table(job.path)
    except UserError:
        return
    if "imported" not in info.settings:
        raise UserError(
            f"{job.path} is the table of a model that `cat-jax evaluate` ran",
            "give the imported model another name, IMPORTED_MODEL",
        )


def _gather(parts: Sequence[_Part], paths: Sequence[str]) -> None:
    """Gives every row to its example.

    Raises:
      UserError: examples without a row or with several, and rows of none: one line, with counts and the first of each.
    """
    strangers: list[ForeignAnswer] = []
    for path in paths:
        for row in read_answers(path):
            owners = [part for part in parts if part.owns(row)]
            if len(owners) > 1:
                raise UserError(
                    f"{row.where}: example {row.example_id} is in {' and in '.join(part.name for part in owners)}",
                    "give the rows a field task, or split",
                )
            if owners:
                owners[0].add(row)
            else:
                strangers.append(row)
    wrong = [problem for part in parts for problem in part.problems()]
    if strangers:
        first = strangers[0]
        wrong.append(
            f"{len(strangers)} of the rows {'are' if len(strangers) > 1 else 'is'} of no example of "
            f"{', '.join(part.name for part in parts)} (the first: {first.example_id}, {first.where})"
        )
    if wrong:
        raise UserError("; ".join(wrong), "give every example of the store one row; all files at once, --import=A ...")


class _Part:
    """The answers to one task and split."""

    def __init__(self, store: ExampleStore):
        self.store = store
        self.examples: list[Example] = list(store)
        self._index = {example.example_id: number for number, example in enumerate(self.examples)}
        self._found: list[ForeignAnswer | None] = [None] * len(self.examples)
        self._again: dict[str, ForeignAnswer] = {}

    @property
    def name(self) -> str:
        return f"{self.store.task} ({self.store.split})"

    @property
    def rows(self) -> list[ForeignAnswer]:
        """One of each example; once `problems` has found none."""
        return [row for row in self._found if row is not None]

    def owns(self, row: ForeignAnswer) -> bool:
        """Whether the row is of an example here."""
        here = row.task in (None, self.store.task) and row.split in (None, self.store.split)
        return here and row.example_id in self._index

    def add(self, row: ForeignAnswer) -> None:
        number = self._index[row.example_id]
        if self._found[number] is None:
            self._found[number] = row
        else:
            self._again.setdefault(row.example_id, row)

    def problems(self) -> list[str]:
        """Examples without a row, and with more than one."""
        of_all, found = f"of {len(self.examples)} examples of {self.name} have", []
        missing = [self.examples[number].example_id for number, row in enumerate(self._found) if row is None]
        if missing:
            found.append(f"{len(missing)} {of_all} no row (the first: {missing[0]})")
        if self._again:
            first = next(iter(self._again.values()))
            found.append(f"{len(self._again)} {of_all} several rows (the first: {first.example_id}, {first.where})")
        return found

    def mode(self, wanted: str) -> str:
        """How these answers were given, "generate" or "score"."""
        scored = any("option_scores" in row.fields for row in self.rows)
        if wanted == "auto":
            return "score" if scored else "generate"
        if wanted == "generate" and scored:
            logger.info("the option_scores of %s are left out: EVAL_MODE is 'generate'", self.name)
        return wanted

    def columns(self, mode: str, option_normalization: str) -> tuple[dict[str, pa.Array], list[str]]:
        """What the table has beside metrics and cost, and the predictions; of all examples, in the store's order.

        Raises:
          UserError: some rows lack what others have, or what the mode needs.
        """
        columns = {name: self._column(name) for name in COLUMNS if any(name in row.fields for row in self.rows)}
        options = ("option_scores", "option_lengths")
        if mode == "score":
            best = self._best(columns, option_normalization)
            predictions = self._chosen(best)
        else:
            best = None
            columns = {name: column for name, column in columns.items() if name not in options}
            for row in self.rows:
                if row.prediction is None:
                    raise UserError(
                        f"{row.where}: example {row.example_id} of {self.name} has no prediction",
                        "give it one, '' where the model said nothing; or EVAL_MODE = 'score', by option_scores",
                    )
            predictions = [str(row.prediction) for row in self.rows]
        columns.setdefault("input_length", pa.array(self.store.lengths[:, 0]))
        columns.setdefault("prediction_length", pa.array(self._lengths(columns, predictions, best), pa.int32()))
        return columns, predictions

    def cost(self, cost: Cost) -> dict[str, Any]:
        """The columns `flops` and `cost`."""
        rows: dict[str, np.ndarray] = {}
        for name in ("flops", "cost", "input_length", "prediction_length"):
            if any(name in row.fields for row in self.rows):
                rows[name] = self._column(name).to_numpy().astype(np.float64)
        tokens = [row.fields.get("token_logprobs") for row in self.rows]
        if "prediction_length" not in rows and None not in tokens:
            rows["prediction_length"] = np.array([len(each or ()) for each in tokens], np.float64)
        amounts = cost.of(rows, len(self.rows), f"the rows of {self.name}")
        if (amounts <= 0).any():
            row = self.rows[int(np.argmin(amounts))]
            raise UserError(
                f"{row.where}: the answer to example {row.example_id} costs 0 {cost.unit}",
                "set Cost.per_answer, or a price of the input's tokens",
            )
        if cost.unit == FLOPS:
            return {"flops": amounts}
        return {"flops": rows.get("flops", pa.nulls(len(self.rows), pa.float64())), "cost": amounts}

    def _column(self, name: str) -> pa.Array:
        lacking = [row for row in self.rows if name not in row.fields]
        if lacking:
            raise UserError(
                f"{len(lacking)} of {len(self.rows)} rows of {self.name} have no {name} (the first: "
                f"{lacking[0].example_id}, {lacking[0].where})",
                "give it in all rows or in none",
            )
        return pa.array([row.fields[name] for row in self.rows], SCHEMA.field(name).type)

    def _best(self, columns: Mapping[str, pa.Array], option_normalization: str) -> list[int]:
        """The index of the likeliest option of each example, of equal ones the first."""
        needed = ("option_scores", "option_lengths") if option_normalization == "mean" else ("option_scores",)
        for name in needed:
            if name not in columns:
                raise UserError(f"the rows of {self.name} have no {name}, by which options are chosen", _MEND)
        scores = columns["option_scores"].to_pylist()
        lengths = columns["option_lengths"].to_pylist() if option_normalization == "mean" else [1] * len(scores)
        return [int(np.argmax(np.divide(s, n))) if s else 0 for s, n in zip(scores, lengths, strict=True)]

    def _chosen(self, best: Sequence[int]) -> list[str]:
        """The text of the chosen options.

        Raises:
          UserError: an example has other options than its row has scores, or the row predicts another one.
        """
        predictions = []
        for row, example, choice in zip(self.rows, self.examples, best, strict=True):
            options, count = (example.raw or {}).get(FIELD), len(row.fields["option_scores"])
            options = options if isinstance(options, list) else []
            if len(options) != count or not count:
                raise UserError(
                    f"{row.where} has {count} option_scores, and example {row.example_id} of {self.name} lists "
                    f"{len(options)} options",
                    f"give a score for each text of the example's field {FIELD!r}, in its order",
                )
            predictions.append(str(options[choice]))
            if row.prediction not in (None, predictions[-1]):
                raise UserError(
                    f"{row.where}: example {row.example_id} predicts {row.prediction!r}, and its best option is "
                    f"{predictions[-1]!r}",
                    "leave the predictions out, or set EVAL_MODE = 'generate' to leave the scores out",
                )
        return predictions

    def _lengths(
        self, columns: Mapping[str, pa.Array], predictions: Sequence[str], best: Sequence[int] | None
    ) -> list[int]:
        """Tokens of each answer: of what the rows list, of the chosen option, or by the task's vocabulary."""
        for name in ("token_logprobs", "prediction_tokens"):
            if name in columns:
                return [len(row.fields[name]) for row in self.rows]
        if best is not None and "option_lengths" in columns:
            lengths = [row.fields["option_lengths"] for row in self.rows]
            return [each[choice] for each, choice in zip(lengths, best, strict=True)]
        vocabulary, end = seqio_task.vocabulary(self.store.task), self.store.manifest.features["targets"].add_eos
        return [len(vocabulary.encode(prediction)) + end for prediction in predictions]
