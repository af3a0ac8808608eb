"""A SentencePiece model in a folder has the fingerprint that a store of the same vocabulary has."""

import dataclasses
import json
import logging

import pytest
from foreign_cases import CONFIG, write_folder, write_model

from cat_jax.checkpoint.exported import export_checkpoint
from cat_jax.checkpoint.imported import import_checkpoint
from cat_jax.checkpoint.params import read_model_file, read_vocabularies, write_model_file
from cat_jax.data.fingerprint import is_known_as, vocabulary_fingerprint
from cat_jax.data.hugging_face import hugging_face_vocabulary
from cat_jax.data.tokenizer_files import TOKENIZER
from cat_jax.errors import UserError
from cat_jax.foreign import families, t5
from cat_jax.foreign.tokenizer_files import write_tokenizer
from cat_jax.foreign.vocabulary import (
    SentencePieces,
    byte_names,
    eos_id_of,
    id_count_of,
    names_at,
    read_pieces,
    vocabularies_of,
)
from cat_jax.models.decoder_config import DecoderConfig


def piece(text, kind=1):
    body = bytes([0x0A, len(text)]) + text + b"\x15\x00\x00\x80\x3f" + bytes([0x18, kind])
    return bytes([0x0A, len(body)]) + body


# A serialised ModelProto: its pieces (pad, end, unknown, two words), then the trainer's and the normaliser's settings.
PIECES = piece(b"<pad>", 3) + piece(b"</s>", 3) + piece(b"<unk>", 2) + piece(b"a") + piece("▁b".encode())
MODEL = PIECES + b"\x12\x02\x08\x01" + b"\x1a\x02\x0a\x00"
TOKENS = {"unk": "<unk>", "eos": "</s>", "pad": "<pad>"}


def test_extra_ids_follow_the_pieces(tmp_path):
    (tmp_path / "spiece.model").write_bytes(MODEL)
    found = read_pieces(tmp_path / "spiece.model", 2)
    extra = piece("▁<extra_id_1>".encode(), 4) + piece("▁<extra_id_0>".encode(), 4)
    extra = extra.replace(b"\x15\x00\x00\x80\x3f", b"\x15\x00\x00\x00\x00")
    assert found == SentencePieces(PIECES + extra + MODEL[len(PIECES) :], 7, 1, 2, 2, tokens=TOKENS)
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
    roles = {f"{role}_token": text for role, text in TOKENS.items()}
    assert settings == {"tokenizer_class": "T5Tokenizer", "extra_ids": 0, **roles}  # the model has no room for 100
    summary = import_checkpoint(folder, tmp_path / "imported")
    known = vocabulary_fingerprint(read_pieces(tmp_path / "any.model", 0))
    assert summary["vocabulary"] == known == read_vocabularies(folder)["inputs"]
    assert read_model_file(tmp_path / "imported")[1] == {"inputs": known, "targets": known}
    export_checkpoint(tmp_path / "imported", tmp_path / "again")
    names = {path.name for path in folder.iterdir()}
    assert names == {path.name for path in (tmp_path / "again").iterdir()} >= {"spiece.model", "generation_config.json"}
    with pytest.raises(UserError, match="is no SentencePiece model"):
        export_checkpoint(tmp_path / "model", tmp_path / "none", tokenizer=str(folder / "model.safetensors"))


# As Gemma's: pieces of its own names, of which the trainer's settings tell.
NAMES = {46: b"<bos>", 47: b"<eos>"}
SETTINGS = b"".join(bytes([(n << 3 & 0x7F) | 0x82, n >> 4, len(text)]) + text for n, text in NAMES.items())
GEMMA = piece(b"<pad>", 3) + piece(b"<eos>", 3) + piece(b"<bos>", 3) + piece(b"<unk>", 2) + piece(b"</s>")
GEMMA += bytes([0x12, len(SETTINGS)]) + SETTINGS
DECODER = DecoderConfig(
    vocab_size=700, embed_dim=16, num_heads=2, head_dim=8, mlp_dim=16, num_layers=1, tie_embeddings=True, bos_id=None
)


@pytest.fixture
def written(tmp_path):
    """Writes a decoder's tokenizer; gives its tokenizer_config.json, and leaves the rest in `tmp_path / "out"`."""

    def write(source, model_type="llama", config=DECODER):
        (tmp_path / "out").mkdir(exist_ok=True)
        family = families.of_model_type(model_type, "a folder")
        write_tokenizer(tmp_path / "out", str(source), tmp_path / "none", family, config, model_type)
        return json.loads((tmp_path / "out" / "tokenizer_config.json").read_text())

    return write


def test_the_roles_of_pieces_are_as_its_trainer_named_them(tmp_path, written):
    (tmp_path / "any.model").write_bytes(GEMMA)
    settings = written(tmp_path / "any.model", "gemma2", dataclasses.replace(DECODER, bos_id=2))
    roles = {"eos_token": "<eos>", "bos_token": "<bos>", "unk_token": "<unk>", "pad_token": "<pad>"}
    assert settings == {"tokenizer_class": "GemmaTokenizer", "add_bos_token": True, **roles}
    assert eos_id_of(tmp_path / "out") == 1
    assert written(tmp_path / "any.model")["tokenizer_class"] == "LlamaTokenizer"
    assert written(tmp_path / "any.model")["add_bos_token"] is False  # nothing begins DECODER's examples
    sentencepiece = pytest.importorskip("sentencepiece", reason="compared where sentencepiece is installed")
    processor = sentencepiece.SentencePieceProcessor(model_proto=GEMMA)
    assert (processor.eos_id(), processor.bos_id(), processor.unk_id()) == (1, 2, 3)


def test_the_roles_of_a_tokenizer_json_are_its_own(tmp_path, written):
    small = pytest.importorskip("small_tokenizers")
    tokenizer = small.byte_level()
    size, source = tokenizer.get_vocab_size(), small.save(tokenizer, tmp_path / "source")
    shown = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "<|endoftext|>"}
    assert written(source) == written(source / TOKENIZER) == shown
    assert eos_id_of(tmp_path / "out") == tokenizer.token_to_id("<|endoftext|>") == 0
    with pytest.raises(UserError, match=f"has {size} ids, the model {size - 1}"):
        written(source / TOKENIZER, config=dataclasses.replace(DECODER, vocab_size=size - 1))
    beside = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "<|im_end|>", "model_max_length": 7}
    small.save(tokenizer, source, **beside)
    assert written(source / TOKENIZER) == beside
    assert eos_id_of(tmp_path / "out") == tokenizer.token_to_id("<|im_end|>")
    (tmp_path / "bad.json").write_text('{"architectures": ["T5"]}')
    with pytest.raises(UserError, match=r"bad.json is no tokenizer: it has no model"):
        written(tmp_path / "bad.json")
    transformers = pytest.importorskip("transformers", reason="compared where transformers is installed")
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path / "out")
    assert (len(theirs), theirs.eos_token_id) == (size, tokenizer.token_to_id("<|im_end|>"))


def test_an_export_says_what_ends_a_sequence(tmp_path, caplog):
    """By what the model was trained on, else by the tokenizer that goes with it; where neither tells, it is said."""
    model = write_model(tmp_path / "model", DECODER)
    write_model_file(model, DECODER, {})

    def exported(name, **options):
        export_checkpoint(model, tmp_path / name, **options)
        files = ("config.json", "generation_config.json")
        found = [json.loads((tmp_path / name / file).read_text()).get("eos_token_id") for file in files]
        assert found[0] == found[1]
        return found[0]

    with caplog.at_level(logging.WARNING):
        assert exported("without") is None
    assert [r.getMessage() for r in caplog.records if "name its tokenizer" in r.getMessage()]
    caplog.clear()
    (tmp_path / "any.model").write_bytes(GEMMA)
    assert exported("pieces", tokenizer=str(tmp_path / "any.model")) == 1
    assert exported("bytes", tokenizer="bytes") == 1
    write_model_file(model, DECODER, {}, {"eos_id": 5, "length": 96})
    assert exported("trained", tokenizer="bytes") == 5
    assert json.loads((tmp_path / "trained" / "config.json").read_text())["max_position_embeddings"] == 96
    assert not caplog.records
    assert t5.to_hugging_face(CONFIG, {"eos_token_id": 5})["eos_token_id"] == 5


def test_an_export_with_another_tokenizer_is_told(tmp_path, caplog):
    """Of pieces and of bytes, for a model that has ids enough for either."""
    (tmp_path / "own.model").write_bytes(MODEL)
    (tmp_path / "other.model").write_bytes(GEMMA)
    own = vocabulary_fingerprint(read_pieces(tmp_path / "own.model", 0))
    for known, said in ((own, ["other.model", "bytes"]), (byte_names(700)[125], ["own.model", "other.model"])):
        model = write_model(tmp_path / known, DECODER)
        write_model_file(model, DECODER, {"inputs": known, "targets": known}, {"eos_id": 1, "length": 9})
        with caplog.at_level(logging.WARNING):
            for name in ("own.model", "other.model", "bytes"):
                caplog.clear()
                tokenizer = name if name == "bytes" else str(tmp_path / name)
                export_checkpoint(model, tmp_path / f"{known}.{name}", tokenizer=tokenizer)
                told = [r.getMessage() for r in caplog.records if "see that each id means the same" in r.getMessage()]
                assert len(told) == (name in said), (known, name)
                assert all(known[:12] in text and name in text for text in told)


def test_a_tokenizer_is_its_own_with_and_without_extra_ids_and_whatever_ends_a_sequence(tmp_path):
    """A store's end may be one that the folder does not file as such; T5's sentinels need not be in its vocabulary."""
    (tmp_path / "spiece.model").write_bytes(MODEL)
    found = names_at(tmp_path / "spiece.model")
    expected = [vocabulary_fingerprint(read_pieces(tmp_path / "spiece.model", extra)) for extra in (0, 100)]
    assert found == expected == names_at(tmp_path)
    plain = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    added = [{"id": 3 + i, "content": text, "special": i < 1, **plain} for i, text in enumerate(("<|end|>", "<|no|>"))]
    tokenizer = {"model": {"type": "Unigram", "unk_id": 2, "vocab": [["a", 0.0], ["b", 0.0], ["?", 0.0]]}}
    (tmp_path / "tokenizer.json").write_text(json.dumps({**tokenizer, "added_tokens": added}))
    pytest.importorskip("seqio", reason="compared where SeqIO is installed")
    pytest.importorskip("tokenizers", reason="compared where tokenizers is installed")
    for end, known in (("<|end|>", True), (None, True), ("a", False)):
        name = vocabulary_fingerprint(hugging_face_vocabulary(tmp_path, eos=end))
        assert (name in names_at(tmp_path), name in names_at(tmp_path / "tokenizer.json")) == (known, known)


def test_as_many_ids_as_a_folder_says(tmp_path):
    assert id_count_of(tmp_path) is None
    (tmp_path / "tokenizer_config.json").write_text('{"tokenizer_class": "ByT5Tokenizer", "extra_ids": 125}')
    assert id_count_of(tmp_path) == 384
    (tmp_path / "tokenizer_config.json").write_text('{"tokenizer_class": "ByT5Tokenizer"}')
    assert id_count_of(tmp_path) == 384
    (tmp_path / "tokenizer_config.json").write_text('{"tokenizer_class": "ByT5Tokenizer", "extra_ids": 0}')
    assert id_count_of(tmp_path) == 259
    (tmp_path / "spiece.model").write_bytes(MODEL)
    (tmp_path / "tokenizer_config.json").write_text('{"tokenizer_class": "T5Tokenizer"}')
    assert id_count_of(tmp_path) == read_pieces(tmp_path / "spiece.model", 0).vocab_size + 100


def test_the_vocabularies_of_bytes_are_seqio_s():
    seqio = pytest.importorskip("seqio", reason="compared where SeqIO is installed")
    expected = [vocabulary_fingerprint(seqio.ByteVocabulary(extra)) for extra in (0, 1, 125)]
    found = byte_names(384)
    assert [found[0], found[1], found[125]] == expected
    assert len(found) == 126
    assert byte_names(1000)[126:] == [vocabulary_fingerprint(seqio.ByteVocabulary(1000 - 259))]


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
