"""Tokenizers of Hugging Face as SeqIO vocabularies: texts there and back, ids, identity, stores, conversations."""

import json
import pathlib
import pickle
import sys

import numpy as np
import pytest

pytest.importorskip("seqio", reason="SeqIO is not installed")
small = pytest.importorskip("small_tokenizers")

from cat_jax.data import seqio_task  # noqa: E402
from cat_jax.data.chat import ChatTemplate, render_chat  # noqa: E402
from cat_jax.data.fingerprint import vocabulary_fingerprint  # noqa: E402
from cat_jax.data.hugging_face import hugging_face_vocabulary  # noqa: E402
from cat_jax.data.prepare import PrepareConfig, prepare  # noqa: E402
from cat_jax.data.spans import open_encoder  # noqa: E402
from cat_jax.data.store import ExampleStore  # noqa: E402
from cat_jax.errors import UserError  # noqa: E402

HERE = pathlib.Path(__file__).parent
CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] | trim + eos_token + '\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
CONFIG = {
    "eos_token": {"__type": "AddedToken", "content": "<|im_end|>"},
    "bos_token": "<|im_start|>",
    "unk_token": "<|endoftext|>",
    "pad_token": "<|im_end|>",
    "chat_template": CHATML,
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("tokenizers")
    small.save(small.byte_level(), root / "byte_level", **CONFIG)
    for make in (small.unigram, small.byte_fallback, small.word_piece):
        small.save(make(), root / make.__name__)
    (root / "awkward.txt").write_text("\0".join(small.AWKWARD), encoding="utf-8")
    return root


@pytest.fixture(scope="module")
def tasks(folder):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TOKENIZERS", str(folder))
        patch.syspath_prepend(str(HERE))
        seqio_task.load_modules("tokenizer_tasks")
        yield sys.modules["tokenizer_tasks"]


def tokens_of(folder):
    return hugging_face_vocabulary(folder / "byte_level", special="token")


@pytest.mark.parametrize("name", ["byte_level", "byte_fallback"])
def test_every_text_comes_back(folder, name):
    vocabulary = hugging_face_vocabulary(folder / name)
    for text in small.AWKWARD:
        ids = vocabulary.encode(text)
        assert vocabulary.decode([*ids, vocabulary.eos_id, 5, 6]) == text  # up to the end of sequence
        assert not {vocabulary.eos_id, vocabulary.bos_id} & set(ids)


def test_what_a_tokenizer_changes_comes_back_changed(folder):
    unigram = hugging_face_vocabulary(folder / "unigram")
    assert unigram.decode(unigram.encode(" two  spaces")) == "two spaces"
    assert unigram.decode(unigram.encode("caf\u0065\u0301")) == "café"
    word_piece = hugging_face_vocabulary(folder / "word_piece", eos="[SEP]")
    assert word_piece.decode(word_piece.encode("Hello   World\n")) == "hello world"


@pytest.mark.parametrize("name", ["byte_level", "unigram"])
def test_tensorflow_gives_the_same(folder, name):
    import tensorflow as tf

    vocabulary = hugging_face_vocabulary(folder / name)
    expected = [vocabulary.encode(text) for text in small.AWKWARD]
    pipeline = tf.data.Dataset.from_tensor_slices(small.AWKWARD).map(vocabulary.encode_tf, num_parallel_calls=4)
    assert pipeline.element_spec.shape.as_list() == [None]
    assert [ids.tolist() for ids in pipeline.as_numpy_iterator()] == expected
    ragged = vocabulary.encode_tf(tf.constant(small.AWKWARD))
    assert ragged.to_list() == expected
    texts = [vocabulary.decode(ids).encode() for ids in expected]
    assert vocabulary.decode_tf(ragged).numpy().tolist() == texts
    assert vocabulary.decode_tf(tf.constant([*expected[2], vocabulary.eos_id, 9])).numpy() == texts[2]
    assert vocabulary.decode_tf(tf.zeros([2, 0], tf.int32)).numpy().tolist() == [b"", b""]
    assert vocabulary.encode(b"\xff") == vocabulary.encode("\\xff")  # as raw fields show it


def test_special_tokens_that_a_text_spells_out(folder):
    letters, tokens = (hugging_face_vocabulary(folder / "byte_level", special=s) for s in ("text", "token"))
    assert letters.decode(letters.encode("a<|im_end|>b")) == "a<|im_end|>b"
    assert tokens.encode("a<|im_end|>b") == [*tokens.encode("a"), tokens.eos_id, *tokens.encode("b")]
    assert letters == tokens
    assert vocabulary_fingerprint(letters) == vocabulary_fingerprint(tokens)  # ids mean the same


def test_ids_and_chats_are_those_of_transformers(folder):
    theirs_of = pytest.importorskip("transformers", reason="needs the `hf` extra").PreTrainedTokenizerFast
    for name in ("byte_level", "unigram", "byte_fallback"):
        theirs, ours = theirs_of.from_pretrained(folder / name), hugging_face_vocabulary(folder / name, special="token")
        for text in small.AWKWARD:
            ids = theirs(text, add_special_tokens=False)["input_ids"]
            assert ours.encode(text) == ids
            if ours.eos_id not in ids:  # where SeqIO ends
                assert ours.decode(ids) == theirs.decode(ids, skip_special_tokens=True)
    theirs, ours = (
        theirs_of.from_pretrained(folder / "byte_level"),
        ChatTemplate.of(tokens_of(folder), tokens_of(folder)),
    )
    contents = {"system": "be brief ", "user": " naïve?\n", "assistant": " yes "}
    turns = [{"role": role, "content": content} for role, content in contents.items()]
    before, answer = ours.split(turns)
    assert before == theirs.apply_chat_template(turns[:-1], add_generation_prompt=True, tokenize=False)
    assert before + answer + "<|im_end|>\n" == theirs.apply_chat_template(turns, tokenize=False)


def test_ids_from_the_configuration_the_file_or_the_caller(folder, tmp_path):
    def ids(path, **given):
        v = hugging_face_vocabulary(path, **given)
        return v.eos_id, v.bos_id, v.unk_id, v.pad_id

    assert ids(folder / "byte_level") == (2, 1, 0, 2)
    assert ids(folder / "byte_level" / "tokenizer.json") == (2, 1, 0, 2)
    assert ids(folder / "byte_level", eos="<|endoftext|>", pad=None, unk=5) == (0, 1, 5, None)
    assert ids(folder / "unigram") == (1, None, 2, 0)  # eos is what the file puts behind texts
    assert ids(folder / "byte_fallback") == (2, 1, 0, None)
    mapped = small.save(small.byte_level(), tmp_path / "mapped", pad_token="<|not here|>")
    (mapped / "special_tokens_map.json").write_text(json.dumps({"eos_token": {"content": "<|im_end|>"}}))
    assert ids(mapped) == (2, None, None, None)
    alone = tmp_path / "alone.json"  # a file of another name does not go with its neighbours
    small.byte_level().save(str(alone))
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(CONFIG))
    assert ids(alone) == (0, None, None, None)


def test_two_vocabularies_are_one_if_their_files_say_the_same(folder, tmp_path):
    vocabulary = hugging_face_vocabulary(folder / "byte_level")
    content = json.loads((folder / "byte_level" / "tokenizer.json").read_text())
    content |= {"post_processor": None, "truncation": {"max_length": 5}}  # how models are fed
    content["model"]["merges"] = [" ".join(pair) for pair in content["model"]["merges"]]  # as older files have them
    other = tmp_path / "elsewhere"
    other.mkdir()
    (other / "tokenizer.json").write_text(json.dumps(dict(reversed(content.items())), indent=3))
    (other / "tokenizer_config.json").write_text(json.dumps({"eos_token": "<|im_end|>"}))
    same = hugging_face_vocabulary(other)
    again = pickle.loads(pickle.dumps(same))
    for one in (same, again):
        assert one == vocabulary
        assert hash(one) == hash(vocabulary)
        assert vocabulary_fingerprint(one) == vocabulary_fingerprint(vocabulary)
        assert one.encode("hello world " * 9) == vocabulary.encode("hello world " * 9)
    small.save(small.byte_level(merges=59), tmp_path / "less", **CONFIG)
    for different in (
        hugging_face_vocabulary(other, eos="<|endoftext|>"),
        hugging_face_vocabulary(tmp_path / "less"),
        hugging_face_vocabulary(folder / "unigram"),
    ):
        assert different != vocabulary
        assert vocabulary_fingerprint(different) != vocabulary_fingerprint(vocabulary)


def test_what_cannot_be_a_vocabulary(folder, tmp_path):
    (tmp_path / "tokenizer.json").write_text("{")
    (tmp_path / "model.json").write_text('{"model": {"type": "new"}}')
    (tmp_path / "list.json").write_text("[]")
    bare = small.save(small.word_piece(), tmp_path / "bare")
    for path, fields, problem in (
        (folder, {}, f"no tokenizer's file at {folder}/tokenizer.json: give a folder with a tokenizer.json"),
        (tmp_path, {}, "cannot read the tokenizer's file at .*tokenizer.json"),
        (tmp_path / "model.json", {}, "tokenizers cannot read .*model.json"),
        (tmp_path / "list.json", {}, "list.json is no object"),
        (bare, {}, "bare/tokenizer.json names no end-of-sequence token: name it in tokenizer_config.json"),
        (bare, {"eos": "</s>"}, "has no token '</s>', which was asked for as eos"),
        (bare, {"eos": 150}, "eos=150 is no id of .*bare/tokenizer.json, which has 150"),
        (folder / "byte_level", {"special": "drop"}, "special is 'drop': choose one of text, token"),
    ):
        with pytest.raises(UserError, match=problem):
            hugging_face_vocabulary(path, **fields)
    assert hugging_face_vocabulary(bare, eos=None).eos_id is None


def prepared(root, name, **fields):
    lengths = {"inputs": 48, "targets": 64}
    config = {"store_dir": str(root), "mixture_or_task": name, "modules": "tokenizer_tasks", "keep_raw": "all"}
    prepare(PrepareConfig(**{**config, "feature_lengths": lengths, **fields}))
    return ExampleStore.open(root, name, "train")


@pytest.mark.exhaustive
def test_stores_are_the_same_whoever_prepares_them(tasks, tmp_path):
    store = prepared(tmp_path / "one", "awkward")
    feature = store.manifest.features["targets"]
    assert (feature.eos_id, feature.zero_is_token) == (2, True)
    assert {example.raw["targets_pretokenized"] for example in store} == set(small.AWKWARD)
    [spans, _] = open_encoder(tmp_path / "one", feature.vocabulary).encode(small.AWKWARD[3])
    for example in store:
        text = example.raw["targets_pretokenized"]
        assert example.targets.tolist() == [*tasks.LETTERS.encode(text), 2][:64]
        if text == small.AWKWARD[3]:
            np.testing.assert_array_equal(spans.ids, example.targets[:-1])
    there = prepared(tmp_path / "two", "awkward", workers=2)  # in a process of its own
    assert there.fingerprint == store.fingerprint


def test_conversations_are_asked_and_answered(tasks, tmp_path):
    [example] = prepared(tmp_path, "chat")  # the other one spells out an end
    text = "<|im_start|>system\nbe brief<|im_end|>\n<|im_start|>user\nnaïve?<|im_end|>\n<|im_start|>assistant\n"
    assert example.raw["inputs_pretokenized"] == text
    assert example.raw["targets_pretokenized"] == "yes"  # as the template writes it
    assert example.inputs.tolist() == tasks.TOKENS.encode(text)
    assert (example.inputs == 1).sum() == 3
    assert example.targets.tolist() == [*tasks.LETTERS.encode("yes"), 2]
    with pytest.raises(UserError, match=r"a turn spells out '<\|im_end\|>'.* on_special='drop'"):
        prepared(tmp_path / "refused", "chat_refused")
    uneven = (
        r"a conversation has 2 roles and 3 contents, in the row whose first turn is 'u': give each turn one of both"
    )
    with pytest.raises(UserError, match=uneven):
        prepared(tmp_path / "uneven", "chat_uneven")
    with pytest.raises(UserError, match=r"reads the field 'roles', and the rows have inputs, targets: name the fields"):
        prepared(tmp_path / "messages", "chat_of_messages")


def test_conversations_that_no_template_can_split(folder, tasks):
    user, answer = {"role": "user", "content": "u"}, {"role": "assistant", "content": "a"}
    template = ChatTemplate(CHATML, {"eos": "<|im_end|>"}, "<|im_end|>")
    assert template.split([user, answer, user, answer])[1] == "a"
    for turns, problem in (([answer, user], "ends with a turn of 'user', not with"), ([], "has no turn, not with")):
        with pytest.raises(UserError, match=problem):
            template.split(turns)
    for source, problem in (
        ("{% if add_generation_prompt %}x{% else %}y{% endif %}", "in another way once there is the answer"),
        ("{{ raise_exception('no system turn') }}", r"refuses a conversation \(no system turn\)"),
    ):
        with pytest.raises(UserError, match=problem):
            ChatTemplate(source, {}, "z").split([user, answer])
    with pytest.raises(UserError, match="Jinja cannot read the chat template"):
        ChatTemplate("{% if %}", {}, "z")
    marked = "{% generation %}{{ messages[-1].content + 'z' if not add_generation_prompt }}{% endgeneration %}"
    assert ChatTemplate(marked, {}, "z").split([user, answer]) == ("", "a")
    for vocabulary, problem in (
        (hugging_face_vocabulary(folder / "unigram"), "has no chat template"),
        (tasks.LETTERS, r"reads special tokens in a rendered chat as letters: .*special='token'"),
    ):
        with pytest.raises(UserError, match=problem):
            render_chat(None, {name: type("", (), {"vocabulary": vocabulary}) for name in ("inputs", "targets")})


def test_the_bundled_tasks_take_a_tokenizer(folder, monkeypatch):
    from cat_jax_tasks import vocabulary

    for path in (folder / "byte_level", folder / "byte_level" / "tokenizer.json"):
        monkeypatch.setenv("CAT_JAX_VOCABULARY", str(path))
        features = vocabulary.text_features()
        assert features["targets"].vocabulary == hugging_face_vocabulary(folder / "byte_level")
        assert features["targets"].add_eos
    assert vocabulary.vocabulary() is vocabulary.vocabulary()  # read once
