"""T5's judgement of WSC: does the noun that is written name the same thing as the noun that is asked about?"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cat_jax_tasks.metrics.target import Target

_DETERMINERS = frozenset(
    [
        *("a", "an", "few", "her", "his", "each", "every", "many", "much", "my", "our"),
        *("some", "that", "the", "their", "these", "this", "those", "which", "whose", "your"),
    ]
)
OPTIONS = ("False", "True")


def same_referent(output: str, example: Mapping[str, Any] | None = None, is_target: bool = False) -> Any:
    """A target is "True" if the pronoun refers to the row's noun; a prediction, if it names that noun.

    Two phrases name the same thing if, without determiners, the words of one are among the other's, and both or
    neither hold an apostrophe ("Bob" is not "Bob's hat"). An empty prediction is neither.
    """
    assert example is not None
    if is_target:
        label = int(example["label"])
        return Target(None if label < 0 else OPTIONS[label], (OPTIONS[max(label, 0)],), OPTIONS, "")
    noun = example["targets_pretokenized"]
    words, expected = _words(output), _words(noun.decode() if isinstance(noun, bytes) else str(noun))
    if not words:
        return ""
    if any("'" in word for word in words) != any("'" in word for word in expected):
        return OPTIONS[0]
    return OPTIONS[set(words) <= set(expected) or set(expected) <= set(words)]


def _words(text: str) -> list[str]:
    return [word for word in text.lower().split() if word not in _DETERMINERS]
