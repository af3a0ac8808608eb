"""List columns of a per-example table as flat NumPy arrays, so that rules over tokens run without a Python loop."""

from __future__ import annotations

import dataclasses

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from cat_jax.errors import UserError


@dataclasses.dataclass(frozen=True)
class Ragged:
    """N rows of different lengths, one after the other."""

    values: np.ndarray  # f64[sum of lengths]
    lengths: np.ndarray  # i64[N]

    @property
    def rows(self) -> np.ndarray:
        """i64[sum of lengths]: the row that each value belongs to."""
        return np.repeat(np.arange(len(self.lengths)), self.lengths)

    @property
    def starts(self) -> np.ndarray:
        """i64[N]: where each row begins in `values`."""
        return np.cumsum(self.lengths) - self.lengths

    def sums(self) -> np.ndarray:
        """f64[N]: sum of each row; 0 for an empty one."""
        return np.bincount(self.rows, weights=self.values, minlength=len(self.lengths))

    def means(self) -> np.ndarray:
        """f64[N]: mean of each row; NaN for an empty one."""
        return np.divide(self.sums(), self.lengths, out=np.full(len(self.lengths), np.nan), where=self.lengths > 0)

    def quantiles(self, q: float) -> np.ndarray:
        """f64[N]: the q-quantile of each row, linear between order statistics (NumPy's default); NaN if empty."""
        ordered = self.sorted_rows()
        result = np.full(len(self.lengths), np.nan)
        full = self.lengths > 0
        position = q * (self.lengths[full] - 1)
        low = np.floor(position).astype(np.int64)
        high = np.minimum(low + 1, self.lengths[full] - 1)
        start = self.starts[full]
        quantile, above = ordered[start + low], ordered[start + high]
        finite = np.isfinite(quantile)  # below a log-probability of -inf there is nothing to interpolate
        quantile[finite] += (position - low)[finite] * (above[finite] - quantile[finite])
        result[full] = quantile
        return result

    def sorted_rows(self) -> np.ndarray:
        """f64[sum of lengths]: the values, ascending within each row."""
        return self.values[np.lexsort((self.values, self.rows))]


def ragged(table: pa.Table, column: str) -> Ragged:
    """The list column `column` of `table`.

    Raises:
      UserError: the column is missing, or a row or an element of it is null.
    """
    mend = "evaluate this model in a mode that writes it, import its answers with it, or choose another confidence rule"
    if column not in table.column_names:
        raise UserError(f"the per-example table has no column {column}", mend)
    lists = table.column(column)
    if lists.null_count:
        raise UserError(f"{column} is empty in {lists.null_count} of {len(lists)} rows", mend)
    values = pc.call_function("list_flatten", [lists]).to_numpy(zero_copy_only=False)
    lengths = pc.call_function("list_value_length", [lists]).to_numpy(zero_copy_only=False)
    values = np.asarray(values, dtype=np.float64)
    if np.isnan(values).any():
        raise UserError(f"{column} holds NaN", "delete that table and evaluate this model again")
    return Ragged(values, np.asarray(lengths, dtype=np.int64))


def has_values(table: pa.Table, column: str) -> bool:
    """Whether every row of the column is there; False when none is.

    Raises:
      UserError: some rows have it and some have not.
    """
    if column not in table.column_names or table.column(column).null_count == len(table):
        return False
    if table.column(column).null_count:
        raise UserError(
            f"{column} is there in some rows and missing in others", "delete that table and evaluate this model again"
        )
    return True
