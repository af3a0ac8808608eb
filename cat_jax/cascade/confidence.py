"""Confidence rules: from a model's per-example table to one number per example; larger means surer.

A rule is a function of the table and of the numbers in the brackets of its name. To add one, write the function and
register it: every command and report then knows it by name.

    @register("longest_first")
    def longest_first(table):
        return -table.column("prediction_length").to_numpy()

An answer without a single token is the least sure of all (-inf): nothing vouches for it.
"""

from __future__ import annotations

import dataclasses
import difflib
import inspect
import json
import re
from collections.abc import Callable

import numpy as np
import pyarrow as pa

from cat_jax.cascade.ragged import Ragged, has_values, ragged
from cat_jax.errors import UserError

RULES: dict[str, Callable[..., np.ndarray]] = {}

_SPELLING = re.compile(r"\s*(\w+)\s*(?:\(([^()]*)\))?\s*")


@dataclasses.dataclass(frozen=True)
class ConfidenceRule:
    """A rule by name, with its numbers: `chow_quantile(0.1)`."""

    name: str
    arguments: tuple[float, ...] = ()

    def __str__(self) -> str:
        return self.name + (f"({', '.join(f'{a:g}' for a in self.arguments)})" if self.arguments else "")

    def __call__(self, table: pa.Table) -> np.ndarray:
        """f64[N]: the confidence of each row, in the table's order.

        Raises:
          UserError: the table lacks a column that the rule reads, or a confidence is NaN.
        """
        values = np.asarray(RULES[self.name](table, *self.arguments), dtype=np.float64)
        if values.shape != (len(table),):
            raise UserError(
                f"confidence rule {self} gave shape {values.shape} for {len(table)} rows", "return one number per row"
            )
        if np.isnan(values).any():
            raise UserError(f"confidence rule {self} gave NaN", "choose another rule, or mend the rule")
        # +inf would escape the threshold inf, which defers everything.
        return np.minimum(values, np.finfo(np.float64).max)


def register(name: str) -> Callable[[Callable[..., np.ndarray]], Callable[..., np.ndarray]]:
    """Makes a function of (table, numbers...) a rule called `name`."""

    def add(function: Callable[..., np.ndarray]) -> Callable[..., np.ndarray]:
        if name in RULES:
            raise ValueError(f"confidence rule {name} is already registered")
        RULES[name] = function
        return function

    return add


def parse_rule(text: str) -> ConfidenceRule:
    """The rule that `text` names.

    >>> parse_rule("chow_quantile(0.1)")
    ConfidenceRule(name='chow_quantile', arguments=(0.1,))
    >>> str(parse_rule(" minimum "))
    'minimum'

    Raises:
      UserError: no such rule, or the wrong numbers for it.
    """
    match = _SPELLING.fullmatch(text)
    name = match[1] if match else text
    if match is None or name not in RULES:
        close = difflib.get_close_matches(name, RULES, n=3)
        mend = f"did you mean {' or '.join(close)}?" if close else f"choose one of {', '.join(sorted(RULES))}"
        raise UserError(f"no confidence rule is called {text.strip()!r}", mend)
    parameters = list(inspect.signature(RULES[name]).parameters.values())[1:]
    try:
        arguments: tuple[float, ...] = tuple(float(a) for a in match[2].split(",")) if match[2] else ()
        inspect.signature(RULES[name]).bind(None, *arguments)
    except (ValueError, TypeError) as e:
        spelling = f"{name}({', '.join(p.name for p in parameters)})" if parameters else name
        raise UserError(f"confidence rule {text.strip()!r} has the wrong numbers", f"write it as {spelling}") from e
    rule = ConfidenceRule(name, arguments)
    if name == "chow_quantile" and not all(0 <= q <= 1 for q in arguments):
        raise UserError(f"{rule} asks for a quantile outside 0 to 1", "write for example chow_quantile(0.1)")
    return rule


def _empty_is_least(values: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    return np.where(lengths > 0, values, -np.inf)


@register("chow_sum")
def chow_sum(table: pa.Table) -> np.ndarray:
    """Log-probability of the whole answer: sum over its tokens. Defers long answers more than short ones."""
    logprobs = ragged(table, "token_logprobs")
    return _empty_is_least(logprobs.sums(), logprobs.lengths)


@register("chow_average")
def chow_average(table: pa.Table) -> np.ndarray:
    """Mean token log-probability: the sum with length divided out."""
    logprobs = ragged(table, "token_logprobs")
    return _empty_is_least(logprobs.means(), logprobs.lengths)


@register("chow_quantile")
def chow_quantile(table: pa.Table, q: float) -> np.ndarray:
    """The q-quantile of the token log-probabilities; 0 is the minimum (Gupta et al. 2404.10136)."""
    logprobs = ragged(table, "token_logprobs")
    return _empty_is_least(logprobs.quantiles(q), logprobs.lengths)


@register("minimum")
def minimum(table: pa.Table) -> np.ndarray:
    """Log-probability of the least likely token."""
    return chow_quantile(table, 0.0)


@register("entropy")
def entropy(table: pa.Table) -> np.ndarray:
    """Minus the mean entropy of the next-token distributions, in nats."""
    entropies = ragged(table, "token_entropies")
    return _empty_is_least(-entropies.means(), entropies.lengths)


def option_keys(table: pa.Table) -> Ragged:
    """What each row's answer was chosen by: the largest is that of the option that was answered.

    These are the option scores, summed log-probabilities in nats; of a table whose `settings` say that options were
    normalized by "mean", each score over its option's number of tokens. Tables that say nothing chose by the sum.

    Raises:
      UserError: the table lacks the scores, or the lengths that it chose by.
    """
    scores = ragged(table, "option_scores")
    stated = json.loads((table.schema.metadata or {}).get(b"cat_jax", b"{}"))
    if stated.get("settings", {}).get("option_normalization") != "mean":
        return scores
    # No option is empty, but a length of 0 is 1 where options are chosen, and so it is here.
    lengths = np.maximum(ragged(table, "option_lengths").values, 1)
    return dataclasses.replace(scores, values=scores.values / lengths)


@register("margin")
def margin(table: pa.Table) -> np.ndarray:
    """How far the choice leads its runner-up, in nats; per token, where options were chosen by their tokens' mean.

    Of a table with option scores: the best of `option_keys` minus the second best. Else: the mean over tokens of the
    best token's log-probability minus the second best's.
    """
    if not has_values(table, "option_scores"):
        margins = ragged(table, "token_margins")
        return _empty_is_least(margins.means(), margins.lengths)
    keys = option_keys(table)
    if (keys.lengths < 2).any():
        raise UserError("margin needs two options in every row", "choose another confidence rule")
    ordered, ends = keys.sorted_rows(), np.cumsum(keys.lengths)
    return ordered[ends - 1] - ordered[ends - 2]


@register("max_option_probability")
def max_option_probability(table: pa.Table) -> np.ndarray:
    """Probability of the option that was answered: softmax over `option_keys`. Score mode only."""
    keys = option_keys(table)
    best = keys.quantiles(1.0)
    shifted = np.exp(keys.values - best[keys.rows])
    total = np.bincount(keys.rows, weights=shifted, minlength=len(best))
    return np.divide(1.0, total, out=np.full(len(best), -np.inf), where=keys.lengths > 0)
