"""How long a compiled step takes on a chip that is not here, and how much of the chip it uses."""

from __future__ import annotations

import dataclasses

from cat_jax.planning.chips import Chip
from cat_jax.planning.hlo import Collective, HloProgram

_ATTAINED = 0.6


def assumptions(chip: Chip) -> list[str]:
    """What an estimate for `chip` takes for granted."""
    compute = "compute: the TPU compiler's estimate of cycles at the chip's clock"
    if not chip.clock:
        compute = (
            f"compute: products at {_ATTAINED:.0%} of the bf16 peak, whatever their dtype, or bytes at the full HBM "
            "bandwidth, whichever takes longer"
        )
    return [
        compute,
        "collectives: around one ring, over half of the chip's links",
        "a step takes between the longer of the two (all of it overlapped) and their sum (none of it)",
        "teaching: on one host, as a slice of its own; decoding: a whole batch of answers of full length",
        "no step waits for its input; MFU counts the model's products once, at the bf16 peak, without what is computed "
        "again",
    ]


@dataclasses.dataclass(frozen=True)
class Estimate:
    """Seconds, and FLOP/s over the peak of all chips; `best` where collectives are hidden, `worst` where none is."""

    compute_seconds: float
    collective_seconds: float
    best_seconds: float
    worst_seconds: float
    best_mfu: float
    worst_mfu: float


def estimate(
    program: HloProgram, collectives: list[Collective], model_flops: float, flops: float, chip: Chip, chips: int
) -> Estimate:
    """Of one step.

    Args:
      program: compiled for `chip`, or for a CPU in its place.
      collectives: of the program.
      model_flops: FLOPs of all chips without what is computed again.
      flops: with it.
      chip: what it runs on.
      chips: how many.
    """
    cycles = program.cycles() if chip.clock else 0
    compute = cycles / chip.clock if cycles else 0.0
    if not compute:
        compute = max(flops / chips / (chip.peak_flops * _ATTAINED), program.bytes_moved() / chip.bandwidth)
    sent = sum(each.sent() for each in collectives) / (chip.link / 2)
    best, worst = max(compute, sent), compute + sent
    ideal = model_flops / chips / chip.peak_flops
    return Estimate(compute, sent, best, worst, ideal / best, ideal / worst)
