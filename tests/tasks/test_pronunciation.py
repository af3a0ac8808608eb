"""The demo's tasks on the lexicons that the `demo` extra installs."""

import doctest

import pytest

seqio = pytest.importorskip("seqio", reason="needs the `data` extra")
for language in ("en", "de", "fr"):
    pytest.importorskip(f"gruut_lang_{language}", reason="needs the `demo` extra")

import tensorflow as tf  # noqa: E402
from cat_jax_tasks import lexicon, pronunciation  # noqa: E402
from cat_jax_tasks.symbols import SymbolVocabulary  # noqa: E402

TASKS = seqio.get_mixture_or_task("pronunciation").tasks


@pytest.mark.parametrize("module", [lexicon, pronunciation])
def test_docstring_examples(module):
    # Collected from the folder, the modules would be imported a second time under another name and register twice.
    result = doctest.testmod(module)
    assert result.attempted > 0
    assert result.failed == 0


def test_the_mixture_has_the_four_tasks():
    names = [f"pronunciation_{name}" for name in ("say_en", "say_de", "say_fr", "spell_en")]
    assert sorted(task.name for task in TASKS) == sorted(names)


def test_symbols_decode_to_what_was_encoded_and_tf_agrees():
    vocabulary = SymbolVocabulary(["a", "t͡ʃ", "ɔ̃"])
    assert vocabulary.encode("t͡ʃ a ɔ̃ q") == [4, 3, 5, 2]
    assert vocabulary.encode_tf("t͡ʃ a ɔ̃ q").numpy().tolist() == [4, 3, 5, 2]
    assert vocabulary.decode([4, 3, 5, 1, 3]) == "t͡ʃ a ɔ̃"
    assert vocabulary.decode_tf(tf.constant([4, 3, 5, 1])).numpy().decode() == "t͡ʃ a ɔ̃"
    assert vocabulary.vocab_size == 6


@pytest.mark.parametrize("symbols", [["a", "a"], ["a b"], [""]])
def test_bad_symbols_are_refused(symbols):
    with pytest.raises(ValueError, match="distinct"):
        SymbolVocabulary(symbols)


@pytest.mark.parametrize("prompt", ["say-en:", "say-de:", "say-fr:", "spell-en:"])
def test_splits_are_full_and_share_no_question(prompt):
    rows = pronunciation.questions(prompt)
    assert len(rows) >= sum(pronunciation.SPLITS.values())
    assert len({question for question, _ in rows}) == len(rows)


@pytest.mark.parametrize("prompt", ["say-en:", "say-de:", "say-fr:", "spell-en:"])
def test_every_row_is_written_with_known_symbols(prompt):
    vocabulary = pronunciation.VOCABULARY
    for question, answers in pronunciation.questions(prompt)[:5000]:
        for text in (question, *answers):
            assert vocabulary.unk_id not in vocabulary.encode(text), text
            assert vocabulary.decode(vocabulary.encode(text)) == text


def test_homophones_never_straddle_splits():
    """All spellings of a pronunciation are answers of one question."""
    by_answer = {}
    for question, answers in pronunciation.questions("spell-en:"):
        for answer in answers:
            assert by_answer.setdefault(answer, question) == question
    known = lexicon.pronunciations("en")
    assert known["aye"][0] == known["eye"][0]
    spelled = dict(pronunciation.questions("spell-en:"))[f"spell-en: {known['eye'][0]}"]
    assert {"a y e", "e y e"} <= set(spelled)


def test_a_task_row_has_ids_and_all_answers():
    task = seqio.get_mixture_or_task("pronunciation_say_en")
    row = next(
        row
        for row in task.get_dataset({"inputs": 14, "targets": 13}, "test", shuffle=False).as_numpy_iterator()
        if len(row["answers"]) > 1
    )
    vocabulary = pronunciation.VOCABULARY
    assert row["inputs"][-1] == row["targets"][-1] == vocabulary.eos_id
    assert (
        vocabulary.decode(row["targets"].tolist()) == row["answers"][0].decode() == row["targets_pretokenized"].decode()
    )


def test_any_right_answer_counts_and_only_those():
    example = {"answers": ["ə d".encode(), "æ d".encode()]}
    target = pronunciation.accepted_answers("ə d", example=example, is_target=True)
    assert target == ["ə d", "æ d"]
    assert pronunciation.accuracy([target] * 3, ["æ d", "ə d", "æ"]) == {"accuracy": pytest.approx(200 / 3)}
