"""Fields of the sets whose input is a list of concepts, facts or attributes."""

from __future__ import annotations

import tensorflow as tf
from cat_jax_tasks.flan2021.views import text
from cat_jax_tasks.flan2021.views.text import Fields, Row


def common_gen(row: Row) -> Fields:
    """The target alone is the answer, as in FLAN, though the validation split has further references."""
    return {
        "concepts": tf.strings.reduce_join(row["concepts"], separator=", "),
        "answer": tf.strings.strip(row["target"]),
    }


def dart(row: Row) -> Fields:
    """GEM has joined the parts of a fact by spaces; [TABLECONTEXT] and [TITLE] stand for a table and its title."""
    facts = tf.strings.regex_replace(row["tripleset"], r"\[TABLECONTEXT\]", "table")
    facts = tf.strings.regex_replace(facts, r"\[TITLE\]", "title")
    return _facts(facts, row["target"])


def web_nlg_en(row: Row) -> Fields:
    """A fact is "subject | property | object"; names of DBpedia have underscores, and some objects quotation marks."""
    facts = tf.strings.regex_replace(row["input"], '"', "")
    return _facts(facts, row["target"]) | {"category": text.without_underscores(row["category"])}


def _facts(facts: tf.Tensor, target: tf.Tensor) -> Fields:
    facts = text.bulleted(text.without_underscores(facts))
    return {"facts": facts, "answer": text.given(text.one_line(target), facts)}


def e2e_nlg(row: Row) -> Fields:
    """Attributes "name[The Punter], eatType[pub]" as lines "name: The Punter", "type: pub"."""
    attributes = tf.strings.regex_replace(row["meaning_representation"], r"([^\[\],]+)\[([^\]]*)\],?\s*", "\\1: \\2\n")
    for name, words in (("eatType", "type"), ("priceRange", "price range"), ("familyFriendly", "family friendly")):
        attributes = tf.strings.regex_replace(attributes, name + ":", words + ":")
    attributes = tf.strings.strip(attributes)
    return {"attributes": attributes, "answer": text.given(text.one_line(row["target"]), attributes)}
