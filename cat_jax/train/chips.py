"""Peak FLOP/s of accelerators, for the model FLOPs utilisation."""

from __future__ import annotations

import re

PEAK_FLOPS = {
    "TPU v2": 22.5e12,  # v2 and v3: a device is one of a chip's two cores
    "TPU v3": 61.5e12,
    "TPU v4": 275e12,
    "TPU v5 lite": 197e12,
    "TPU v5e": 197e12,
    "TPU v5p": 459e12,
    "TPU v5": 459e12,
    "TPU v6 lite": 918e12,
    "TPU v6e": 918e12,
    "NVIDIA A100": 312e12,
    "NVIDIA H100 PCIe": 756e12,
    "NVIDIA H100 NVL": 835e12,
    "NVIDIA H100": 989e12,
    "NVIDIA H200": 989e12,
    "NVIDIA L4": 121e12,
    "Tesla V100": 125e12,
}
"""Dense bf16 (V100: f16) FLOP/s of one device as vendors state it, by the beginning of `jax.Device.device_kind`."""


def peak_flops(device_kind: str) -> float | None:
    """The peak of a device by its kind; None where it is not known (CPUs, newer chips).

    >>> peak_flops("TPU v5 lite"), peak_flops("NVIDIA H100 80GB HBM3"), peak_flops("NVIDIA L40S"), peak_flops("cpu")
    (197000000000000.0, 989000000000000.0, None, None)
    """
    known = [kind for kind in PEAK_FLOPS if re.match(rf"{re.escape(kind)}\b", device_kind)]
    return PEAK_FLOPS[max(known, key=len)] if known else None
