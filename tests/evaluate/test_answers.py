import logging

import numpy as np

from cat_jax.evaluate.answers import ANSWERS, Parts, answer_rows, ragged


def rows(indices):
    indices = np.asarray(indices)
    tokens = indices[:, None] * 10 + np.arange(3, dtype=np.int32)
    lengths = indices % 4
    numbers = ragged((tokens / 7).astype(np.float32), lengths)
    return answer_rows(
        {
            "index": indices,
            "prediction_tokens": ragged(tokens.astype(np.int32), lengths),
            "token_logprobs": numbers,
            "token_entropies": numbers,
            "token_margins": numbers,
        }
    )


def test_ragged_by_hand():
    lists = ragged(np.array([[1, 2], [3, 4], [5, 6]], np.int32), np.array([1, 0, 2]))
    assert lists.to_pylist() == [[1], [], [5, 6]]


def test_saved_parts_come_back_bit_for_bit(tmp_path):
    parts = Parts(tmp_path / "p", {"a": 1})
    parts.add(rows([5, 2]))
    parts.save()
    parts.add(rows([9]))
    parts.save()
    parts.add(rows([1]))  # is lost
    again = Parts(tmp_path / "p", {"a": 1})
    assert sorted(again.indices()) == [2, 5, 9]
    again.add(rows([1, 7]))
    again.save()
    assert again.all().equals(rows([1, 2, 5, 7, 9]))
    assert Parts(tmp_path / "p", {"a": 1}).all().schema == ANSWERS


def test_parts_of_something_else_are_not_used(tmp_path):
    parts = Parts(tmp_path, {"checkpoint": "x"})
    parts.add(rows([5, 2]))
    parts.save()
    assert len(Parts(tmp_path, {"checkpoint": "y"}).indices()) == 0
    assert not list(tmp_path.iterdir())


def test_a_damaged_part_is_done_again(tmp_path, caplog):
    parts = Parts(tmp_path, {})
    for index in (1, 2):
        parts.add(rows([index]))
        parts.save()
    (tmp_path / "00001.parquet").write_bytes(b"PAR1 and then nothing")
    with caplog.at_level(logging.WARNING):
        again = Parts(tmp_path, {})
    assert again.indices().tolist() == [2]
    assert "00001.parquet" in caplog.text
