"""Metrics of free text: BLEU and chrF by sacreBLEU, ROUGE by rouge-score, edit distance."""

from __future__ import annotations

import functools
import statistics
from collections.abc import Sequence

import editdistance
import sacrebleu


class SacreBleu:
    """Corpus BLEU of sacreBLEU, against any number of references; `signatures` holds that of the last call.

    Args:
      tokenize: sacreBLEU's name of a tokeniser: `13a`, `zh`, `ja-mecab` ...
    """

    __name__ = "bleu"

    def __init__(self, tokenize: str = "13a"):
        self._tokenize = tokenize
        self.signatures: dict[str, str] = {}

    @functools.cached_property
    def _metric(self) -> sacrebleu.BLEU:
        return sacrebleu.BLEU(tokenize=self._tokenize)  # Japanese loads a dictionary

    def __call__(self, targets: Sequence[Sequence[str]], predictions: Sequence[str]) -> dict[str, float]:
        score = self._metric.corpus_score(list(predictions), streams(targets)).score
        self.signatures = {"bleu": self._metric.get_signature().format()}
        return {"bleu": score}


class ChrF:
    """Corpus chrF2 of sacreBLEU; `signatures` as above."""

    __name__ = "chrf"

    def __init__(self):
        self.signatures: dict[str, str] = {}

    def __call__(self, targets: Sequence[Sequence[str]], predictions: Sequence[str]) -> dict[str, float]:
        metric = sacrebleu.CHRF()
        score = metric.corpus_score(list(predictions), streams(targets)).score
        self.signatures = {"chrf": metric.get_signature().format()}
        return {"chrf": score}


def streams(targets: Sequence[Sequence[str]]) -> list[list[str | None]]:
    """References by number, as sacreBLEU takes them; None where an example has fewer."""
    count = max(map(len, targets))
    return [[row[k] if k < len(row) else None for row in targets] for k in range(count)]


def rouge(targets: Sequence[Sequence[str]], predictions: Sequence[str]) -> dict[str, float]:
    """F of ROUGE-1, ROUGE-2 and ROUGE-L, stemmed, of each text the best over its references, then the mean."""
    from rouge_score.rouge_scorer import RougeScorer

    kinds = ["rouge1", "rouge2", "rougeL"]
    scorer = RougeScorer(kinds, use_stemmer=True)
    scores = [scorer.score_multi(row, text) for row, text in zip(targets, predictions, strict=True)]
    return {kind: 100.0 * statistics.fmean(score[kind].fmeasure for score in scores) for kind in kinds}


def edit_distance(targets: Sequence[Sequence[str]], predictions: Sequence[str]) -> dict[str, float]:
    """`similarity`: what the distance leaves of the longer text, in percent; `edit_distance`: characters, a mean."""
    pairs = [(row[0], text) for row, text in zip(targets, predictions, strict=True)]
    distances = [editdistance.eval(target, text) for target, text in pairs]
    longest = [max(len(target), len(text), 1) for target, text in pairs]
    alike = [1.0 - distance / length for distance, length in zip(distances, longest, strict=True)]
    return {"similarity": 100.0 * statistics.fmean(alike), "edit_distance": statistics.fmean(distances)}
