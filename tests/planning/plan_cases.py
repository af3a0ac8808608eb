"""A small job to plan: a student of one layer and a teacher of two."""

import jax

from cat_jax.data.loader import DatasetConfig
from cat_jax.losses.objective import Objective
from cat_jax.models.t5_config import T5Config
from cat_jax.teacher.live import LiveTeacher


def config(width, layers, **fields):
    sizes = {"vocab_size": 512, "embed_dim": width, "num_heads": 2, "head_dim": width // 2, "mlp_dim": 2 * width}
    return T5Config(**sizes, num_encoder_layers=layers, num_decoder_layers=layers, **fields)


STUDENT, TEACHER = config(32, 1, dropout_rate=0.0), config(64, 2, dropout_rate=0.0)
LENGTHS = {"inputs": 32, "targets": 16}


def job(**changes):
    """Arguments of `plan`, for as many GPUs as this process has devices."""
    arguments = {
        "topology": f"h100:{len(jax.devices())}",
        "model": STUDENT,
        "objective": Objective(w=0.5),
        "train_dataset": DatasetConfig("", "", "train", LENGTHS, 16 * len(jax.devices())),
        "teacher": LiveTeacher(""),
        "teacher_model": TEACHER,
        "teach_batch_size": 8,
        "evaluate_batch_size": 4,
    }
    return arguments | changes
