"""The pronunciation lexicons of the PyPI packages `gruut-lang-en`, `-de` and `-fr` (MIT), read in place.

Each ships one SQLite file with a table `word_phonemes(word, pron_order, phonemes)`. The German one looks machine-made,
so a score on it says how well a model imitates that lexicon, not how well it pronounces German.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.util
import pathlib
import sqlite3
import unicodedata

MAX_SYMBOLS = 12
"""Words and pronunciations longer than this are left out: the demo's models are small."""


def normalise_word(word: str) -> str:
    """NFC, lower case.

    >>> normalise_word("E\u0301TE\u0301")
    'été'
    """
    return unicodedata.normalize("NFC", word).lower()


def normalise_phonemes(phonemes: str) -> str:
    """NFC, stress stripped, ASCII g as U+0261, one space between phonemes.

    >>> normalise_phonemes("ˈæ g  ə ˌoʊ")
    'æ ɡ ə oʊ'
    """
    stripped = phonemes.replace("ˈ", "").replace("ˌ", "").replace("g", "ɡ")
    return " ".join(unicodedata.normalize("NFC", stripped).split())


LETTERS = "abcdefghijklmnopqrstuvwxyz'-àâäçèéêëîïñôöùûüÿœæß"
# Shared, then English, German and French. Stress marks are stripped, ASCII g is merged into U+0261.
PHONEMES = tuple(
    normalise_phonemes(
        "a b d e f h i j k l m n o p s t u v w x y z ð ŋ œ ɐ ɑ ɔ ə ɚ ɛ ɡ ɪ ɲ ɹ ʁ ʃ ʊ ʌ ʏ ʒ ʔ æ ç ø χ θ ɥ "
        "aɪ aʊ eɪ oʊ ɔɪ d͡ʒ t͡ʃ aː eː iː oː uː yː øː ɛː ãː õː ɛ̃ː aɪ̯ aʊ̯ ɔʏ̯ p͡f t͡s ɑ̃ ɔ̃ ɛ̃ œ̃"
    ).split()
)


def order_key(salt: str, text: str) -> bytes:
    """A stable hash: sorting by it shuffles the alphabet away, and a slice of it is a split that never moves."""
    return hashlib.blake2b(f"{salt}:{text}".encode(), digest_size=8).digest()


def database(language: str) -> pathlib.Path:
    """The lexicon file of the language's package.

    Raises:
      ModuleNotFoundError: the package is not installed.
    """
    package = f"gruut_lang_{language}"
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError(f"the package {package} is not installed", name=package)
    return pathlib.Path(spec.origin).parent / "lexicon.db"


@functools.cache
def pronunciations(language: str) -> dict[str, tuple[str, ...]]:
    """Every word's pronunciations, the most usual first; only words that the demo's symbols can write."""
    with sqlite3.connect(f"file:{database(language)}?mode=ro", uri=True) as connection:
        rows = connection.execute("SELECT word, phonemes FROM word_phonemes ORDER BY word, pron_order, id").fetchall()
    letters, known = set(LETTERS), set(PHONEMES)
    found: dict[str, dict[str, None]] = {}
    for raw_word, raw_phonemes in rows:
        word, phonemes = normalise_word(raw_word), normalise_phonemes(raw_phonemes)
        symbols = phonemes.split()
        fits = 0 < len(word) <= MAX_SYMBOLS and 0 < len(symbols) <= MAX_SYMBOLS
        if fits and letters.issuperset(word) and known.issuperset(symbols):
            found.setdefault(word, {})[phonemes] = None
    return {word: tuple(variants) for word, variants in found.items()}


@functools.cache
def spellings(language: str) -> dict[str, tuple[str, ...]]:
    """Every first pronunciation's spellings: homophones share one entry, so no split can hold half of them."""
    found: dict[str, list[str]] = {}
    for word, variants in pronunciations(language).items():
        found.setdefault(variants[0], []).append(word)
    return {phonemes: tuple(sorted(words, key=lambda w: order_key("spelling", w))) for phonemes, words in found.items()}
