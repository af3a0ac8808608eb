"""BLEU from sums over examples: sacreBLEU's sufficient statistics, in the layout of `cascade.bleu`.

A corpus's BLEU is a function of their sum, so a cascade's merged output needs no new tokenisation.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from cat_jax.cascade.bleu import bleu


@dataclasses.dataclass(frozen=True)
class BleuSettings:
    """What decides sacreBLEU's statistics."""

    tokenize: str = "13a"
    lowercase: bool = False


SETTINGS = tuple(
    BleuSettings(tokenize, lowercase)
    for lowercase in (False, True)
    for tokenize in ("13a", "intl", "none", "char", "zh", "ja-mecab")
)


def statistics(
    hypotheses: Sequence[Any], references: Sequence[Any], settings: BleuSettings
) -> list[list[float]] | None:
    """The ten numbers of each example; None where a tokeniser is not installed or something is no text.

    Args:
      hypotheses: strings.
      references: a string each, or a list of strings.
      settings: tokeniser and case.
    """
    from sacrebleu.metrics.bleu import BLEU

    try:
        metric = BLEU(tokenize=settings.tokenize, lowercase=settings.lowercase, effective_order=True)
    except (ImportError, RuntimeError):  # ja-mecab needs a package of its own
        return None
    rows = []
    for hypothesis, reference in zip(hypotheses, references, strict=True):
        texts = [reference] if isinstance(reference, str) else reference
        if not isinstance(hypothesis, str) or not all(isinstance(text, str) for text in texts):
            return None
        score = metric.sentence_score(hypothesis, list(texts))
        rows.append([float(n) for n in (score.sys_len, score.ref_len, *score.counts, *score.totals)])
    return rows


def corpus(rows: Sequence[Sequence[float]]) -> float:
    """BLEU (0 to 100) of all examples together, by the rule with which the cascade scores merged outputs."""
    return float(bleu(np.sum(np.asarray(rows, np.float64), axis=0)))
