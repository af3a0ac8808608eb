"""Where metrics go: `metrics.jsonl`, TensorBoard, and a line on stderr."""

from __future__ import annotations

import json
import os
import pathlib
from collections.abc import Mapping

import tensorboardX

from cat_jax.errors import UserError
from cat_jax.files import atomic_write, cannot_write

METRICS_FILE = "metrics.jsonl"


class MetricsWriter:
    """One JSON object per line and record, and the same scalars in TensorBoard's format.

    A record is `{"step": 100, "train/loss": ..., ...}`, with `eval/` in place of `train/` for evaluations. What a
    clock says, and so differs from run to run, stands apart in `"timing"`.

    Args:
      model_dir: the run's directory.
      restored_step: the step of the checkpoint that the run goes on from; later records are of work that was lost and
        will be done again, and are removed. 0 for a new run.

    Raises:
      UserError: the files cannot be written.
    """

    def __init__(self, model_dir: str | os.PathLike, restored_step: int):
        self._path = pathlib.Path(model_dir) / METRICS_FILE
        if self._path.exists():
            atomic_write(self._path, b"".join(_records_until(self._path, restored_step)))
        try:
            self._file = self._path.open("a")
        except OSError as e:
            raise cannot_write(self._path, e) from e
        self._board = tensorboardX.SummaryWriter(
            str(pathlib.Path(model_dir) / "tensorboard"), purge_step=restored_step + 1
        )

    def write(
        self, step: int, prefix: str, scalars: Mapping[str, float], timing: Mapping[str, float] | None = None
    ) -> None:
        """Appends a record; it is with the operating system when this returns.

        Raises:
          UserError: the disk is full.
        """
        record = {"step": step, **{f"{prefix}/{name}": value for name, value in scalars.items()}}
        if timing:
            record["timing"] = dict(timing)
        try:
            self._file.write(json.dumps(record) + "\n")
            self._file.flush()
        except OSError as e:
            raise cannot_write(self._path, e) from e
        for name, value in [*scalars.items(), *(("timing/" + n, v) for n, v in (timing or {}).items())]:
            self._board.add_scalar(f"{prefix}/{name}", value, step)

    def close(self) -> None:
        """Closes the files."""
        self._file.close()
        self._board.close()


def _records_until(path: pathlib.Path, step: int) -> list[bytes]:
    """The lines of records up to `step`; a last line cut short by a kill is dropped."""
    kept = []
    lines = path.read_bytes().splitlines(keepends=True)
    for number, line in enumerate(lines, 1):
        try:
            if json.loads(line)["step"] <= step:
                kept.append(line)
        except (ValueError, KeyError, TypeError) as e:
            if number == len(lines):
                break
            raise UserError(
                f"line {number} of {path} is not a record of metrics", "move the file away to start another"
            ) from e
    return kept
