"""A teacher's bits on another tokenisation: every decision by hand, and the rule against a second implementation."""

import io
import json
import random

import numpy as np
import pytest
import slow_alignment

from cat_jax.data.spans import Bytes, SentencePiece, Spans, TokenizerJson
from cat_jax.teacher.alignment import Unlike, align_bits, place_tokens

EOS = 10_000


class Fake:
    """A vocabulary that reads every text as the given tokens: ids are their numbers, but for 7, which is unknown."""

    unk_id = 7

    def __init__(self, spans, ids=None):
        self.spans, self.ids = spans, ids or [i + 10 for i in range(len(spans))]

    def encode(self, text):
        starts, ends = np.array(self.spans, np.int64).reshape(-1, 2).T
        yield Spans(np.array(self.ids, np.int64), starts, ends)

    def places(self, text, cut=None, end=True):
        targets = [*self.ids[:cut], *([EOS] if end else [])]
        return place_tokens(self, text, np.array(targets, np.int32), EOS)


def words(*texts):
    """Spans of texts that stand one after the other."""
    ends = np.cumsum([len(text) for text in texts]).tolist()
    return Fake([(end - len(text), end) for end, text in zip(ends, texts, strict=True)])


BY_HAND = {
    # text, the teacher's tokens, where it is right (its end last), the student's tokens, where the teacher is right
    "of the documentation": ("no foxes", words("no", " fox", "es"), "101 1", words("n", "o", " foxes"), "110 1"),
    "of the documentation, too": ("no foxes", words("no", " fox", "es"), "101 1", words("no f", "ox", "es"), "001 1"),
    "a token of several": ("the fox", words("the", " f", "ox"), "110 1", words("the", " fox"), "10 1"),
    "several of a token": ("the fox", words("the", " fox"), "10 1", words("th", "e", " f", "ox"), "1100 1"),
    "across tokens": ("abcd", words("ab", "cd"), "10 0", words("a", "bc", "d"), "100 0"),
    "the very same": ("abcd", words("ab", "cd"), "10 0", words("ab", "cd"), "10 0"),
    "a character of several, alike": (
        "🙂x",
        Fake([(0, 1)] * 2 + [(1, 2)]),
        "101 1",
        Fake([(0, 1), (0, 1), (1, 2)]),
        "101 1",
    ),
    "a character of several, not alike": (
        "🙂x",
        Fake([(0, 1)] * 2 + [(1, 2)]),
        "101 1",
        Fake([(0, 1)] * 3 + [(1, 2)]),
        "0001 1",
    ),
    "a character of several, whole": ("🙂x", Fake([(0, 1)] * 2 + [(1, 2)]), "111 1", words("🙂", "x"), "11 1"),
    "a space of no token goes with the next": ("a b", Fake([(0, 1), (2, 3)]), "10 1", words("a", " ", "b"), "100 1"),
    "nor has the student's": ("a b", words("a", " ", "b"), "101 1", Fake([(0, 1), (2, 3)]), "10 1"),
    "the last one with the end": ("a ", Fake([(0, 1)]), "1 0", words("a", " "), "10 0"),
    "a marker of no character, the teacher's": ("ab", Fake([(0, 0), (0, 2)]), "01 1", words("a", "b"), "01 1"),
    "a marker of no character, the student's": ("ab", words("ab"), "1 0", Fake([(0, 0), (0, 2)]), "11 0"),
    "a marker of no character at the end": ("ab", words("ab"), "1 0", Fake([(0, 2), (2, 2)]), "10 0"),
    "an unknown token is right about nothing": (
        "a🙂",
        Fake([(0, 1), (1, 2)], [10, 7]),
        "11 1",
        words("a", "🙂"),
        "10 1",
    ),
    "but of an unknown token": (
        "a🙂",
        Fake([(0, 1), (1, 2)], [10, 7]),
        "11 1",
        Fake([(0, 1), (1, 2)], [10, 7]),
        "11 1",
    ),
    "an empty text": ("", words(), " 1", words(), " 1"),
}


def bits_of(text):
    return np.array([c == "1" for c in text if c != " "])


@pytest.mark.parametrize("name", BY_HAND)
def test_by_hand(name):
    text, teacher, right, student, expected = BY_HAND[name]
    found = align_bits(teacher.places(text), bits_of(right), student.places(text))
    np.testing.assert_array_equal(found, bits_of(expected))


def test_a_cut_student_needs_no_more_of_the_teacher_than_it_has():
    text, teacher = "abcdef", words("ab", "cd", "ef")
    found = align_bits(teacher.places(text), bits_of("110 1"), words("abc", "def").places(text, cut=1, end=False))
    assert found.tolist() == [True]
    cut = teacher.places(text, cut=2, end=False)
    assert align_bits(cut, bits_of("10"), words("abc", "def").places(text, cut=1, end=False)).tolist() == [False]
    with pytest.raises(Unlike, match="after 4 characters, its end included, and the student's after 6"):
        align_bits(cut, bits_of("11"), words("abc", "def").places(text, end=False))
    with pytest.raises(Unlike, match=r"after 6 .* after 7"):  # the teacher has no end
        align_bits(teacher.places(text, end=False), bits_of("111"), words("abcdef").places(text))


def test_an_end_behind_a_cut_text_is_another_one():
    text = "abcdef"
    student = words("ab", "cd", "ef").places(text, cut=2)
    teacher = words("abcd", "e", "f")
    assert align_bits(teacher.places(text), bits_of("111 1"), student).tolist() == [True, True, False]
    assert align_bits(teacher.places(text, cut=1), bits_of("1 1"), student).tolist() == [True, True, True]
    assert align_bits(teacher.places(text, cut=2), bits_of("11 1"), student).tolist() == [True, True, False]


def test_tokens_that_are_not_the_text_s_are_refused():
    for targets in ([10, 12, EOS], [10, EOS, EOS], [10, 11, 12, 13, EOS], [5, 10, 11]):
        with pytest.raises(Unlike, match="not those that its vocabulary makes"):
            place_tokens(words("a", "b", "c"), "abc", np.array(targets), EOS)


# Against a second implementation


@pytest.fixture(scope="module")
def encoders():
    found = {"bytes": Bytes()}
    spm = pytest.importorskip("sentencepiece", reason="needs the `data` extra")
    small = pytest.importorskip("small_tokenizers")
    for make in (small.byte_level, small.unigram, small.byte_fallback, small.word_piece):
        found[make.__name__] = TokenizerJson(json.loads(make().to_str()))
    found["byte_level, other merges"] = TokenizerJson(json.loads(small.byte_level(merges=5).to_str()))
    for fallback in (True, False):
        model = io.BytesIO()
        spm.SentencePieceTrainer.train(
            sentence_iterator=iter(small.LINES),
            model_writer=model,
            vocab_size=330 if fallback else 80,
            byte_fallback=fallback,
            pad_id=0,
            eos_id=1,
            unk_id=2,
            bos_id=-1,
            hard_vocab_limit=False,
            minloglevel=2,
        )
        found[f"sentencepiece {fallback}"] = SentencePiece(model.getvalue())
    return found


PARTS = [
    "the",
    "fox",
    "hello",
    "naïve",
    " ",
    "  ",
    "\n",
    "🙂",
    "👩‍👩‍👧",
    "e\u0301",
    "ﬁ",
    "日本",
    "X",
    "<|im_end|>",
    "</s>",
    "\u200b",
]


def random_target(draw, encoder, text):
    """Tokens as a store may have them, and what `slow_alignment` needs of them; None of no tokens at all."""
    spans = draw.choice(list(encoder.encode(text)))
    whole = len(spans.ids)
    count = whole if draw.random() < 0.7 else draw.randint(0, whole)
    has_end = draw.random() < 0.8
    if not count and not has_end:
        return None
    targets = np.array([*spans.ids[:count], *([EOS] if has_end else [])], np.int32)
    pairs = list(zip(spans.starts.tolist(), spans.ends.tolist(), strict=True))
    sets = slow_alignment.places(pairs, count, len(text), has_end, count < whole)
    unknown = [*(spans.ids[:count] == encoder.unk_id).tolist(), False] if encoder.unk_id is not None else [False] * 9999
    return targets, sets, unknown[: len(targets)], has_end and count < whole


def test_the_rule_against_a_second_implementation(encoders):
    draw, compared, refused, shares = random.Random(0), 0, 0, set()
    for _ in range(1500):
        text = "".join(draw.choices(PARTS, k=draw.randint(0, 7)))
        one, other = (draw.choice(list(encoders.values())) for _ in range(2))
        made = [random_target(draw, encoder, text) for encoder in (one, other)]
        if None in made:
            continue
        (t_targets, t_sets, t_unknown, t_cut_end), (s_targets, s_sets, s_unknown, s_cut_end) = made
        right = np.array([draw.random() < 0.7 for _ in t_targets])
        teacher, student = place_tokens(one, text, t_targets, EOS), place_tokens(other, text, s_targets, EOS)
        if not set().union(*s_sets) <= set().union(*t_sets):
            refused += 1
            with pytest.raises(Unlike):
                align_bits(teacher, right, student)
            continue
        found = align_bits(teacher, right, student)
        n = len(t_sets)
        expected = slow_alignment.align(t_sets, right[:n].tolist(), t_unknown[:n], s_sets, s_unknown[: len(s_sets)])
        if s_cut_end:
            same_place = t_cut_end and max(set().union(*t_sets), default=-1) == max(set().union(*s_sets), default=-1)
            expected.append(bool(same_place and right[-1]))
        assert found.tolist() == expected, (text, t_targets, right, s_targets)
        compared += 1
        shares.add(round(float(np.mean(found)), 1))
    assert compared > 800
    assert refused > 50
    assert len(shares) > 5


def test_equal_tokens_have_the_very_same_bits(encoders):
    draw = random.Random(1)
    for _ in range(400):
        text = "".join(draw.choices(PARTS, k=draw.randint(0, 7)))
        encoder = draw.choice(list(encoders.values()))
        made = random_target(draw, encoder, text)
        if made is not None:
            places = place_tokens(encoder, text, made[0], EOS)
            right = np.array([draw.random() < 0.5 for _ in made[0]])
            np.testing.assert_array_equal(align_bits(places, right, places), right, err_msg=repr(text))
