"""What metrics compare an answer with, and the SeqIO postprocessors that make it of an example."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np


class Target(NamedTuple):
    """Attributes:
    answer: the right one; None where it is hidden, as of official test rows.
    answers: all right ones, where there may be several.
    options: what could be answered, in the order of the labels; empty for free text.
    group: what rows belong together, as the answers to one question do; "" where none do.
    """

    answer: str | None
    answers: tuple[str, ...]
    options: tuple[str, ...]
    group: str


HIDDEN = "<unk>"
"""The target of a row whose label is hidden; T5 has the same."""


def answer(output: str, example: Mapping[str, Any] | None = None, is_target: bool = False) -> Any:
    """A prediction without the space around it; a target as a `Target`, of the example's raw fields."""
    if not is_target:
        return output.strip()
    fields = example or {}
    answers = strings(fields.get("answers", ())) or (output,)
    group = _text(fields.get("group", ""))
    return Target(None if output == HIDDEN else output, answers, strings(fields.get("options", ())), group)


def references(output: str, example: Mapping[str, Any] | None = None, is_target: bool = False) -> Any:
    """A prediction as it is; a target as the list of all references, for metrics of free text."""
    if not is_target:
        return output
    return list(strings((example or {}).get("references", ()))) or [output]


def labelled(targets: Sequence[Target], predictions: Sequence[str]) -> list[tuple[Target, str]]:
    """The pairs whose label is known."""
    return [pair for pair in zip(targets, predictions, strict=True) if pair[0].answer is not None]


def strings(values: Any) -> tuple[str, ...]:
    """A list or array of texts or bytes as texts."""
    return tuple(_text(value) for value in np.asarray(values, object).reshape(-1))


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)
