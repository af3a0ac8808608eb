"""Chat templates: where an answer ends, what its vocabulary would spell, what templates are given."""

import pytest

pytest.importorskip("seqio", reason="SeqIO is not installed")
small = pytest.importorskip("small_tokenizers")

from cat_jax.data.chat import ChatTemplate  # noqa: E402
from cat_jax.data.hugging_face import hugging_face_vocabulary  # noqa: E402
from cat_jax.errors import UserError  # noqa: E402

TURNS = [{"role": "user", "content": "well?"}, {"role": "assistant", "content": "yes"}]
GEMMA = (
    "{{ bos_token }}{% for m in messages %}"
    "{{ '<|im_start|>' + m['role'] + '\n' + m['content'] | trim + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
"""Ends turns with another token than the files name, and begins as the model would."""


@pytest.fixture(scope="module")
def vocabulary(tmp_path_factory):
    """(**options) -> the vocabulary of a tokenizer that files `<|endoftext|>`."""
    path = small.save(
        small.byte_level(),
        tmp_path_factory.mktemp("gemma"),
        eos_token="<|endoftext|>",
        bos_token="<|im_start|>",
        chat_template=GEMMA,
    )
    return lambda **options: hugging_face_vocabulary(path, **options)


def test_an_answer_ends_where_the_targets_do(vocabulary):
    inputs, targets = vocabulary(special="token"), vocabulary(eos="<|im_end|>")
    before, answer = ChatTemplate.of(inputs, targets).split(TURNS)
    assert answer == "yes"
    assert before.startswith("<|im_start|><|im_start|>user")
    with pytest.raises(UserError, match=r"'yes<\|im_end\|>\\n', without '<\|endoftext\|>'.*eos='<\|im_end\|>'\)"):
        ChatTemplate.of(inputs, vocabulary()).split(TURNS)
    with pytest.raises(UserError, match=r"^the vocabulary of the targets, .* has no end of sequence: give the targets"):
        ChatTemplate.of(inputs, vocabulary(eos=None))
    with pytest.raises(UserError, match=r"'yes', without '<\|im_end\|>'.* eos='...'"):
        ChatTemplate.of(inputs, targets, "{% if not add_generation_prompt %}{{ 'yes' }}{% endif %}").split(TURNS)


def test_what_is_written_in_an_answer_is_not_spelled(vocabulary):
    """As by a template that ends a turn and then the conversation."""
    template = GEMMA.replace("{% if add_", "{% if not add_generation_prompt %}{{ eos_token }}{% endif %}{% if add_")
    inputs = vocabulary(special="token")
    with pytest.raises(
        UserError, match=r"writes '<\|im_end\|>' in an answer, before '<\|endoftext\|>'.*'<\|im_end\|>'\)"
    ):
        ChatTemplate.of(inputs, vocabulary(), template).split(TURNS)
    assert ChatTemplate.of(inputs, inputs, template).split(TURNS)[1] == "yes<|im_end|>\n"
    assert ChatTemplate.of(inputs, vocabulary(eos="<|im_end|>"), template).split(TURNS)[1] == "yes"


def test_an_answer_that_spells_a_token_is_seen(vocabulary):
    chat = ChatTemplate.of(vocabulary(special="token"), vocabulary(eos="<|im_end|>"))
    turns = [TURNS[0], {"role": "assistant", "content": "it is <|endoftext|>"}]
    assert (chat.spelled_out(TURNS), chat.spelled_out(turns)) == (None, "<|endoftext|>")
    assert chat.split(turns)[1] == "it is <|endoftext|>"  # for those who keep it


def test_templates_are_given_what_transformers_gives(vocabulary):
    given = "{% if tools is not none %}tools{% endif %}{% if documents is not none %}documents{% endif %}"
    inputs, targets = vocabulary(special="token"), vocabulary(eos="<|im_end|>")
    assert ChatTemplate.of(inputs, targets, given + GEMMA).split(TURNS)[0].startswith("<|im_start|>")
