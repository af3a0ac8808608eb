"""What several views need: the option of a label, a pronoun marked in its sentence, a file format's escapes undone."""

from __future__ import annotations

from collections.abc import Mapping

import tensorflow as tf

NO_YES = ("no", "yes")

# Some data have lost the ampersands or put a space before apostrophes. `&amp;` is last, or `&amp;lt;` would become `<`.
HTML_ENTITIES = {
    r" ?&?#(39|146);": "'",
    r"&?#145;": "'",
    r"&?#14[78];": '"',
    r"&?#(150|151|8212);": "-",
    r"&?#36;": "$",
    r"&quot;": '"',
    r"&lt;": "<",
    r"&gt;": ">",
    r"&?#160;|&?nbsp;": " ",
    r"&amp;|&?#038;": "&",
}


def option_at(options: tf.Tensor, index: tf.Tensor) -> tf.Tensor:
    """The option at `index`; "" where there is none, as for a hidden label (-1)."""
    index = tf.cast(index, tf.int32)
    count = tf.size(options)
    known = (index >= 0) & (index < count)
    return tf.concat([options, [""]], axis=0)[tf.where(known, index, count)]


def no_or_yes(label: tf.Tensor) -> dict[str, tf.Tensor]:
    """`options` and `answer` of a label that is 0 for no, 1 for yes."""
    options = tf.constant(NO_YES)
    return {"options": options, "answer": option_at(options, label)}


def first(texts: tf.Tensor) -> tf.Tensor:
    """The first of a rank-1 tensor of texts; "" where it is empty."""
    return tf.strings.reduce_join(texts[:1])


def replaced(text: tf.Tensor, rewrites: Mapping[str, str]) -> tf.Tensor:
    """`text` after each regular expression (RE2) is rewritten, in the order given, and without space at its ends."""
    for pattern, rewrite in rewrites.items():
        text = tf.strings.regex_replace(text, pattern, rewrite)
    return tf.strings.strip(text)


def marked(before: tf.Tensor, rest: tf.Tensor, phrase: tf.Tensor) -> tf.Tensor:
    """`before` and `rest`, with asterisks about `phrase` if `rest` begins with it (spans of some rows are off)."""
    length = tf.minimum(tf.strings.length(phrase), tf.strings.length(rest))
    begins = tf.strings.substr(rest, 0, length) == phrase
    after = tf.strings.substr(rest, length, -1)
    with_asterisks = tf.strings.join([before, "*", phrase, "*", after])
    return tf.where(begins, with_asterisks, tf.strings.join([before, rest]))
