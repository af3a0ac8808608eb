"""Cascade-aware training inside t5x (github.com/google-research/t5x): its models, trainer and gin files, our losses.

t5x is in no package registry, and nothing else here needs it: without it this module can be imported and not used.
Shape letters: B rows, T target positions, V columns of the vocabulary.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from cat_jax.errors import UserError
from cat_jax.losses import formulas
from cat_jax.losses.metrics import CELLS
from cat_jax.losses.objective import Objective, divide
from cat_jax.types import Array, Batch, Head, LossOutput, ModelOutput, TeacherSignal

TASK_BITS, BATCH_BITS = "teacher_bits", "decoder_teacher_bits"
"""The feature of a SeqIO task that says where the teacher is right, and what it is called in a batch."""

WRONG, RIGHT = 1, 2
"""Its values at targets. 0 is padding: SeqIO's packing takes the zeros out of every feature."""

REAL_TOKENS = "NUM_REAL_TARGET_TOKENS"
"""The value of t5x's `loss_normalizing_factor` that divides by the sum of the weights."""


class _Absent:
    """Stands where a class of t5x would."""

    TASK_FEATURES: ClassVar = {"targets": None}
    MODEL_FEATURES: ClassVar = {"decoder_target_tokens": None}

    def __init__(self, *args: Any, **kwargs: Any):
        raise _absence()


try:  # by name: a checker of types takes `import t5x` for this file
    clu_metrics: Any = importlib.import_module("clu.metrics")
    checkpoints: Any = importlib.import_module("t5x.checkpoints")
    losses: Any = importlib.import_module("t5x.losses")
    _Model: Any = importlib.import_module("t5x.models").EncoderDecoderModel
    _Converter: Any = _Model.FEATURE_CONVERTER_CLS
    _missing = ""
except ModuleNotFoundError as e:  # t5x, or what t5x imports: clu, seqio, tensorflow, ...
    clu_metrics = checkpoints = losses = None
    _Model = _Converter = _Absent
    _missing = str(e.name)


def _absence() -> UserError:
    return UserError(
        f"cat_jax.contrib.t5x needs t5x, and there is no module {_missing}",
        "install it from github.com/google-research/t5x, which is in no package registry",
    )


class TeacherBitFeatureConverter(_Converter):
    """SeqIO's encoder-decoder converter, packing included, for tasks with a feature `teacher_bits` as long as targets.

    Its values are `RIGHT` where the teacher's first choice is the target and `WRONG` where it is not.
    """

    TASK_FEATURES: ClassVar = {**_Converter.TASK_FEATURES, TASK_BITS: _Converter.TASK_FEATURES["targets"]}
    MODEL_FEATURES: ClassVar = {
        **_Converter.MODEL_FEATURES,
        BATCH_BITS: _Converter.MODEL_FEATURES["decoder_target_tokens"],
    }

    def _convert_example(self, features: Mapping[str, Any]) -> dict[str, Any]:
        return {**super()._convert_example(features), BATCH_BITS: features[TASK_BITS]}

    def get_model_feature_lengths(self, task_feature_lengths: Mapping[str, int]) -> dict[str, int]:
        lengths = super().get_model_feature_lengths(task_feature_lengths)
        return {**lengths, BATCH_BITS: task_feature_lengths["targets"]}


class CascadeAwareEncoderDecoderModel(_Model):
    """t5x's encoder-decoder model, trained by an `Objective` with the cascade's large model in view.

    The module makes whole logits, so that the losses are the dense ones. Decoding and scoring are t5x's.

    Args:
      module: the small model, as of t5x's `EncoderDecoderModel`; and so are the next three.
      input_vocabulary: of SeqIO.
      output_vocabulary: of SeqIO.
      optimizer_def: of t5x.
      objective: what is minimised; label smoothing and z-loss are fields of it.
      teacher_module: the large model, called as `module` is, without dropout. None: if the objective needs a teacher,
        batches have a feature `decoder_teacher_bits`, as `TeacherBitFeatureConverter` makes it.
      teacher_params: its parameters, `checkpoint_params()` for example. They become constants of the compiled step, a
        copy on every device.
      loss_normalizing_factor: as of t5x: None or a number, or the name of what the loss is divided by. With
        'NUM_REAL_TARGET_TOKENS' that is the normalizer of the objective, as in our own trainer.
      **options: further arguments of t5x's model: decode_fn, feature_converter_cls, default_decoder_params.

    Raises:
      UserError: t5x is not installed, or the arguments do not go together.
    """

    def __init__(
        self,
        module: Any,
        input_vocabulary: Any,
        output_vocabulary: Any,
        optimizer_def: Any,
        objective: Objective,
        teacher_module: Any = None,
        teacher_params: Any = None,
        loss_normalizing_factor: Any = REAL_TOKENS,
        **options: Any,
    ):
        if _missing:
            raise _absence()
        by_tokens = losses.SpecialLossNormalizingFactor[REAL_TOKENS]
        self._by_objective = loss_normalizing_factor == by_tokens or str(loss_normalizing_factor).upper() == REAL_TOKENS
        _check(objective, teacher_module, teacher_params, self._by_objective, options)
        self._objective = objective
        self._teacher_module, self._teacher_params = teacher_module, teacher_params
        if self._reads_bits:
            options.setdefault("feature_converter_cls", TeacherBitFeatureConverter)
        super().__init__(
            module=module,
            input_vocabulary=input_vocabulary,
            output_vocabulary=output_vocabulary,
            optimizer_def=optimizer_def,
            loss_normalizing_factor=loss_normalizing_factor,
            **options,
        )

    @property
    def objective(self) -> Objective:
        return self._objective

    @property
    def _reads_bits(self) -> bool:
        return self._objective.needs_teacher and self._teacher_module is None

    def loss_fn(self, params: Any, batch: Mapping[str, Array], dropout_rng: Array | None) -> tuple[Array, Any]:
        """The loss and t5x's metrics, and under `cascade/` those that docs/losses.md describes.

        Args:
          params: of the small model.
          batch: of a feature converter, packed or not.
          dropout_rng: also of what a random keep rule draws; None without dropout, as in evaluation.

        Raises:
          UserError: the batch lacks the teacher's bits.
        """
        logits = self._compute_logits(params, batch, dropout_rng)
        factor, weights = losses.get_loss_normalizing_factor_and_weights(self._loss_normalizing_factor, batch)
        output = self._sums(logits, batch, weights, dropout_rng)
        if self._by_objective:
            loss = divide(output.loss_sum, output.weight_sum)
        else:
            loss = output.loss_sum if factor is None else output.loss_sum / factor
        metrics = self._compute_metrics(
            logits=logits,
            targets=batch["decoder_target_tokens"],
            mask=weights,
            loss=loss,
            segment_ids=_segment_ids(batch),
        )
        return loss, {**metrics, **_cascade_metrics(output.sums)}

    def _sums(self, logits: Array, batch: Mapping[str, Array], weights: Array | None, key: Array | None) -> LossOutput:
        """The objective's sums over a batch, of the weights that t5x gives its tokens: 1 where it gives none."""
        targets, uniform = batch["decoder_target_tokens"], None
        if self._objective.needs_uniform:
            key = jax.random.key(0) if key is None else jax.random.fold_in(key, 0)
            uniform = jax.random.uniform(key, targets.shape)
        ours = Batch(
            decoder_target_tokens=targets,
            decoder_input_tokens=batch["decoder_input_tokens"],
            decoder_loss_weights=jnp.ones(targets.shape) if weights is None else weights,
        )
        student = ModelOutput(logits, _WholeLogits(jnp.zeros((0, logits.shape[-1])), logits.shape[-1]))
        return self._objective(student, ours, self._signal(batch), uniform=uniform)

    def _signal(self, batch: Mapping[str, Array]) -> TeacherSignal | None:
        if self._teacher_module is not None:
            logits = jax.lax.stop_gradient(self._teacher_logits(batch))
            return TeacherSignal(formulas.top1_correct(logits, batch["decoder_target_tokens"]), logits=logits)
        if not self._reads_bits:
            return None
        if BATCH_BITS not in batch:
            raise UserError(
                f"the objective {self._objective.name} needs a teacher, and the batch has no {BATCH_BITS}",
                "give teacher_module and teacher_params, or the task a feature teacher_bits (docs/t5x.md)",
            )
        return TeacherSignal(batch[BATCH_BITS] == RIGHT)

    def _teacher_logits(self, batch: Mapping[str, Array]) -> Array:
        """[B, T, V] of the large model, called as t5x calls the small one."""
        return self._teacher_module.apply(
            {"params": self._teacher_params},
            batch["encoder_input_tokens"],
            batch["decoder_input_tokens"],
            batch["decoder_target_tokens"],
            encoder_segment_ids=batch.get("encoder_segment_ids"),
            decoder_segment_ids=batch.get("decoder_segment_ids"),
            encoder_positions=batch.get("encoder_positions"),
            decoder_positions=batch.get("decoder_positions"),
            decode=False,
            enable_dropout=False,
        )


def checkpoint_params(path: str, step: int | None = None) -> Any:
    """The parameters in a t5x checkpoint, as nested dictionaries of NumPy arrays.

    Args:
      path: a model's directory, or one of its `checkpoint_<step>`.
      step: of the checkpoint in the directory; None for the newest.

    Raises:
      UserError: t5x is not installed.
    """
    if checkpoints is None:
        raise _absence()
    return checkpoints.load_t5x_checkpoint(path, step=step)["target"]


class _WholeLogits(Head):
    """The head of a model whose hidden states are its logits already: the losses look at nothing else of a head."""

    def logits(self, hidden: Array) -> Array:
        return hidden


def _check(
    objective: Objective, teacher_module: Any, teacher_params: Any, by_objective: bool, options: Mapping[str, Any]
) -> None:
    """Refuses arguments that do not go together."""
    if not isinstance(objective, Objective):
        raise UserError(f"objective cannot be {objective!r}", "use @Objective() of cat_jax.losses.objective")
    for name in ("z_loss", "label_smoothing"):
        if name in options:
            raise UserError(f"{name} is a field of the objective here", f"set Objective.{name}, and leave this out")
    given = {"teacher_module": teacher_module, "teacher_params": teacher_params}
    lacking = [name for name, value in given.items() if value is None]
    if len(lacking) == 1:
        raise UserError(
            f"there is no {lacking[0]}", f"give {' and '.join(given)}, or neither where batches have the bits"
        )
    if objective.needs_distribution and teacher_module is None:
        raise UserError(
            f"the objective {objective.name} with w = {objective.w:g} needs the teacher's distribution",
            "give teacher_module and teacher_params, or set Objective.w = 1",
        )
    if objective.normalizer != "target_tokens" and not by_objective:
        raise UserError(
            f"Objective.normalizer = {objective.normalizer!r} and another loss_normalizing_factor do not go together",
            f"set loss_normalizing_factor = {REAL_TOKENS!r}, or Objective.normalizer = 'target_tokens'",
        )


def _segment_ids(batch: Mapping[str, Array]) -> dict[str, Array]:
    """Of each packed feature its segments; without packing, where there is no padding: as t5x's metrics want it."""
    packed = {name.removesuffix("_segment_ids"): ids for name, ids in batch.items() if name.endswith("_segment_ids")}
    tokens = ("encoder_input_tokens", "decoder_target_tokens")
    return packed or {name: batch[name] != 0 for name in tokens if name in batch}


def _cascade_metrics(sums: Mapping[str, Array]) -> dict[str, Any]:
    """The means per target token of `losses.metrics`, as sums that t5x adds over microbatches and steps."""
    totals = {name: jnp.sum(values) for name, values in sums.items()}
    named = {
        "cross_entropy": totals["cross_entropy"],
        "kept_fraction": totals["kept_tokens"],
        "student_accuracy": totals["student_right"],
    }
    if "distillation" in totals:
        named["distillation"] = totals["distillation"]
    if "both_right" in totals:
        named["teacher_accuracy"] = totals["both_right"] + totals["teacher_only_right"]
        named |= {f"cells/{name}": totals[name] for name in CELLS}
    count = totals["target_tokens"]
    return {f"cascade/{name}": clu_metrics.Average(total=total, count=count) for name, total in named.items()}
