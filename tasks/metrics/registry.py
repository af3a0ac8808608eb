"""Metrics by the names that the tables of tasks use."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

from cat_jax_tasks.metrics import answers, labels, numbers, target, texts


@dataclasses.dataclass(frozen=True)
class Scoring:
    """What a SeqIO task needs of its metrics: functions, the first of which has the headline, and a postprocessor."""

    functions: tuple[Callable[..., dict[str, float]], ...]
    postprocess: Callable[..., Any]


_OF_ANSWERS: dict[str, Callable[..., dict[str, float]]] = {
    "accuracy": labels.accuracy,
    "cb": labels.commitment_bank,
    "f1_positive": labels.f1_positive,
    "matthews": labels.matthews,
    "multirc": answers.multirc,
    "pearson_spearman": numbers.pearson_spearman,
    "record": answers.record,
    "squad": answers.squad,
    "trivia_qa": answers.trivia_qa,
}
_OF_TEXTS: dict[str, Callable[[], Callable[..., dict[str, float]]]] = {
    "bleu": texts.SacreBleu,
    "chrf": texts.ChrF,
    "edit_distance": lambda: texts.edit_distance,
    "rouge": lambda: texts.rouge,
}


def scoring(names: Sequence[str]) -> Scoring:
    """The metrics called `names`.

    Raises:
      ValueError: an unknown one, or some that compare with an answer beside some that compare with references.
    """
    known = {*_OF_ANSWERS, *_OF_TEXTS}
    odd = [name for name in names if name not in known]
    if odd or not names:
        raise ValueError(f"no metric {', '.join(odd) or 'is named'}; there are {', '.join(sorted(known))}")
    if set(names) <= set(_OF_TEXTS):
        return Scoring(tuple(_OF_TEXTS[name]() for name in names), target.references)
    if not set(names) <= set(_OF_ANSWERS):
        raise ValueError(f"{', '.join(names)} do not go together: some compare with one answer, some with references")
    return Scoring(tuple(_OF_ANSWERS[name] for name in names), target.answer)
