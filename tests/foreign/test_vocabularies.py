"""A SentencePiece model in a folder has the fingerprint that a store of the same vocabulary has."""

import json
import shutil

import pytest
from foreign_cases import write_folder

from cat_jax.checkpoint.exported import export_checkpoint
from cat_jax.checkpoint.imported import import_checkpoint
from cat_jax.checkpoint.params import read_model_file, read_vocabularies
from cat_jax.data.fingerprint import is_known_as, vocabulary_fingerprint
from cat_jax.data.hugging_face import hugging_face_vocabulary
from cat_jax.errors import UserError
from cat_jax.foreign.vocabulary import SentencePieces, read_pieces, vocabularies_of


def piece(text, kind=1):
    body = bytes([0x0A, len(text)]) + text + b"\x15\x00\x00\x80\x3f" + bytes([0x18, kind])
    return bytes([0x0A, len(body)]) + body


# A serialised ModelProto: its pieces (pad, end, unknown, two words), then the trainer's and the normaliser's settings.
PIECES = piece(b"<pad>", 3) + piece(b"</s>", 3) + piece(b"<unk>", 2) + piece(b"a") + piece("▁b".encode())
MODEL = PIECES + b"\x12\x03\x08\x01\x10" + b"\x1a\x02\x0a\x00"


def test_extra_ids_follow_the_pieces(tmp_path):
    (tmp_path / "spiece.model").write_bytes(MODEL)
    found = read_pieces(tmp_path / "spiece.model", 2)
    extra = piece("▁<extra_id_1>".encode(), 4) + piece("▁<extra_id_0>".encode(), 4)
    extra = extra.replace(b"\x15\x00\x00\x80\x3f", b"\x15\x00\x00\x00\x00")
    assert found == SentencePieces(PIECES + extra + MODEL[len(PIECES) :], 7, 1, 2, 2)
    for content in (b"", b"nothing of it", MODEL[:20], b"\x0a"):
        (tmp_path / "other").write_bytes(content)
        assert read_pieces(tmp_path / "other", 0) is None


@pytest.mark.parametrize(
    ("settings", "extra"),
    [({"extra_ids": 3}, 3), ({"tokenizer_class": "T5Tokenizer"}, 100), ({"tokenizer_class": "Other"}, 0), (None, 0)],
)
def test_a_folder_says_how_many(settings, extra, tmp_path):
    assert vocabularies_of(tmp_path) == {}
    (tmp_path / "spiece.model").write_bytes(MODEL)
    if settings is not None:
        (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings))
    expected = vocabulary_fingerprint(read_pieces(tmp_path / "spiece.model", extra))
    assert vocabularies_of(tmp_path) == {"inputs": expected, "targets": expected}


def test_a_model_keeps_its_tokenizer(tmp_path):
    """In and out again; a model without one is given one."""
    (tmp_path / "any.model").write_bytes(MODEL)
    folder = write_folder(tmp_path, tokenizer=str(tmp_path / "any.model"))
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    assert settings == {"tokenizer_class": "T5Tokenizer", "extra_ids": 0}  # the model has no room for 100
    summary = import_checkpoint(folder, tmp_path / "imported")
    known = vocabulary_fingerprint(read_pieces(tmp_path / "any.model", 0))
    assert summary["vocabulary"] == known == read_vocabularies(folder)["inputs"]
    assert read_model_file(tmp_path / "imported")[1] == {"inputs": known, "targets": known}
    export_checkpoint(tmp_path / "imported", tmp_path / "again")
    names = {path.name for path in folder.iterdir()}
    assert names == {path.name for path in (tmp_path / "again").iterdir()} >= {"spiece.model", "generation_config.json"}
    shutil.copyfile(folder / "config.json", tmp_path / "tokenizer.json")
    export_checkpoint(tmp_path / "model", tmp_path / "json", tokenizer=str(tmp_path / "tokenizer.json"))
    assert json.loads((tmp_path / "json" / "tokenizer_config.json").read_text())["eos_token"] == "</s>"
    with pytest.raises(UserError, match="is no SentencePiece model"):
        export_checkpoint(tmp_path / "model", tmp_path / "none", tokenizer=str(folder / "model.safetensors"))


def test_the_vocabulary_of_t5_is_that_of_seqio(fixtures):
    seqio = pytest.importorskip("seqio", reason="compared where SeqIO is installed")
    path = fixtures.parent / "tokenizers" / "t5_spiece.model"
    for extra in (0, 100):
        expected = vocabulary_fingerprint(seqio.SentencePieceVocabulary(str(path), extra))
        assert vocabulary_fingerprint(read_pieces(path, extra)) == expected


def test_a_tokenizer_is_known_in_every_form(tmp_path):
    """By its SentencePiece model and its tokenizer.json, and by every id that may end a sequence."""
    folder = write_folder(tmp_path)
    (folder / "spiece.model").write_bytes(MODEL)
    vocabulary = [["<pad>", 0.0], ["</s>", 0.0], ["<unk>", 0.0], ["a", -1.0], ["b", -2.0]]
    plain = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    added = [{"id": 5, "content": "<|end|>", "special": True, **plain}]
    tokenizer = {"model": {"type": "Unigram", "unk_id": 2, "vocab": vocabulary}, "added_tokens": added}
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    (folder / "tokenizer_config.json").write_text(json.dumps({"eos_token": "</s>"}))
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": [1, 5]}))
    known = read_vocabularies(folder)["targets"]
    assert known == read_vocabularies(folder)["inputs"]
    assert len(known) == 4
    assert is_known_as(known, vocabulary_fingerprint(read_pieces(folder / "spiece.model", 0)))
    import_checkpoint(folder, tmp_path / "imported")
    assert read_model_file(tmp_path / "imported")[1]["inputs"] == known
    pytest.importorskip("seqio", reason="compared where SeqIO is installed")
    pytest.importorskip("tokenizers", reason="compared where tokenizers is installed")
    for end in ("</s>", "<|end|>", None):
        assert is_known_as(known, vocabulary_fingerprint(hugging_face_vocabulary(folder, eos=end)))
    assert not is_known_as(known, vocabulary_fingerprint(hugging_face_vocabulary(folder, eos="a")))
    added[0]["content"] = "<|other|>"
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    assert not is_known_as(known, vocabulary_fingerprint(hugging_face_vocabulary(folder)))
