"""The few names of t5x and clu that the plug-in uses, written from their documentation, for where t5x is not."""

import dataclasses
import enum
import types

import jax
import jax.numpy as jnp


@jax.tree_util.register_dataclass
@dataclasses.dataclass
class Average:
    """`clu.metrics.Average`."""

    total: object
    count: object

    def compute(self):
        return self.total / self.count


class Factor(enum.Enum):
    """`t5x.losses.SpecialLossNormalizingFactor`."""

    NUM_REAL_TARGET_TOKENS = 1
    NUM_TOTAL_TARGET_TOKENS = 2
    AVERAGE_PER_SEQUENCE = 3


def factor_and_weights(factor, batch):
    """`t5x.losses.get_loss_normalizing_factor_and_weights`, of batches that are not packed."""
    weights = batch.get("decoder_loss_weights")
    if not isinstance(factor, str | Factor):
        return factor, weights
    if weights is None:
        weights = jnp.asarray(batch["decoder_target_tokens"] > 0, jnp.float32)
    kind = Factor[factor.upper()] if isinstance(factor, str) else factor
    if kind is Factor.NUM_TOTAL_TARGET_TOKENS:
        return weights.size, weights
    if kind is Factor.AVERAGE_PER_SEQUENCE:
        weights = jnp.nan_to_num(weights / jnp.sum(weights, -1, keepdims=True), nan=0, posinf=0, neginf=0)
    return jnp.sum(weights), weights


class Converter:
    """Where there is no SeqIO: `seqio.EncDecFeatureConverter` as far as a subclass is made of it."""

    TASK_FEATURES = dict.fromkeys(("inputs", "targets"))
    MODEL_FEATURES = dict.fromkeys(("encoder_input_tokens", "decoder_target_tokens"))


class EncoderDecoderModel:
    """`t5x.models.EncoderDecoderModel`, without decoding."""

    FEATURE_CONVERTER_CLS = Converter

    def __init__(
        self, module, input_vocabulary, output_vocabulary, optimizer_def, decode_fn=None, feature_converter_cls=None,
        label_smoothing=0.0, z_loss=0.0, loss_normalizing_factor=None, default_decoder_params=None,
    ):  # fmt: skip
        self.module, self._loss_normalizing_factor = module, loss_normalizing_factor
        if feature_converter_cls is not None:
            self.FEATURE_CONVERTER_CLS = feature_converter_cls

    def _compute_logits(self, params, batch, dropout_rng=None):
        positions = {name: batch.get(name) for name in PACKING}
        tokens = [batch[f"{name}_tokens"] for name in ("encoder_input", "decoder_input", "decoder_target")]
        dropout = {
            "enable_dropout": dropout_rng is not None,
            "rngs": None if dropout_rng is None else {"dropout": dropout_rng},
        }
        return self.module.apply({"params": params}, *tokens, **positions, decode=False, **dropout)

    def _compute_metrics(self, logits, targets, mask, loss, z_loss=None, segment_ids=None):
        counted = jnp.sum(mask) if mask is not None else targets.size
        right = (jnp.argmax(logits, -1) == targets) * (1 if mask is None else mask)
        metrics = {
            "accuracy": Average(jnp.sum(right), counted),
            "loss_per_nonpadding_target_token": Average(loss, counted),
        }
        return metrics | {
            f"non_padding_fraction/{name}": Average(jnp.sum(ids != 0), ids.size) for name, ids in segment_ids.items()
        }


PACKING = [f"{side}_{what}" for side in ("encoder", "decoder") for what in ("segment_ids", "positions")]


def modules(converter=Converter):
    """{name: module} for `sys.modules`; checkpoints hold a "target" that says what was asked for."""
    model = type("EncoderDecoderModel", (EncoderDecoderModel,), {"FEATURE_CONVERTER_CLS": converter})
    names = {
        "clu.metrics": {"Average": Average},
        "t5x.models": {"EncoderDecoderModel": model},
        "t5x.losses": {
            "SpecialLossNormalizingFactor": Factor,
            "get_loss_normalizing_factor_and_weights": factor_and_weights,
        },
        "t5x.checkpoints": {"load_t5x_checkpoint": lambda path, step=None: {"target": (path, step), "state": {}}},
    }
    made = {name: types.ModuleType(name) for name in ("clu", "t5x", *names)}
    for name, attributes in names.items():
        vars(made[name]).update(attributes)
    return made
