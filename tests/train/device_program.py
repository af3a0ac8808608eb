"""Run by test_train_devices.py in processes of their own: one training run per mesh that is named.

One whose name begins with "lora" trains adapters alone, on stacked layers, of the family that compiles quickest, and
without what the others have tried: microbatches, a teacher, evaluation.
"""

import json
import sys

import jax
from training_world import CAT_XENT, VOCABULARY, XENT, arguments, dataset, model, records, steps_and_digest

from cat_jax.checkpoint.retention import CheckpointConfig
from cat_jax.cli.distributed import join
from cat_jax.models.decoder_config import DecoderConfig
from cat_jax.models.lora import Lora
from cat_jax.parallel.mesh import MeshConfig
from cat_jax.teacher.store import StoredTeacher
from cat_jax.train.loop import train
from cat_jax.train.optimizer import Adafactor

SIZES = {"num_heads": 8, "head_dim": 4, "embed_dim": 16, "mlp_dim": 16}
"""Every split dimension is divided by 8; one head a device; moments are factored."""


def main():
    """Arguments: directory of the world, JSON of {name: [data, fsdp, tensor]}, steps, whether to evaluate."""
    world, meshes, steps, evaluate = sys.argv[1], json.loads(sys.argv[2]), int(sys.argv[3]), sys.argv[4] == "True"
    join()
    for name, (data, fsdp, tensor) in meshes.items():
        fields = {
            "model": model(**SIZES),
            "objective": CAT_XENT,
            "teacher": StoredTeacher(f"{world}/signal"),
            "train_dataset": dataset(f"{world}/store", batch_size=16, pack=True),
            "eval_dataset": dataset(f"{world}/store", split="validation", batch_size=8) if evaluate else None,
            "optimizer": Adafactor(0.01, min_dim_size_to_factor=8),
            "num_microbatches": 2,
            "train_steps": steps,
            "checkpoint": CheckpointConfig(period=3, keep=9),
            "log_period": 1,
            "mesh": MeshConfig(data, fsdp, tensor),
        }
        if name.startswith("lora"):
            decoder = DecoderConfig(vocab_size=VOCABULARY, num_layers=2, scan_layers=True, **SIZES)
            fields |= {"lora": Lora(rank=3), "model": decoder, "objective": XENT, "teacher": None}
            fields |= {"eval_dataset": None, "num_microbatches": 1}
        train(**arguments(f"{world}/{name}", f"{world}/store", **fields))
        if jax.process_index() == 0:
            print(json.dumps([name, steps_and_digest(f"{world}/{name}"), records(f"{world}/{name}")]), flush=True)


if __name__ == "__main__":
    main()
