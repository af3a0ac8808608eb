"""What a chip has, as its vendor states it: memory, peaks, and the links to its neighbours."""

from __future__ import annotations

import dataclasses

GIB = 1 << 30


@dataclasses.dataclass(frozen=True)
class Chip:
    """One device as a program sees it.

    Attributes:
      name: as a topology names it.
      platform: "tpu" or "gpu".
      memory: bytes of HBM that a program may use.
      peak_flops: dense bf16 FLOP/s.
      bandwidth: of HBM, bytes/s.
      link: bytes/s that a chip sends over all its links to other chips.
      clock: Hz of the core whose cycles the TPU's compiler estimates; 0 where there are no such estimates.
    """

    name: str
    platform: str
    memory: int
    peak_flops: float
    bandwidth: float
    link: float
    clock: float = 0.0


def _chip(name: str, platform: str, gib: float, tflops: float, gbs: float, link: float, ghz: float = 0.0) -> Chip:
    return Chip(name, platform, int(gib * GIB), tflops * 1e12, gbs * 1e9, link * 1e9, ghz * 1e9)


# Of TPUs those whose chip is one device to the compiler: a v4 is two to it, and one on its hosts. Their figures are
# those of cloud.google.com/tpu/docs/system-architecture-tpu-vm; memory is what the compiler says that a program may
# use; the clock follows from the peak: MXUs x side^2 x 2 x clock. GPU: NVIDIA's data sheets, link = NVLink, one way.
CHIPS = {
    chip.name: chip
    for chip in (
        _chip("v5e", "tpu", 15.75, 197, 819, 200, 1.503),
        _chip("v5p", "tpu", 95.74, 459, 2765, 600, 1.75),
        _chip("v6e", "tpu", 31.25, 918, 1640, 448, 1.75),
        _chip("a100", "gpu", 78, 312, 2039, 300),
        _chip("h100", "gpu", 78, 989, 3350, 450),
        _chip("h200", "gpu", 138, 989, 4800, 450),
    )
}
