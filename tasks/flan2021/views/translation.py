"""Fields of the translation sets: `source`, and `answer`, its translation. TFDS names a side by its language's code.

A row is known by its source alone, as WMT22's are: other translations of it are the same row where splits are compared.
"""

from __future__ import annotations

import functools

from cat_jax_tasks.flan2021.views import text
from cat_jax_tasks.flan2021.views.text import Fields, Row


def _pair(row: Row, source: str, target: str) -> Fields:
    """A row without one of the two sides is left out."""
    source_text, target_text = text.one_line(row[source]), text.one_line(row[target])
    return {"source": source_text, "answer": text.given(target_text, source_text), "content": source_text}


english_to_spanish = functools.partial(_pair, source="en", target="es")
english_to_french = functools.partial(_pair, source="en", target="fr")
german_to_english = functools.partial(_pair, source="de", target="en")
turkish_to_english = functools.partial(_pair, source="tr", target="en")
czech_to_english = functools.partial(_pair, source="cs", target="en")
finnish_to_english = functools.partial(_pair, source="fi", target="en")
romanian_to_english = functools.partial(_pair, source="ro", target="en")
russian_to_english = functools.partial(_pair, source="ru", target="en")
