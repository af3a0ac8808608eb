"""The files of a Hugging Face tokenizer: `tokenizer.json`, and what lies beside it. Reading them takes no library."""

from __future__ import annotations

import dataclasses
import json
import os
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from cat_jax.errors import UserError
from cat_jax.files import read_json

TOKENIZER = "tokenizer.json"
ROLES = ("eos", "bos", "unk", "pad")
"""What a token may be for beside standing for text."""

NOT_OF_IDS = ("truncation", "padding", "post_processor")
"""Fields of tokenizer.json that say how models are fed."""

_CONFIGS = ("tokenizer_config.json", "special_tokens_map.json")  # the first that names a token counts
_MEND = "give a folder with a tokenizer.json, as `save_pretrained` writes it, or the file itself"
_USUAL = {
    "eos": ("</s>", "<eos>", "[EOS]", "<|eos|>", "<|endoftext|>", "<|end_of_text|>"),
    "bos": ("<s>", "<bos>", "[BOS]", "<|bos|>", "<|begin_of_text|>", "<|startoftext|>"),
    "unk": (),  # the model says it
    "pad": ("<pad>", "[PAD]", "<|pad|>", "<|padding|>"),
}


@dataclasses.dataclass(frozen=True)
class TokenizerFiles:
    """What the files say.

    Attributes:
      path: of tokenizer.json, for messages.
      content: of it, as far as it decides ids and texts: how a model is fed (truncation, padding, what is put around a
        text) is not part of it, and two files of one tokenizer are equal.
      tokens: the text of the token of each role, where the files name one.
      special: the texts of all special tokens.
      chat_template: Jinja's; None if there is none.
    """

    path: str
    content: Mapping[str, Any]
    tokens: Mapping[str, str]
    special: tuple[str, ...]
    chat_template: str | None

    @property
    def ids(self) -> dict[str, int]:
        """{text of a token: its id}."""
        vocabulary = self.content["model"].get("vocab") or {}
        pairs = vocabulary.items() if isinstance(vocabulary, dict) else ((e[0], i) for i, e in enumerate(vocabulary))
        added = self.content.get("added_tokens") or ()
        return {**dict(pairs), **{token["content"]: token["id"] for token in added}}


def whole_json(content: Mapping[str, Any]) -> str:
    """A `TokenizerFiles.content` as the `tokenizers` library reads it."""
    return json.dumps({"version": "1.0", **content, **dict.fromkeys(NOT_OF_IDS)}, ensure_ascii=False)


def is_tokenizer(path: str) -> bool:
    """Whether a path is meant for one of Hugging Face's tokenizers: a folder or a .json file."""
    return path.endswith(".json") or os.path.isdir(path)


def read_tokenizer(path: str | os.PathLike) -> TokenizerFiles:
    """Reads `tokenizer.json`, given itself or by its folder, and the configuration beside a file of that name.

    Raises:
      UserError: there is none, or a file cannot be read; names it.
    """
    file = pathlib.Path(path)
    if file.is_dir():
        file = file / TOKENIZER
    content = _read(file, _MEND)
    if not isinstance(content.get("model"), dict):
        raise UserError(f"{file} is no tokenizer: it has no model", _MEND)
    configs = [_read(file.parent / name, f"take {name} away, or mend it") for name in _present(file)]
    special = [token["content"] for token in content.get("added_tokens") or () if token.get("special")]
    tokens = {}
    for role in ROLES:
        named = [config.get(f"{role}_token") for config in configs]
        named = [token["content"] if isinstance(token, dict) else token for token in named]
        found = next((token for token in named if isinstance(token, str)), None) or _in_content(content, role, special)
        if found is not None:
            tokens[role] = found
    kept = {name: value for name, value in content.items() if name not in ("version", *NOT_OF_IDS)}
    kept["model"] = _with_pairs(kept["model"])
    return TokenizerFiles(str(file), kept, tokens, tuple(special), _chat_template(file, configs))


def _present(file: pathlib.Path) -> list[str]:
    """The configurations that lie beside a tokenizer.json; a file of another name may be one of several."""
    return [name for name in _CONFIGS if (file.parent / name).is_file()] if file.name == TOKENIZER else []


def _read(file: pathlib.Path, mend: str) -> dict[str, Any]:
    content = read_json(file, "tokenizer's file", mend)
    if not isinstance(content, dict):
        raise UserError(f"{file} is no object with fields", mend)
    return content


def _with_pairs(model: Mapping[str, Any]) -> dict[str, Any]:
    """Merges were written as "a b" before they were written as ["a", "b"]."""
    merges = model.get("merges")
    if not merges:
        return dict(model)
    return {**model, "merges": [m.split(" ", 1) if isinstance(m, str) else list(m) for m in merges]}


def _in_content(content: Mapping[str, Any], role: str, special: Sequence[str]) -> str | None:
    """The token of a role as tokenizer.json itself lets one see it, if it does."""
    if role == "unk":
        model = content["model"]
        if isinstance(model.get("unk_id"), int):  # of a Unigram model, whose vocabulary is a list
            return model["vocab"][model["unk_id"]][0]
        return model.get("unk_token")
    if role == "pad" and content.get("padding"):
        return content["padding"].get("pad_token")
    around = list(_put_around(content.get("post_processor")))
    if role == "eos" and around and around[-1] is not None:
        return around[-1]
    usual = [token for token in _USUAL[role] if token in special]
    return usual[0] if len(usual) == 1 else None


def _put_around(processor: Any) -> Iterator[str | None]:
    """The special tokens that are put around a single text, None where the text stands."""
    kind = processor.get("type") if isinstance(processor, dict) else None
    if kind == "Sequence":
        for part in processor.get("processors", ()):
            yield from _put_around(part)
    elif kind == "TemplateProcessing":
        for part in processor.get("single", ()):
            yield part["SpecialToken"]["id"] if "SpecialToken" in part else None


def _chat_template(file: pathlib.Path, configs: Sequence[Mapping[str, Any]]) -> str | None:
    """The template in chat_template.jinja, or in the configuration; of several the one called default."""
    beside = file.parent / "chat_template.jinja"
    if file.name == TOKENIZER and beside.is_file():
        try:
            return beside.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as e:
            raise UserError(f"cannot read {beside} ({e})", "take it away, or mend it") from e
    found = next((config["chat_template"] for config in configs if config.get("chat_template")), None)
    if isinstance(found, list):
        found = {entry.get("name"): entry.get("template") for entry in found}.get("default")
    return found if isinstance(found, str) else None
