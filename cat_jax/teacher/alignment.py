"""The one thing that a teacher can tell a student of another vocabulary: where in a text it is right.

The rule, for one target text of characters 0 to n - 1 (Unicode code points) and its end, which counts as character n.
A *place* is a range of characters, one for each token of a tokenisation:

1. A token's place is what its tokenizer says it was made of, in the text as it was before any normalisation.
2. Characters of no token, such as spaces that a tokenizer drops, are added to the next token's place; after the last
   one to that of the end, or of the last token if the end is no token.
3. A token of no characters, such as a marker for the beginning of a word, has the place of the next character.
4. The end-of-sequence token has the end as its place. Behind a text that was cut to its feature length it has none.

The teacher, forced along its own tokenisation, is right or wrong at each of its tokens. Of the student's tokens

5. one with the very place of a teacher's token is as right as that; where several tokens share it, as the bytes of a
   character do, the k-th is as right as the teacher's k-th, if both tokenisations have equally many there;
6. any other is right if all its characters are; and a character is right if all of the teacher's tokens are that have
   it in their place;
7. a token that stands for characters that the teacher has no token for ("unknown") counts as wrong, but for a student's
   unknown token by rule 5;
8. an end behind a cut text is as right as the teacher's end, if that is behind the same character, and else wrong.

So equal tokenisations give equal bits, whatever they look like.
"""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Sequence

import numpy as np

from cat_jax.data.spans import SpanEncoder, Spans

RULE = "characters, version 1"
"""Names the rule above in manifests."""


class Unlike(ValueError):
    """Tokens that the text does not give, or of which the teacher says nothing."""


@dataclasses.dataclass(frozen=True)
class Places:
    """The tokens of one target in its text.

    Attributes:
      starts, ends: i64[N]: token i has the characters [starts[i], ends[i]), the end counting as one; never none. Those
        of the end-of-sequence token behind a cut text are of no meaning.
      unknown: bool[N]: tokens that stand for characters without one.
      cut_end: after how many characters an end-of-sequence token stands behind a cut text; None if there is none.
    """

    starts: np.ndarray
    ends: np.ndarray
    unknown: np.ndarray
    cut_end: int | None = None

    @property
    def count(self) -> int:
        """Tokens of the text and its end, without an end behind a cut text."""
        return len(self.starts) - (self.cut_end is not None)

    @property
    def reach(self) -> int:
        """How many characters, the end included, the tokens have together; they begin at 0 and leave out none."""
        return int(self.ends[: self.count].max(initial=0))


def place_tokens(encoder: SpanEncoder, text: str, targets: np.ndarray, eos_id: int | None) -> Places:
    """Finds the tokens of a target in its text.

    Args:
      encoder: of the vocabulary.
      text: of the target.
      targets: i32[N], as the store has them: the tokens of the text, perhaps cut, and perhaps an end of sequence.
      eos_id: of the vocabulary.

    Raises:
      Unlike: the text gives other tokens.
    """
    for spans in encoder.encode(text):
        count = len(targets)
        if not (count <= len(spans.ids) and np.array_equal(targets, spans.ids[:count])):
            count -= 1
            if not (targets[-1] == eos_id and np.array_equal(targets[:-1], spans.ids[:count])):
                continue
        has_end, is_cut = count < len(targets), count < len(spans.ids)
        starts, ends = _fill(spans, count, len(text), has_end and not is_cut, is_cut)
        unknown = np.zeros(len(targets), bool)
        if encoder.unk_id is not None:
            unknown[:count] = spans.ids[:count] == encoder.unk_id
        if has_end and is_cut:
            reach = int(ends.max(initial=0))
            return Places(np.append(starts, reach), np.append(ends, reach), unknown, cut_end=reach)
        return Places(starts, ends, unknown)
    raise Unlike("its tokens are not those that its vocabulary makes of its text")


def _fill(spans: Spans, count: int, length: int, has_end: bool, is_cut: bool) -> tuple[np.ndarray, np.ndarray]:
    """Rules 2 to 4 for the first `count` tokens of a text of `length` characters."""
    starts, ends = spans.starts[:count].tolist(), spans.ends[:count].tolist()
    if has_end:
        starts.append(length)
        ends.append(length + 1)
    last = length if has_end else max(length - 1, 0)  # the last character that a token may have
    reach = 0
    for i, (start, end) in enumerate(zip(starts, ends, strict=True)):
        start = min(start, reach)
        if end <= start:
            start = min(start, last)
            end = start + 1
        starts[i], ends[i] = start, end
        reach = max(reach, end)
    if ends and not has_end and not is_cut:
        ends[-1] = max(ends[-1], length)
    return np.array(starts, np.int64), np.array(ends, np.int64)


def align_bits(teacher: Places, right: np.ndarray, student: Places) -> np.ndarray:
    """bool[N]: at which of the student's tokens the teacher is right, from where it is at its own, bool[M].

    Raises:
      Unlike: the teacher's tokens end before the student's do.
    """
    if student.reach > teacher.reach:
        raise Unlike(
            f"the teacher's tokens end after {teacher.reach} characters, its end included, and the student's after "
            f"{student.reach}"
        )
    count, known = teacher.count, right[: teacher.count] & ~teacher.unknown[: teacher.count]
    change = np.zeros(teacher.reach + 1, np.int64)
    np.add.at(change, teacher.starts[:count][~known], 1)
    np.add.at(change, teacher.ends[:count][~known], -1)
    wrong_before = np.concatenate([[0], np.cumsum(np.cumsum(change)[:-1] > 0)])  # characters, of the first k
    mine = slice(0, student.count)
    bits = wrong_before[student.starts[mine]] == wrong_before[student.ends[mine]]
    theirs, ours = _by_place(teacher), _by_place(student)
    for place, tokens in ours.items():
        twins = theirs.get(place, ())
        if len(twins) == len(tokens):
            for token, twin in zip(tokens, twins, strict=True):
                bits[token] = right[twin] if student.unknown[token] else known[twin]
    if student.cut_end is None:
        return bits
    return np.append(bits, bool(right[-1]) and teacher.cut_end == student.cut_end)


def _by_place(places: Places) -> dict[tuple[int, int], Sequence[int]]:
    found: dict[tuple[int, int], list[int]] = collections.defaultdict(list)
    pairs = zip(places.starts[: places.count].tolist(), places.ends[: places.count].tolist(), strict=True)
    for token, place in enumerate(pairs):
        found[place].append(token)
    return dict(found)
