"""The tokenizer in a folder that is exported: the files that came with the model, or are named."""

from __future__ import annotations

import logging
import pathlib
import shutil
from collections.abc import Mapping
from typing import Any

from cat_jax.data.fingerprint import Known, in_short, names_of
from cat_jax.data.tokenizer_files import TOKENIZER, read_tokenizer
from cat_jax.errors import UserError
from cat_jax.files import write_json
from cat_jax.foreign.families import ForeignFamily
from cat_jax.foreign.hugging_face import TOKENIZER_FILES
from cat_jax.foreign.vocabulary import BYTE_EXTRA_IDS, BYTE_IDS, byte_names, names_at, read_pieces
from cat_jax.types import ModelConfig

logger = logging.getLogger(__name__)

BYTES = "bytes"
_CONFIG = "tokenizer_config.json"
_BESIDE = (_CONFIG, "special_tokens_map.json", "chat_template.jinja")
_MEND = "name a SentencePiece model, a tokenizer.json, or a folder with one; 'bytes' for ByT5's"


def write_tokenizer(
    folder: pathlib.Path,
    named: str | None,
    kept: pathlib.Path,
    family: ForeignFamily,
    config: ModelConfig,
    model_type: str,
) -> list[str]:
    """Writes a tokenizer's files; returns their names.

    Args:
      folder: where to.
      named: what the user has named; None takes the files in `kept` as they are, if there are any.
      kept: the files that the model was imported with.
      family: of the model.
      config: of the model, which must have ids enough.
      model_type: of the config.json that is written.

    Raises:
      UserError: `named` is no tokenizer, or has more ids than the model.
    """
    vocab_size = config.vocab_size
    if named == BYTES:
        _check_size(BYTES, BYTE_IDS, vocab_size)
        extra = min(BYTE_EXTRA_IDS, vocab_size - BYTE_IDS)
        return _configure(folder, {"tokenizer_class": "ByT5Tokenizer", "extra_ids": extra})
    if named is None:
        return _copy(kept, folder, TOKENIZER_FILES)
    source = pathlib.Path(named)
    if not source.exists():
        raise UserError(f"no tokenizer at {source}", _MEND)
    if source.suffix == ".json" or (source / TOKENIZER).is_file():
        return _write_json(folder, source, vocab_size)
    if source.is_dir():
        files = _copy(source, folder, TOKENIZER_FILES)
        if not files:
            raise UserError(f"{source} has no tokenizer", _MEND)
        return files
    pieces = read_pieces(source, 0)
    if pieces is None:
        raise UserError(f"{source} is no SentencePiece model", _MEND)
    _check_size(str(source), pieces.vocab_size, vocab_size)
    shutil.copyfile(source, folder / family.tokenizer_file)
    extra = family.extra_ids if pieces.vocab_size + family.extra_ids <= vocab_size else 0
    kind = family.tokenizer_classes.get(model_type, family.tokenizer_class)
    fields = {"tokenizer_class": kind, **_named(pieces.tokens), **({"extra_ids": extra} if family.extra_ids else {})}
    if config.prompt == "prefix":  # else it would put one before texts of a model that nothing begins
        fields["add_bos_token"] = getattr(config, "bos_id", None) is not None
    return [family.tokenizer_file, *_configure(folder, fields)]


def warn_of_another(
    named: str, config: ModelConfig, vocabularies: Mapping[str, Known], model_dir: pathlib.Path
) -> None:
    """Warns where a tokenizer is not known to be the model's: one vocabulary may be in files of several forms.

    Args:
      named: what the user has named, which `write_tokenizer` has taken.
      config: of the model.
      vocabularies: {feature: fingerprint} of the model; empty if it is not known.
      model_dir: of the model.
    """
    here = set(byte_names(config.vocab_size) if named == BYTES else names_at(pathlib.Path(named)))
    others = [(feature, known) for feature, known in vocabularies.items() if not here & set(names_of(known))]
    if others:
        feature, known = others[0]
        logger.warning(
            "the tokenizer %s is not the vocabulary %s that the %s of %s are of, or is in another form: see that each "
            "id means the same",
            named,
            in_short(known),
            feature,
            model_dir,
        )


def _copy(source: pathlib.Path, folder: pathlib.Path, names: tuple[str, ...]) -> list[str]:
    """Copies those that are there; returns their names."""
    found = [name for name in names if (source / name).is_file()]
    for name in found:
        shutil.copyfile(source / name, folder / name)
    return found


def _write_json(folder: pathlib.Path, source: pathlib.Path, vocab_size: int) -> list[str]:
    """A tokenizer.json, given itself or by its folder, and what is beside it; its configuration where there is none."""
    files = read_tokenizer(source)
    ids = files.ids
    if not ids:
        raise UserError(f"{source} is no tokenizer: it has no tokens", _MEND)
    _check_size(str(source), max(ids.values()) + 1, vocab_size)
    if source.is_dir():
        written = _copy(source, folder, TOKENIZER_FILES)
    else:
        shutil.copyfile(source, folder / TOKENIZER)
        written = [TOKENIZER, *(_copy(source.parent, folder, _BESIDE) if source.name == TOKENIZER else [])]
    if _CONFIG in written:
        return written
    roles = {role: text for role, text in files.tokens.items() if text in ids}  # another would be a token more
    return [*written, *_configure(folder, {"tokenizer_class": "PreTrainedTokenizerFast", **_named(roles)})]


def _named(tokens: Mapping[str, str]) -> dict[str, str]:
    return {f"{role}_token": text for role, text in tokens.items()}


def _configure(folder: pathlib.Path, fields: dict[str, Any]) -> list[str]:
    write_json(folder / _CONFIG, fields)
    return [_CONFIG]


def _check_size(label: str, ids: int, vocab_size: int) -> None:
    if ids > vocab_size:
        raise UserError(f"the tokenizer {label} has {ids} ids, the model {vocab_size}", "name the model's own")
