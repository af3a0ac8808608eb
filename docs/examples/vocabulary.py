"""Trains a SentencePiece vocabulary of 4096 pieces on the lines of standard input: `python vocabulary.py out.model`."""

import io
import pathlib
import sys

import sentencepiece

model = io.BytesIO()
sentencepiece.SentencePieceTrainer.train(
    sentence_iterator=(line.rstrip("\n") for line in sys.stdin),
    model_writer=model,
    vocab_size=4096,
    # T5's ids: SeqIO and cat-jax take 0 for padding.
    pad_id=0,
    eos_id=1,
    unk_id=2,
    bos_id=-1,
    num_threads=1,  # the same vocabulary every time
    minloglevel=2,
)
pathlib.Path(sys.argv[1]).write_bytes(model.getvalue())
