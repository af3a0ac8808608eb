"""What each number is called and how it is written, in the text table and in the report alike."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

MINUS = "−"
NOTHING = "–"


@dataclasses.dataclass(frozen=True)
class Metric:
    """How a metric is shown: its label, its unit, and which way is better (+1, -1, or 0 for neither)."""

    label: str
    unit: str = "points"  # "points" of quality, "share" (shown in %), "ratio"
    better: int = 1

    def show(self, value: float | str | None, signed: bool = False) -> str:
        """The number as text, with a true minus sign; a dash where it is not defined.

        >>> Metric("x", "share").show(-0.0123), Metric("x").show(2.25, signed=True), Metric("x").show(None)
        ('−1.2 %', '+2.2', '–')
        """
        value = float(value) if isinstance(value, str) else value  # results.json spells infinity "inf"
        if value is None or math.isnan(value):
            return NOTHING
        signed = signed and value != 0
        if math.isinf(value):
            return "never" if value > 0 else NOTHING
        if self.unit == "share":
            text = f"{value * 100:{'+' if signed else ''}.1f} %"
        else:
            text = f"{value:{'+' if signed else ''}.{2 if self.unit == 'ratio' else 1}f}"
        return text.replace("-", MINUS)

    def show_interval(self, bounds: Sequence[float] | None, signed: bool = False) -> str:
        """`[low, high]`, with a percent sign behind it if need be; nothing if there is no interval.

        >>> Metric("x").show_interval([1.94, 2.56]), Metric("x", "share").show_interval([0.1, 0.2])
        ('[1.9, 2.6]', '[10.0, 20.0] %')
        """
        if bounds is None:
            return ""
        text = f"[{', '.join(self.show(b, signed) for b in bounds)}]"
        return f"{text.replace(' %', '')} %" if self.unit == "share" else text

    def show_estimate(self, estimate: Mapping[str, Any] | None, signed: bool = False) -> str:
        """The mean and its interval."""
        if estimate is None:
            return NOTHING
        return f"{self.show(estimate['mean'], signed)} {self.show_interval(estimate['interval'], signed)}".strip()


_METRICS = {
    "small_quality": Metric("Small alone"),
    "large_quality": Metric("Large alone"),
    "auc_df": Metric("AUC-DF"),
    "auc_random": Metric("AUC, random deferral"),
    "gain_over_random": Metric("AUC-DF over random"),
    "gain_over_random_percent": Metric("AUC-DF over random, %"),
    "auc_ideal": Metric("AUC, ideal deferral"),
    "share_of_ideal": Metric("Share of ideal", "share"),
    "auroc": Metric("AUROC", "ratio"),
    "qnc": Metric("QNC", "ratio", -1),
    "small_cost": Metric("Small {unit} / large", "share", -1),
    "flops_saved": Metric("{unit} saved", "share"),
    "quality_gained": Metric("Quality gained"),
    "rate": Metric("Deferred", "share", 0),
    "quality": Metric("Quality"),
    "flops": Metric("{unit} / large", "share", -1),
    "kept_fraction": Metric("Tokens kept", "share", 0),
}


def metric(name: str, unit: str = "FLOPs") -> Metric:
    """How the metric called `name` is shown, `unit` being that of the cost.

    >>> metric("quality_at_30").label, metric("flops_saved_at_95").label
    ('At 30 % deferral', 'FLOPs saved at 95 % of large')
    >>> metric("small_cost", "USD").label
    'Small USD / large'
    """
    if name in _METRICS:
        found = _METRICS[name]
        return dataclasses.replace(found, label=found.label.format(unit=unit))
    kind, _, number = name.rpartition("_at_")
    if kind == "flops_saved":
        return Metric(f"{unit} saved at {number} % of large", "share")
    return Metric(f"At {number} % deferral")


def clear(estimate: Mapping[str, Any]) -> bool | None:
    """Whether a difference's interval leaves out 0; None if there is no interval."""
    bounds = estimate["interval"]
    return None if bounds is None else bounds[0] > 0 or bounds[1] < 0


def cost_text(value: float, unit: str = "FLOPs") -> str:
    """A cost with its unit.

    >>> cost_text(2.5e6), cost_text(3.21e12), cost_text(0.00123, "USD")
    ('2.5 MFLOPs', '3.21 TFLOPs', '0.00123 USD')
    """
    if unit != "FLOPs":
        return f"{value:.3g} {unit}"
    for prefix in ("", "k", "M", "G", "T", "P"):
        if abs(value) < 1000 or prefix == "P":
            return f"{value:.3g} {prefix}FLOPs"
        value /= 1000
    raise AssertionError("unreachable")
