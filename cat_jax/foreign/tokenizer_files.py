"""The tokenizer in a folder that is exported: the files that came with the model, or are named."""

from __future__ import annotations

import pathlib
import shutil
from typing import Any

from cat_jax.errors import UserError
from cat_jax.files import write_json
from cat_jax.foreign.families import ForeignFamily
from cat_jax.foreign.hugging_face import TOKENIZER_FILES
from cat_jax.foreign.vocabulary import read_pieces

BYTES = "bytes"
_MEND = "name a SentencePiece model, a tokenizer.json, or a folder with one; 'bytes' for ByT5's"
_BYTE_IDS, _BYTE_EXTRA_IDS = 259, 125


def write_tokenizer(
    folder: pathlib.Path, named: str | None, kept: pathlib.Path, family: ForeignFamily, vocab_size: int
) -> list[str]:
    """Writes a tokenizer's files; returns their names.

    Args:
      folder: where to.
      named: what the user has named; None takes the files in `kept`, if there are any.
      kept: the files that the model was imported with.
      family: of the model.
      vocab_size: token ids of the model, which must be enough.

    Raises:
      UserError: `named` is no tokenizer, or has more ids than the model.
    """
    if named == BYTES:
        _check_size(BYTES, _BYTE_IDS, vocab_size)
        extra = min(_BYTE_EXTRA_IDS, vocab_size - _BYTE_IDS)
        return _configure(folder, {"tokenizer_class": "ByT5Tokenizer", "extra_ids": extra})
    source = kept if named is None else pathlib.Path(named)
    if source.is_dir():
        files = [name for name in TOKENIZER_FILES if (source / name).is_file()]
        if named is not None and not files:
            raise UserError(f"{source} has no tokenizer", _MEND)
        for name in files:
            shutil.copyfile(source / name, folder / name)
        return files
    if named is None:
        return []
    if not source.is_file():
        raise UserError(f"no tokenizer at {source}", _MEND)
    if source.suffix == ".json":
        shutil.copyfile(source, folder / "tokenizer.json")
        special = {"eos_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>"}
        return ["tokenizer.json", *_configure(folder, {"tokenizer_class": "PreTrainedTokenizerFast", **special})]
    pieces = read_pieces(source, 0)
    if pieces is None:
        raise UserError(f"{source} is no SentencePiece model", _MEND)
    _check_size(str(source), pieces.vocab_size, vocab_size)
    shutil.copyfile(source, folder / family.tokenizer_file)
    extra = family.extra_ids if pieces.vocab_size + family.extra_ids <= vocab_size else 0
    fields = {"tokenizer_class": family.tokenizer_class, **({"extra_ids": extra} if family.extra_ids else {})}
    return [family.tokenizer_file, *_configure(folder, fields)]


def _configure(folder: pathlib.Path, fields: dict[str, Any]) -> list[str]:
    write_json(folder / "tokenizer_config.json", fields)
    return ["tokenizer_config.json"]


def _check_size(label: str, ids: int, vocab_size: int) -> None:
    if ids > vocab_size:
        raise UserError(f"the tokenizer {label} has {ids} ids, the model {vocab_size}", "name the model's own")
