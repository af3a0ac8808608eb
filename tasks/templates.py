"""Prompt templates as data: `{field}` is replaced by a field of the row, `{{` is a brace."""

from __future__ import annotations

import dataclasses
import string
from collections.abc import Mapping, Sequence

import numpy as np
import tensorflow as tf


@dataclasses.dataclass(frozen=True)
class Template:
    """What the model reads and what it shall write. *Turned* around if that is something else than the answer."""

    inputs: str
    targets: str = "{answer}"

    @property
    def is_turned(self) -> bool:
        """Whether the input may hold the answer."""
        return self.targets != "{answer}"

    @property
    def fields(self) -> frozenset[str]:
        """The fields that it names."""
        return frozenset(field for text in (self.inputs, self.targets) for _, field in pieces(text) if field)


def pieces(text: str) -> list[tuple[str, str]]:
    """(literal, field) pairs of a template; the last field may be "".

    Raises:
      ValueError: a brace that is not closed, or something else than a name in braces.

    >>> pieces("Is {a} {{so}}?")
    [('Is ', 'a'), (' {so}?', '')]
    """
    found: list[tuple[str, str]] = []
    pending = ""
    for literal, field, format_, conversion in string.Formatter().parse(text):
        pending += literal
        if field is None:
            continue
        if not field.isidentifier() or format_ or conversion:
            raise ValueError(f"{{{field}}} is no name of a field in the template {text!r}")
        found.append((pending, field))
        pending = ""
    return [*found, (pending, "")] if pending or not found else found


class Renderer:
    """Renders one of several templates in a TensorFlow graph: all of them cost as much as one.

    Args:
      templates: at least one.
    """

    def __init__(self, templates: Sequence[Template]):
        self.names = sorted(set().union(*(template.fields for template in templates)))
        self._inputs = self._table([pieces(template.inputs) for template in templates])
        self._targets = self._table([pieces(template.targets) for template in templates])

    def __call__(self, fields: Mapping[str, tf.Tensor], which: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Inputs and targets by template number `which`.

        Args:
          fields: scalar strings, all of `names` among them.
          which: an integer.

        Raises:
          ValueError: a field that a template names is not there, or no scalar string.
        """
        for name in self.names:
            value = fields.get(name)
            if value is None or value.dtype != tf.string or value.shape.rank not in (0, None):
                there = ", ".join(sorted(fields))
                raise ValueError(f"a template names {{{name}}}, which is no text among the row's fields: {there}")
        values = tf.stack([*(tf.reshape(fields[name], []) for name in self.names), tf.constant("")])

        def render(table: tuple[np.ndarray, np.ndarray]) -> tf.Tensor:
            literals, places = (tf.gather(part, which) for part in table)
            return tf.strings.reduce_join(tf.stack([literals, tf.gather(values, places)], 1))

        return render(self._inputs), render(self._targets)

    def _table(self, templates: Sequence[Sequence[tuple[str, str]]]) -> tuple[np.ndarray, np.ndarray]:
        """Literals and the numbers of the fields that follow them, [templates, longest]; "" and the last fill up."""
        longest = max(map(len, templates))
        places = {name: i for i, name in enumerate([*self.names, ""])}
        filled = [[*template, *[("", "")] * (longest - len(template))] for template in templates]
        literals = np.array([[literal.encode() for literal, _ in row] for row in filled], object)
        return literals, np.array([[places[field] for _, field in row] for row in filled], np.int32)
