"""Which checkpoints a run writes and keeps, and which one is its best."""

from __future__ import annotations

import dataclasses
import math
import os
import pathlib

from cat_jax.checkpoint.seal import Seal, read_seal, sealed_steps
from cat_jax.errors import UserError


@dataclasses.dataclass(frozen=True)
class CheckpointConfig:
    """How often to save, and what to keep.

    Attributes:
      period: steps between checkpoints; the last step is always saved.
      keep: how many of the newest to keep.
      keep_best: keep the best one too, by `best_metric`; evaluation then runs before every save.
      best_metric: a name from the evaluation's metrics, e.g. 'sequence_accuracy' or 'loss'.
      best_mode: 'max' or 'min'.
    """

    period: int = 1000
    keep: int = 1
    keep_best: bool = False
    best_metric: str = "sequence_accuracy"
    best_mode: str = "max"

    def __post_init__(self):
        """Refuses what makes no sense, by name."""
        if self.period < 1 or self.keep < 1:
            raise UserError(
                f"CheckpointConfig has period={self.period} and keep={self.keep}", "give whole numbers above 0"
            )
        if self.best_mode not in ("max", "min"):
            raise UserError(f"CheckpointConfig.best_mode is {self.best_mode!r}", "give 'max' or 'min'")


def checkpoints_dir(model_dir: str | os.PathLike) -> pathlib.Path:
    """Where a run keeps its checkpoints."""
    return pathlib.Path(model_dir) / "checkpoints"


def best_step(seals: list[Seal]) -> int | None:
    """The step whose metric is best by the newest seal's choice of metric; the earliest of equals; NaN never wins."""
    if not seals or seals[-1].best_metric is None:
        return None
    metric, sign = seals[-1].best_metric, 1.0 if seals[-1].best_mode == "max" else -1.0
    scored = [(sign * seal.metrics[metric], -seal.step) for seal in seals if metric in seal.metrics]
    scored = [score for score in scored if not math.isnan(score[0])]
    return -max(scored)[1] if scored else None


def unwanted_steps(checkpoints: pathlib.Path, config: CheckpointConfig) -> list[int]:
    """The steps that are neither among the newest nor the best."""
    steps = sealed_steps(checkpoints)
    best = best_step([read_seal(checkpoints / str(step)) for step in steps]) if config.keep_best else None
    return [step for step in steps[: -config.keep] if step != best]
