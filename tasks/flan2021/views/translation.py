"""Fields of the translation sets: `source`, and `answer`, its translation. TFDS names a side by its language's code."""

from __future__ import annotations

from cat_jax_tasks.flan2021.views import text
from cat_jax_tasks.flan2021.views.text import Fields, Row


def english_to_spanish(row: Row) -> Fields:
    """A row without one of the two sides is left out."""
    return _pair(row, "en", "es")


def english_to_french(row: Row) -> Fields:
    """A row without one of the two sides is left out."""
    return _pair(row, "en", "fr")


def german_to_english(row: Row) -> Fields:
    """A row without one of the two sides is left out."""
    return _pair(row, "de", "en")


def turkish_to_english(row: Row) -> Fields:
    """A row without one of the two sides is left out."""
    return _pair(row, "tr", "en")


def czech_to_english(row: Row) -> Fields:
    """A row without one of the two sides is left out."""
    return _pair(row, "cs", "en")


def finnish_to_english(row: Row) -> Fields:
    """A row without one of the two sides is left out."""
    return _pair(row, "fi", "en")


def romanian_to_english(row: Row) -> Fields:
    """A row without one of the two sides is left out."""
    return _pair(row, "ro", "en")


def russian_to_english(row: Row) -> Fields:
    """A row without one of the two sides is left out."""
    return _pair(row, "ru", "en")


def _pair(row: Row, source: str, target: str) -> Fields:
    source_text, target_text = text.one_line(row[source]), text.one_line(row[target])
    return {"source": source_text, "answer": text.given(target_text, source_text)}
