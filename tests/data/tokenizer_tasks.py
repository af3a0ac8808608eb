"""SeqIO tasks over tokenizers that lie where TOKENIZERS says: one plain, one of conversations."""

import functools
import os
import pathlib

import seqio
import tensorflow as tf

from cat_jax.data.chat import render_chat
from cat_jax.data.hugging_face import hugging_face_vocabulary

FOLDER = pathlib.Path(os.environ["TOKENIZERS"])
LETTERS, TOKENS = (hugging_face_vocabulary(FOLDER / "byte_level", special=special) for special in ("text", "token"))
AWKWARD = (FOLDER / "awkward.txt").read_text(encoding="utf-8").split("\0")


def rows(split, shuffle_files, seed=None):
    return tf.data.Dataset.from_tensor_slices({"inputs": [f"row {k}" for k in range(len(AWKWARD))], "targets": AWKWARD})


def chats(split, shuffle_files, seed=None):
    roles = ["system", "user", "assistant"]
    contents = [["be brief", "naïve?", " yes "], ["s", "u<|im_end|>", ""]]
    return tf.data.Dataset.from_tensor_slices({"roles": [roles, roles], "contents": contents})


def uneven(split, shuffle_files, seed=None):
    return tf.data.Dataset.from_tensors({"roles": ["user", "assistant"], "contents": ["u", "a", "b"]})


def add(name, source, *steps, features, count):
    seqio.TaskRegistry.add(
        name,
        source=seqio.FunctionDataSource(source, ["train"], num_input_examples={"train": count}),
        preprocessors=[*steps, seqio.preprocessors.tokenize, seqio.preprocessors.append_eos],
        output_features=features,
    )


FEATURES = {"inputs": seqio.Feature(LETTERS, add_eos=True), "targets": seqio.Feature(LETTERS, add_eos=True)}
CHAT = {"inputs": seqio.Feature(TOKENS, add_eos=False), "targets": seqio.Feature(LETTERS, add_eos=True)}
add("awkward", rows, features=FEATURES, count=len(AWKWARD))
add("chat", chats, functools.partial(render_chat, on_special="drop"), features=CHAT, count=2)
add("chat_refused", chats, render_chat, features=CHAT, count=2)
add("chat_uneven", uneven, render_chat, features=CHAT, count=1)
add("chat_of_messages", rows, render_chat, features=CHAT, count=1)
