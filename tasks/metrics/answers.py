"""Metrics of short answers: exact match and token F1 as SQuAD and TriviaQA define them, MultiRC's and ReCoRD's."""

from __future__ import annotations

import collections
import math
import re
import string
from collections.abc import Callable, Sequence

from cat_jax_tasks.metrics.labels import f1_positive
from cat_jax_tasks.metrics.target import Target, labelled

_ARTICLE = re.compile(r"\b(a|an|the)\b")
_TRIVIA_PUNCTUATION = string.punctuation + "‘’´`"


def squad(targets: Sequence[Target], predictions: Sequence[str]) -> dict[str, float]:
    """SQuAD's: best over the right answers, after lower case, without punctuation and articles."""
    f1, exact = _best(targets, predictions, normalize_squad)
    return {"f1": f1, "em": exact}


def trivia_qa(targets: Sequence[Target], predictions: Sequence[str]) -> dict[str, float]:
    """TriviaQA's: the same with its own normalisation, which turns punctuation into spaces."""
    f1, exact = _best(targets, predictions, normalize_trivia)
    return {"em": exact, "f1": f1}


def record(targets: Sequence[Target], predictions: Sequence[str]) -> dict[str, float]:
    """ReCoRD's: best over all entities that are right; `score` is SuperGLUE's mean of both."""
    f1, exact = _best(targets, predictions, normalize_squad)
    return {"score": (f1 + exact) / 2, "f1": f1, "em": exact}


def multirc(targets: Sequence[Target], predictions: Sequence[str]) -> dict[str, float]:
    """MultiRC's: F1 of the answers that hold, over all answers (F1a), and questions with every answer right (EM).

    The options are (does not hold, holds); a prediction that is neither counts as wrong. `group` is the question.
    `score` is SuperGLUE's mean of both.
    """
    questions: dict[str, bool] = collections.defaultdict(lambda: True)
    for target, prediction in labelled(targets, predictions):
        questions[target.group] &= prediction == target.answer
    f1a = f1_positive(targets, predictions)["f1"]
    exact = 100.0 * sum(questions.values()) / len(questions) if questions else math.nan
    return {"score": (f1a + exact) / 2, "f1a": f1a, "em": exact}


def normalize_squad(text: str) -> str:
    """Lower case, no punctuation, no articles, single spaces.

    >>> normalize_squad("The U.S.  Army")
    'us army'
    """
    text = "".join(character for character in text.lower() if character not in string.punctuation)
    return " ".join(_ARTICLE.sub(" ", text).split())


def normalize_trivia(text: str) -> str:
    """The same with spaces in place of punctuation and of underscores.

    >>> normalize_trivia("The_U.S.")
    'u s'
    """
    text = "".join(" " if character in _TRIVIA_PUNCTUATION else character for character in text.lower())
    return " ".join(_ARTICLE.sub(" ", text).split())


def token_f1(answer: str, prediction: str) -> float:
    """F1 (0 to 1) of the words of two normalised texts."""
    expected, found = answer.split(), prediction.split()
    shared = sum((collections.Counter(expected) & collections.Counter(found)).values())
    return 2.0 * shared / (len(expected) + len(found)) if shared else 0.0


def _best(
    targets: Sequence[Target], predictions: Sequence[str], normalize: Callable[[str], str]
) -> tuple[float, float]:
    """Percent of F1 and of exact matches, of each prediction the best over the right answers."""
    pairs = labelled(targets, predictions)
    if not pairs:
        return math.nan, math.nan
    f1 = exact = 0.0
    for target, prediction in pairs:
        found = normalize(prediction)
        answers = [normalize(answer) for answer in target.answers]
        f1 += max(token_f1(answer, found) for answer in answers)
        exact += max(answer == found for answer in answers)
    return 100.0 * f1 / len(pairs), 100.0 * exact / len(pairs)
