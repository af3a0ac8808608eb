"""The tokenizer in a GGUF file, written as a folder of transformers has it; how it cuts texts is stated by hand."""

import json
import logging

import pytest

from cat_jax.checkpoint.exported import export_checkpoint
from cat_jax.checkpoint.imported import import_checkpoint
from cat_jax.checkpoint.params import read_model_file
from cat_jax.data.hugging_face import load_tokenizer
from cat_jax.data.tokenizer_files import read_tokenizer
from cat_jax.errors import UserError
from cat_jax.foreign.gguf_tokenizer import write_tokenizer
from cat_jax.foreign.vocabulary import vocabularies_of
from cat_jax.models.decoder_config import DecoderConfig

TEXT = "I'LL don't  pay 12345!!\n\n x"
BEGIN = ["I", "'LL", "Ġdon", "'t", "Ġ", "Ġpay"]
CUTS = {
    "gpt-2": ["I", "'", "LL", *BEGIN[2:], "Ġ12345", "!!", "ĊĊ", "Ġx"],
    "smollm": ["I", "'", "LL", *BEGIN[2:], "Ġ", *"12345", "!!", "ĊĊ", "Ġx"],
    "llama-bpe": [*BEGIN, "Ġ", "123", "45", "!!ĊĊ", "Ġx"],
    "qwen2": [*BEGIN, "Ġ", *"12345", "!!ĊĊ", "Ġx"],
}
SPECIAL, PLAIN, PADDING = 3, 4, 5


def letters():
    """What stands for each byte."""
    kept = [*range(33, 127), *range(161, 173), *range(174, 256)]
    moved = [byte for byte in range(256) if byte not in kept]
    return [chr(byte) for byte in kept] + [chr(256 + i) for i in range(len(moved))]


MERGES = ["1 2", "12 3", "4 5", "! !", "Ċ Ċ", "!! ĊĊ", "Ġ x", "' t", "L L"]
WORDS = [*letters(), *(merge.replace(" ", "") for merge in MERGES)]
ADDED = ["<s>", "<think>", "<|end|>"]


def metadata_of(pre="qwen2", first=(), **more):
    """A vocabulary: those `first`, a letter for each byte and what is merged of them, what was added, padding."""
    tokens = [*first, *WORDS, *ADDED]
    tokens.append(f"[PAD{len(tokens)}]")
    types = [*[SPECIAL] * len(first), *[1] * len(WORDS), SPECIAL, PLAIN, SPECIAL, PADDING]
    fields = {"model": "gpt2", "pre": pre, "tokens": tokens, "token_type": types, "merges": MERGES}
    fields |= {"bos_token_id": tokens.index("<s>"), "eos_token_id": tokens.index("<|end|>"), **more}
    return {f"tokenizer.ggml.{name}": value for name, value in fields.items()} | {"tokenizer.chat_template": "{{ 1 }}"}


@pytest.fixture
def tokenizer_of(tmp_path):
    """The library's tokenizer of what is written."""
    pytest.importorskip("tokenizers", reason="needs the `tokenizers` extra")

    def made(metadata, special="token"):
        assert write_tokenizer(metadata, tmp_path) is None
        return load_tokenizer(read_tokenizer(tmp_path).content, special, str(tmp_path))

    return made


@pytest.mark.parametrize("pre", CUTS)
def test_texts_are_cut_as_its_name_says(pre, tokenizer_of):
    tokenizer = tokenizer_of(metadata_of(pre))
    assert [piece for piece, _ in tokenizer.pre_tokenizer.pre_tokenize_str(TEXT)] == CUTS[pre]
    ids = tokenizer.encode(TEXT, add_special_tokens=False).ids
    assert tokenizer.decode(ids) == TEXT
    assert (WORDS.index("!!ĊĊ") in ids) == (pre in ("llama-bpe", "qwen2"))
    assert (WORDS.index("123") in ids) == (pre in ("gpt-2", "llama-bpe"))


def test_marks_are_composed_for_qwen_alone(tokenizer_of):
    assert tokenizer_of(metadata_of("qwen2")).decode(tokenizer_of(metadata_of("qwen2")).encode("e\u0301").ids) == "é"
    assert len(tokenizer_of(metadata_of("llama-bpe")).encode("e\u0301").ids) == 3


def test_tokens_that_were_added(tokenizer_of, tmp_path):
    """In front they are part of the vocabulary, behind it they are not; padding is nothing."""
    metadata = metadata_of("smollm", first=("<unk>",), unknown_token_id=0)
    tokens = metadata["tokenizer.ggml.tokens"]
    assert tokenizer_of(metadata).encode("<think>a<|end|><unk>").ids == [
        tokens.index(token) for token in ("<think>", "a", "<|end|>", "<unk>")
    ]
    assert len(tokenizer_of(metadata, "text").encode("<|end|>").ids) == len("<|end|>")
    content = json.loads((tmp_path / "tokenizer.json").read_text())
    assert set(content["model"]["vocab"]) == {"<unk>", *WORDS}
    assert [(t["id"], t["special"]) for t in content["added_tokens"]] == [
        (0, True),
        (len(WORDS) + 1, True),
        (len(WORDS) + 2, False),
        (len(WORDS) + 3, True),
    ]
    files = read_tokenizer(tmp_path)
    assert files.tokens == {"eos": "<|end|>", "bos": "<s>", "unk": "<unk>"}
    assert (files.chat_template, files.special) == ("{{ 1 }}", ("<unk>", "<s>", "<|end|>"))


@pytest.mark.parametrize(
    ("pre", "more", "begins"),
    [("llama-bpe", {}, True), ("llama-bpe", {"add_bos_token": False}, False), ("qwen2", {}, False)],
)
def test_what_transformers_puts_before_a_text(pre, more, begins, tmp_path):
    tokenizers = pytest.importorskip("tokenizers", reason="needs the `tokenizers` extra")
    assert write_tokenizer(metadata_of(pre, **more), tmp_path) is None
    ids = tokenizers.Tokenizer.from_file(str(tmp_path / "tokenizer.json")).encode("ab").ids
    assert ids == [len(WORDS)] * begins + [WORDS.index("a"), WORDS.index("b")]


def test_an_import_keeps_it_and_an_export_hands_it_on(tmp_path, caplog):
    gguf = pytest.importorskip("gguf", reason="needs the `gguf` extra")
    from gguf_cases import tensors_of, write_folder, write_gguf

    metadata = metadata_of("smollm", eot_token_id=len(WORDS))
    config = DecoderConfig(
        vocab_size=len(WORDS) + 4,
        embed_dim=32,
        num_heads=2,
        num_kv_heads=1,
        head_dim=16,
        mlp_dim=32,
        num_layers=1,
        bos_id=None,
    )
    tensors = tensors_of(write_folder(tmp_path / "folder", config))

    def more(writer, **changes):
        for key, value in {**metadata, **changes}.items():
            kind = gguf.GGUFValueType.get_type(value)
            writer.add_key_value(key, value, gguf.GGUFValueType.UINT32 if isinstance(value, int) else kind)
        writer.add_add_bos_token(False)

    write_gguf(tmp_path / "a.gguf", config, tensors, more=more)
    used = len(WORDS) + 3  # all but the row of padding
    with pytest.raises(UserError, match=rf"vocab_size is {used - 1}, and .* has {used} ids: give {used} "):
        import_checkpoint(tmp_path / "a.gguf", tmp_path / "model", vocab_size=used - 1)
    summary = import_checkpoint(tmp_path / "a.gguf", tmp_path / "model")
    kept = tmp_path / "model" / "huggingface"
    known = vocabularies_of(kept)
    assert known["inputs"] == summary["vocabulary"]
    assert len(known["inputs"]) == 3  # the end of texts, the end of turns, none
    assert read_model_file(tmp_path / "model") == read_model_file(tmp_path / "a.gguf") == (config, known)
    assert json.loads((kept / "generation_config.json").read_text()) == {
        "bos_token_id": len(WORDS),
        "eos_token_id": [len(WORDS) + 2, len(WORDS)],
    }
    export_checkpoint(tmp_path / "model", tmp_path / "back")
    for name in ("tokenizer.json", "tokenizer_config.json", "generation_config.json"):
        assert (tmp_path / "back" / name).read_bytes() == (kept / name).read_bytes()
    assert json.loads((tmp_path / "back" / "config.json").read_text())["bos_token_id"] is None  # as it is fed
    assert read_model_file(tmp_path / "back")[0] == config
    for changes, words in (
        ({"tokenizer.ggml.model": "llama"}, "it is of the kind 'llama'"),
        ({"tokenizer.ggml.pre": "tekken"}, "how 'tekken' cuts texts is not known"),
    ):
        write_gguf(tmp_path / "b.gguf", config, tensors, more=lambda w, changes=changes: more(w, **changes))
        with caplog.at_level(logging.WARNING):
            summary = import_checkpoint(tmp_path / "b.gguf", tmp_path / changes.popitem()[1])
        assert summary["vocabulary"] is None
        (line,) = [r.getMessage() for r in caplog.records if "left out" in r.getMessage()]
        assert words in line
        caplog.clear()
