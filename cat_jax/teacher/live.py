"""A teacher that runs beside the student, in the same step: its own checkpoint, sharding and dtype."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
from flax import nnx
from jax.sharding import Mesh

from cat_jax.checkpoint.params import GivenModel, load_model
from cat_jax.parallel.rules import DEFAULT_RULES, AxisRules
from cat_jax.teacher.manifest import TeacherIdentity
from cat_jax.types import Batch, ModelConfig, TeacherSignal

SignalFn = Callable[[Any, Batch], TeacherSignal]


@dataclasses.dataclass(frozen=True)
class LiveTeacher:
    """A frozen model computed anew for each batch.

    Attributes:
      model_dir: the model's directory, or another program's checkpoint.
      step: of the checkpoint; None for the last, "best" for the best.
      dtype: of parameters and computation, "float32", "bfloat16" or "int8" (see `models.int8.in_dtype`); the logits are
        f32 in any case.
      axis_rules: how its parameters lie on the mesh; None for the default rules.
      model: its configuration, where the checkpoint does not say it; in gin the name of its file(s).
    """

    model_dir: str
    step: int | str | None = None
    dtype: str = "float32"
    axis_rules: AxisRules | None = None
    model: GivenModel = None

    def identity(self) -> TeacherIdentity:
        """Who it is, without loading it.

        Raises:
          UserError: there is no such checkpoint.
        """
        return TeacherIdentity.of(self.model_dir, self.step, self.dtype, self.model)

    def load(self, mesh: Mesh) -> LoadedTeacher:
        """Reads the checkpoint onto `mesh`.

        Raises:
          UserError: there is no such checkpoint, it is damaged, or the rules do not fit it.
        """
        rules = DEFAULT_RULES if self.axis_rules is None else self.axis_rules
        config, graphdef, params, step = load_model(
            self.model_dir, mesh=mesh, rules=rules, dtype=self.dtype, step=self.step, model=self.model
        )
        return LoadedTeacher(graphdef, params, config, TeacherIdentity.of(self.model_dir, step, self.dtype, self.model))


@dataclasses.dataclass(frozen=True)
class LoadedTeacher:
    """A teacher on the mesh. Pass `params` to the step as an argument of its own: never donated, never in the state."""

    graphdef: Any
    params: Any
    config: ModelConfig
    identity: TeacherIdentity

    def signal_fn(self) -> SignalFn:
        """A pure function (params, batch) -> TeacherSignal, to be called inside jit.

        The signal holds (hidden, head): the loss makes of them what it needs, and only once.
        """
        graphdef = self.graphdef

        def signal(params: Any, batch: Batch) -> TeacherSignal:
            output = nnx.merge(graphdef, params)(batch)
            return TeacherSignal(top1_correct=None, output=jax.lax.stop_gradient(output))

        return signal
