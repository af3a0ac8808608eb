"""Keep rules: which target tokens train the student. The paper's alpha is `either`; the others are ablations."""

from __future__ import annotations

import dataclasses
import difflib
import re

import jax
import jax.numpy as jnp

from cat_jax.errors import UserError
from cat_jax.types import Array

RULES = ("either", "teacher", "student", "random(p)", "all")
_RANDOM = re.compile(r"random\((.*)\)")


@dataclasses.dataclass(frozen=True)
class KeepRule:
    """Which target tokens are kept, from who gets them right.

    either: student or teacher (alpha of the paper); teacher, student: that one alone; random: a share `fraction` of
    all tokens whoever is right; all: every token.
    """

    kind: str
    fraction: float = 1.0

    @classmethod
    def parse(cls, text: str) -> KeepRule:
        """The rule that `text` spells: one of `RULES`, with a number for p.

        >>> KeepRule.parse("random(0.25)")
        KeepRule(kind='random', fraction=0.25)

        Raises:
          UserError: no such rule, or p is no number in (0, 1].
        """
        spelled = text.replace(" ", "") if isinstance(text, str) else repr(text)
        if match := _RANDOM.fullmatch(spelled):
            return cls("random", _fraction(text, match[1]))
        if spelled in RULES and spelled != "random(p)":
            return cls(spelled)
        if spelled.startswith("random"):
            raise UserError(f"keep={text!r} lacks its probability", "write it as keep='random(0.5)'")
        close = difflib.get_close_matches(spelled, RULES, n=1)
        mend = f"did you mean {close[0]!r}?" if close else "use one of them"
        raise UserError(f"there is no keep rule {text!r}, only {', '.join(RULES)}", mend)

    @property
    def needs_teacher(self) -> bool:
        """Whether the rule asks if the teacher is right."""
        return self.kind in ("either", "teacher")

    @property
    def needs_uniform(self) -> bool:
        """Whether the rule asks for a random number per token."""
        return self.kind == "random"

    def __call__(self, student_right: Array, teacher_right: Array | None, uniform: Array | None) -> Array:
        """Which tokens are kept, bool[...], without gradient; `uniform` f32[...] lies in [0, 1)."""
        if self.kind == "all":
            kept = jnp.ones_like(student_right)
        elif self.kind == "random":
            assert uniform is not None
            kept = uniform < self.fraction
        elif self.kind == "student":
            kept = student_right
        else:
            assert teacher_right is not None
            kept = teacher_right | student_right if self.kind == "either" else teacher_right
        return jax.lax.stop_gradient(kept)


def _fraction(text: str, number: str) -> float:
    mend = "give a probability in (0, 1], as in keep='random(0.5)'"
    try:
        fraction = float(number)
    except ValueError as e:
        raise UserError(f"keep={text!r}: {number!r} is not a number", mend) from e
    if not 0 < fraction <= 1:
        raise UserError(f"keep={text!r}: {number} is outside (0, 1]", mend)
    return fraction
