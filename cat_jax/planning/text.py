"""A plan as people read it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cat_jax.progress import magnitude

_GIB = 1 << 30
_MIB = 1 << 20


def as_text(plan: Mapping[str, Any]) -> str:
    """Lines for a terminal; `plan` is what `planning.plan` returns."""
    mesh = " x ".join(f"{axis} {size}" for axis, size in plan["mesh"].items())
    models = ", ".join(f"{name} {magnitude(count)} parameters" for name, count in plan["parameters"].items())
    lines = [
        f"{plan['topology']}: {plan['chips']} chips of {plan['chip_memory'] / _GIB:.2f} GiB, mesh {mesh}",
        f"{models}; batch {plan['batch_size']}; compiled by the {plan['compiler']} compiler",
    ]
    for name, step in plan["steps"].items():
        lines += ["", *_step(name, step, plan["chip_memory"])]
        if proposal := step.get("proposal"):
            lines += [f"  It would fit with  {' '.join(proposal['flags'])}"]
            lines += _step(f"{name}, so changed", proposal, plan["chip_memory"])
        elif "proposal" in step:
            lines += ["  No change of rows at a time, rematerialisation or mesh was found to fit: take other chips."]
    lines += ["", "Assumptions:", *(f"  - {each}" for each in plan["assumptions"])]
    return "\n".join(lines)


def _step(name: str, step: Mapping[str, Any], memory: int) -> list[str]:
    verdict = "fits" if step["fits"] else "DOES NOT FIT"
    share = step["total_bytes"] / memory
    lines = [f"{name}: {_bytes(step['total_bytes'])} a chip, {share:.0%} of its memory: {verdict}"]
    lines += [f"  {part:<22}{_bytes(size):>12}" for part, size in step["bytes"].items() if size]
    lines.append(
        f"  FLOPs of {step['chips']} chips: {magnitude(step['model_flops'])} of the models, "
        f"{magnitude(step['flops'])} computed"
    )
    if "estimate" not in step:
        return lines
    lines.append(f"  bytes moved on a chip: {_bytes(step['bytes_moved'])}")
    for kind, each in step["collectives"].items():
        lines.append(f"  {kind}: {_times(each['times'])}, {_bytes(each['sent_bytes'])} sent by a chip")
    found = step["estimate"]
    unit = "batch of answers" if name.startswith("decode") else "step"
    lines.append(
        f"  estimated {_seconds(found['best_seconds'])} to {_seconds(found['worst_seconds'])} a {unit} "
        f"(compute {_seconds(found['compute_seconds'])}, collectives {_seconds(found['collective_seconds'])}), "
        f"MFU {found['worst_mfu']:.0%} to {found['best_mfu']:.0%}"
    )
    return lines


def _times(count: int) -> str:
    return "once" if count == 1 else f"{count:,} times"


def _bytes(size: float) -> str:
    """In the unit that is read best.

    >>> _bytes(0), _bytes(-512), _bytes(3 << 20), _bytes(5 << 30)
    ('0.0 MiB', '-0.5 KiB', '3.0 MiB', '5.00 GiB')
    """
    if 0 < abs(size) < _MIB / 20:
        return f"{size / 1024:.1f} KiB"
    return f"{size / _GIB:.2f} GiB" if abs(size) >= _GIB else f"{size / _MIB:.1f} MiB"


def _seconds(seconds: float) -> str:
    return f"{seconds:.2f} s" if seconds >= 1 else f"{seconds * 1e3:.1f} ms"
