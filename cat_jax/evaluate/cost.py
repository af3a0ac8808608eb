"""What the answers of a model cost that is not ours: FLOPs, or money, or time, one unit a table."""

from __future__ import annotations

import dataclasses
import logging
import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from cat_jax.errors import UserError
from cat_jax.table import FLOPS

logger = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Cost:
    """A price list. Where all prices are 0 each row states its own: `flops` in FLOPs, `cost` in any other unit.

    Attributes:
      unit: of the cost: "FLOPs", "USD", "seconds", ...; a name, which reports print and which partners share.
      per_answer: what every answer costs.
      per_input_token: times the row's `input_length`.
      per_output_token: times its `prediction_length`, or else the number of its token_logprobs.
      per_flop: times its `flops`, in a unit other than FLOPs.

    Raises:
      UserError: a price is negative or no number, or the unit cannot be a name.
    """

    unit: str = FLOPS
    per_answer: float = 0.0
    per_input_token: float = 0.0
    per_output_token: float = 0.0
    per_flop: float = 0.0

    def __post_init__(self):
        if not isinstance(self.unit, str) or not self.unit.strip() or not self.unit.isprintable():
            raise UserError(f"Cost.unit is {self.unit!r}", "name what is paid, 'USD' or 'seconds' for example")
        if self.unit.strip().lower() in ("flops", "flop") and self.unit != FLOPS:
            raise UserError(f"Cost.unit is {self.unit!r}", f"write {FLOPS!r}")
        for name, price in self.prices.items():
            number = isinstance(price, int | float) and not isinstance(price, bool)
            if not number or not math.isfinite(price) or price < 0:
                raise UserError(f"{name} is {price!r}", "give a price of 0 or more")
        if self.unit == FLOPS and self.per_flop:
            raise UserError(
                "Cost.per_flop has no meaning where FLOPs are the unit", "set Cost.unit, to 'USD' for example"
            )

        if bool(self.per_input_token) != bool(self.per_output_token) and not (self.per_answer or self.per_flop):
            given, free = ("input", "output") if self.per_input_token else ("output", "input")
            logger.warning(
                "Cost.per_%s_token is set and Cost.per_%s_token is not: if these cost anything, set it, too",
                given,
                free,
            )

    @property
    def prices(self) -> dict[str, float]:
        """{name in a gin file, such as "Cost.per_flop": price}, in `unit` per answer, token or FLOP; 0 for none."""
        return {f"Cost.{f.name}": getattr(self, f.name) for f in dataclasses.fields(self) if f.name != "unit"}

    @property
    def field(self) -> str:
        """The field in which a row states its cost."""
        return "flops" if self.unit == FLOPS else "cost"

    def of(self, rows: Mapping[str, np.ndarray], count: int, what: str) -> np.ndarray:
        """f64[N] of `count` answers.

        Args:
          rows: {field: f64[N]} of those fields that the rows have.
          count: N.
          what: the answers, for messages.

        Raises:
          UserError: the rows state no cost and have no price, or both, or lack what a price is of.
        """
        priced = [name for name, price in self.prices.items() if price]
        if self.unit == FLOPS and "cost" in rows:
            raise UserError(
                f"{what} have a field cost, and Cost.unit is {FLOPS}", "say in what: Cost.unit = 'USD', say"
            )
        if self.field in rows:
            if priced:
                raise UserError(
                    f"{what} state their {self.field}, and {priced[0]} is set, too", "leave one of them out"
                )
            return rows[self.field]
        if not priced:
            raise UserError(
                f"{what} do not say what they cost",
                f"give each row {self.field} (in {self.unit}), or set Cost.per_answer, or Cost.per_input_token and "
                "Cost.per_output_token",
            )
        needs = {"input_length": self.per_input_token, "prediction_length": self.per_output_token}
        needs |= {"flops": self.per_flop}
        total = np.full(count, float(self.per_answer))
        for name, price in needs.items():
            if price and name not in rows:
                raise UserError(f"{what} have no {name}, and there is a price on it", "give it, or another price")
            total += price * rows.get(name, 0.0)
        return total

    def to_dict(self) -> dict[str, Any]:
        """JSON-able: {field: value}, from which `Cost(**fields)` makes an equal price list."""
        return dataclasses.asdict(self)
