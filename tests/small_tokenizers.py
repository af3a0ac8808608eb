"""Tokenizers of every kind, trained on a few lines when a test asks for them: nothing is downloaded."""

import json

import pytest

tokenizers = pytest.importorskip("tokenizers", reason="needs the `tokenizers` extra")

from tokenizers import decoders, models, normalizers, pre_tokenizers, processors, trainers  # noqa: E402

LINES = [
    "hello world, the quick brown fox jumps over the lazy dog 0123456789",
    "naïve café déjà vu, Ärger über Öl",
    "  leading spaces\n and\n\n newlines\ttabs ",
    "the answer is yes or no, user and assistant",
    "日本語 日本 🙂 🙂🙂",
] * 8
AWKWARD = [
    "",
    " ",
    "hello world",
    " two  leading   runs of spaces ",
    "\nlines\n\n\nand\ttabs\n",
    "emoji 🙂, a family 👩‍👩‍👧, a flag 🇯🇵",
    "combining: e\u0301 o\u0308\u0323, precomposed: é",
    "日本語とEnglish",
    "ends itself <|im_end|> here</s> [SEP]",
    "\u202eright to left\u202c \u00a0\u200b\ufeff",
]
"""Texts that tokenizers get wrong."""


def byte_level(merges=60, specials=("<|endoftext|>", "<|im_start|>", "<|im_end|>")):
    """As SmolLM2's and GPT-2's: every text comes back, byte for byte; id 0 is a special token."""
    tokenizer = tokenizers.Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=True)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    size = len(alphabet) + len(specials) + merges
    trainer = trainers.BpeTrainer(
        vocab_size=size, initial_alphabet=alphabet, special_tokens=list(specials), show_progress=False
    )
    tokenizer.train_from_iterator(LINES, trainer)
    return tokenizer


def unigram(size=140):
    """As T5's and XLM-R's: a marker for spaces, runs of them become one, compatibility forms are unified."""
    tokenizer = tokenizers.Tokenizer(models.Unigram())
    runs = normalizers.Replace(tokenizers.Regex(" {2,}"), " ")
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFKC(), runs])
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    specials = ["<pad>", "</s>", "<unk>"]
    trainer = trainers.UnigramTrainer(vocab_size=size, special_tokens=specials, unk_token="<unk>", show_progress=False)
    tokenizer.train_from_iterator(LINES, trainer)
    return tokenizer


def byte_fallback(merges=50):
    """As Llama's: a space before each text, and bytes for characters that have no token."""
    tokenizer = tokenizers.Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>", fuse_unk=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    parts = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    tokenizer.decoder = decoders.Sequence(parts)
    specials = ["<unk>", "<s>", "</s>", *(f"<0x{i:02X}>" for i in range(256))]
    trainer = trainers.BpeTrainer(
        vocab_size=len(specials) + 60 + merges, special_tokens=specials, limit_alphabet=60, show_progress=False
    )
    tokenizer.train_from_iterator(LINES, trainer)
    content = json.loads(tokenizer.to_str())
    content["added_tokens"] = content["added_tokens"][:3]  # the bytes are tokens of the model
    return tokenizers.Tokenizer.from_str(json.dumps(content))


def word_piece(size=150):
    """As BERT's: lower case, no accents, and no token has a space."""
    tokenizer = tokenizers.Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer, tokenizer.pre_tokenizer = normalizers.BertNormalizer(), pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    trainer = trainers.WordPieceTrainer(
        vocab_size=size, special_tokens=["[PAD]", "[UNK]", "[SEP]"], show_progress=False
    )
    tokenizer.train_from_iterator(LINES, trainer)
    return tokenizer


def save(tokenizer, folder, **config):
    """Writes tokenizer.json, and what is given as tokenizer_config.json; returns the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    if config:
        (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return folder
