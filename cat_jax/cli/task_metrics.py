"""From the module of a task to the functions by which a cascade scores mixtures of two models' answers."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from cat_jax.errors import UserError

if TYPE_CHECKING:
    import pyarrow as pa

    from cat_jax.data.mixed_metric import MixedMetric


@dataclasses.dataclass(frozen=True)
class TaskMetrics:
    """Where the metrics of tasks are found that are neither a mean over examples nor BLEU.

    Attributes:
      module: the modules that register the tasks; None if no table needs them.
      store_dir: the root of the stores that the tables are of, for the raw fields of their examples; likewise.
    """

    module: str | Sequence[str] | None = None
    store_dir: str | None = None

    def functions(self, tables_dir: str, model: str, tasks: Sequence[str], splits: Sequence[str]) -> dict[str, Any]:
        """{task: function of (predictions, rows, split)} of the tasks that need one, judged by the tables of a model.

        SeqIO is imported if, and only if, there is such a task.

        Raises:
          UserError: one is needed, and no module or store is named; a table or store is missing or of another store.
        """
        from cat_jax.table import read_table, table_path

        found = {}
        for task in tasks:
            # A mixture's tasks need not all have a validation split: the cascade says which tables are missing.
            paths = {split: table_path(tables_dir, model, task, split) for split in splits}
            tables = {split: read_table(path)[1] for split, path in paths.items() if path.exists()}
            if any(info.metric_kind == "function" for info in tables.values()):
                found[task] = _TaskFunction({split: self._metric(info) for split, info in tables.items()})
        return found

    def _metric(self, info: Any) -> MixedMetric:
        """The metric of one task and split."""
        given = {"MIXTURE_OR_TASK_MODULE": self.module, "STORE_DIR": self.store_dir}
        lacking = [macro for macro, value in given.items() if value is None]
        if self.module is None or self.store_dir is None:
            raise UserError(
                f"{info.metric} of {info.task} is no mean over examples: the task's own function and the raw fields of "
                f"its examples are needed, and {' and '.join(lacking)} not given",
                " ".join(f"--gin.{macro}='\"...\"'" for macro in lacking) + ", as for `cat-jax evaluate`",
            )
        from cat_jax.data import seqio_task
        from cat_jax.data.mixed_metric import MixedMetric
        from cat_jax.data.store import ExampleStore

        seqio_task.load_modules(self.module)
        store = ExampleStore.open(self.store_dir, info.task, info.split)
        if store.fingerprint != info.store_fingerprint:
            raise UserError(
                f"the tables of {info.task} ({info.split}) are of the store {info.store_fingerprint}, "
                f"{store.directory} is {store.fingerprint}",
                "name the STORE_DIR that the models were evaluated on",
            )
        return MixedMetric(store, info.metric)


@dataclasses.dataclass(frozen=True)
class _TaskFunction:
    """The metric of a task on all splits, as `cascade.quality.MetricFunction`."""

    by_split: Mapping[str, MixedMetric]

    def __call__(self, predictions: Sequence[str], rows: pa.Table, split: str) -> float:
        scores = rows.column("option_scores")
        options = None if scores.null_count else scores.to_pylist()
        return self.by_split[split](rows.column("example_id").to_pylist(), predictions, options)
