"""The tokenizer in a GGUF file's metadata as the `tokenizer.json` that it was made from.

A file has tokens and merges, and names how texts are cut before they are merged (`tokenizer.ggml.pre`). Those names are
read here for which the cuts are known exactly; what would be cut nearly right is not written.
"""

from __future__ import annotations

import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from cat_jax.files import write_json

_CONTROL, _USER_DEFINED, _UNUSED = 3, 4, 5
_BEGINNING = (
    *("llama-bpe", "llama3", "llama-v3", "falcon3", "falcon-h1", "pixtral", "midm-2.0", "lfm2", "jina-v5-nano"),
    "tekken",
)
"""Names of `tokenizer.ggml.pre` with which llama.cpp puts a beginning before texts of files that do not say."""

_GPT2 = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
_DECODER = {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True}


def _split(digits: str, trim: bool) -> dict[str, Any]:
    """Llama 3's cuts, with runs of so many digits."""
    pattern = (
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|"
        + digits
        + r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
    )
    cut = {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}
    letters = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": trim, "use_regex": False}
    return {"type": "Sequence", "pretokenizers": [cut, letters]}


def _gpt2() -> dict[str, Any]:
    return {"pre_tokenizer": _GPT2}


def _smollm() -> dict[str, Any]:
    digits = {"type": "Digits", "individual_digits": True}
    return {"pre_tokenizer": {"type": "Sequence", "pretokenizers": [digits, _GPT2]}}


def _llama3() -> dict[str, Any]:
    return {"pre_tokenizer": _split(r"\p{N}{1,3}", True), "model": {"ignore_merges": True}}


def _qwen2() -> dict[str, Any]:
    around = {"continuing_subword_prefix": "", "end_of_word_suffix": ""}
    return {"normalizer": {"type": "NFC"}, "pre_tokenizer": _split(r"\p{N}", False), "model": around}


_CUTS: dict[str, Callable[[], dict[str, Any]]] = {
    "gpt-2": _gpt2,
    "smollm": _smollm,
    **dict.fromkeys(("llama-bpe", "llama3", "llama-v3"), _llama3),
    "qwen2": _qwen2,
}


def bos_id_of(metadata: Mapping[str, Any]) -> int | None:
    """The id that the tokenizer puts before a text; None if it puts none.

    A file that does not say (`add_bos_token`) is read as llama.cpp reads it: SentencePiece's tokenizers put one, of
    others those in `_BEGINNING` alone.
    """
    by_itself = metadata.get("tokenizer.ggml.model") == "llama" or metadata.get("tokenizer.ggml.pre") in _BEGINNING
    stands = metadata.get("tokenizer.ggml.add_bos_token", by_itself)
    return metadata.get("tokenizer.ggml.bos_token_id") if stands else None


def id_count_of(metadata: Mapping[str, Any]) -> int | None:
    """How many ids the tokenizer gives a meaning; None where there is no tokenizer."""
    tokens = metadata.get("tokenizer.ggml.tokens") or ()
    padding = _padding(tokens, _types(metadata))
    return max((i + 1 for i in range(len(tokens)) if i not in padding), default=None)


def write_tokenizer(metadata: Mapping[str, Any], folder: pathlib.Path) -> str | None:
    """Writes tokenizer.json and tokenizer_config.json; returns why not, if not.

    Args:
      metadata: of the file.
      folder: where to.

    Raises:
      UserError: the disk is full or read-only.
    """
    kind, cuts = metadata.get("tokenizer.ggml.model"), metadata.get("tokenizer.ggml.pre")
    tokens, merges = metadata.get("tokenizer.ggml.tokens"), metadata.get("tokenizer.ggml.merges")
    if kind is None or not tokens:
        return "there is none"
    if kind != "gpt2" or not merges:
        return f"it is of the kind {kind!r}, and only gpt2's with merges is written; copy the model's own beside it"
    if cuts not in _CUTS:
        return (
            f"how {cuts!r} cuts texts is not known here (what is: {', '.join(_CUTS)}); copy the model's own beside it"
        )
    write_json(folder / "tokenizer.json", _tokenizer(metadata, tokens, merges, _CUTS[cuts]()))
    write_json(folder / "tokenizer_config.json", _configuration(metadata, tokens))
    return None


def _tokenizer(
    metadata: Mapping[str, Any], tokens: Sequence[str], merges: Sequence[str], cuts: Mapping[str, Any]
) -> dict[str, Any]:
    types = _types(metadata)
    added = dict.fromkeys(i for i, kind in enumerate(types) if kind in (_CONTROL, _USER_DEFINED))
    # Tokens added to a finished vocabulary are no part of it.
    unused = _padding(tokens, types)
    end = max((i + 1 for i in range(len(tokens)) if i not in unused and i not in added), default=0)
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [_added(i, tokens[i], types[i] == _CONTROL) for i in added],
        "normalizer": cuts.get("normalizer"),
        "pre_tokenizer": cuts["pre_tokenizer"],
        "post_processor": _post_processor(metadata, tokens),
        "decoder": _DECODER,
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": False,
            **cuts.get("model", {}),
            "vocab": {tokens[i]: i for i in range(end) if i not in unused},
            "merges": [merge.split(" ", 1) for merge in merges],
        },
    }


def _types(metadata: Mapping[str, Any]) -> Sequence[int]:
    return metadata.get("tokenizer.ggml.token_type") or [1] * len(metadata.get("tokenizer.ggml.tokens") or ())


def _padding(tokens: Sequence[str], types: Sequence[int]) -> set[int]:
    """Rows of padding, whose tokens no tokenizer has."""
    return {i for i, kind in enumerate(types) if kind == _UNUSED and tokens[i] == f"[PAD{i}]"}


def _added(number: int, text: str, special: bool) -> dict[str, Any]:
    shape = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    return {"id": number, "content": text, **shape, "special": special}


def _post_processor(metadata: Mapping[str, Any], tokens: Sequence[str]) -> dict[str, Any] | None:
    """What `transformers` puts before a text."""
    first = bos_id_of(metadata)
    if first is None:
        return None
    begin = {"SpecialToken": {"id": tokens[first], "type_id": 0}}
    text = lambda name, number: {"Sequence": {"id": name, "type_id": number}}  # noqa: E731
    second = {"SpecialToken": {"id": tokens[first], "type_id": 1}}
    known = {tokens[first]: {"id": tokens[first], "ids": [first], "tokens": [tokens[first]]}}
    return {
        "type": "TemplateProcessing",
        "single": [begin, text("A", 0)],
        "pair": [begin, text("A", 0), second, text("B", 1)],
        "special_tokens": known,
    }


def _configuration(metadata: Mapping[str, Any], tokens: Sequence[str]) -> dict[str, Any]:
    found: dict[str, Any] = {"tokenizer_class": "PreTrainedTokenizerFast", "add_prefix_space": False}
    for role, name in {"bos": "bos", "eos": "eos", "unk": "unknown", "pad": "padding"}.items():
        number = metadata.get(f"tokenizer.ggml.{name}_token_id")
        if number is not None and 0 <= number < len(tokens):
            found[f"{role}_token"] = tokens[number]
    if isinstance(metadata.get("tokenizer.chat_template"), str):
        found["chat_template"] = metadata["tokenizer.chat_template"]
    return found
