"""Two files of lines, any range of which is read by itself."""

import numpy as np
import pytest
from cat_jax_tasks import parallel_text
from cat_jax_tasks.parallel_text import ParallelText


@pytest.fixture
def write(tmp_path):
    def write(source, target):
        files = tmp_path / "source", tmp_path / "target"
        for file, text in zip(files, (source, target), strict=True):
            file.write_bytes(text)
        return files

    return write


@pytest.mark.parametrize("end", [b"", b"\n"])
@pytest.mark.parametrize("block", [7, 64, 1 << 24])
def test_any_range_is_what_the_lines_are(write, monkeypatch, block, end):
    monkeypatch.setattr(parallel_text, "_BLOCK", block)
    monkeypatch.setattr(parallel_text, "_EVERY", 4)
    draw = np.random.default_rng(block)
    lines = [["x" * int(length) for length in draw.integers(0, 9, 53)] + ["last"] for _ in range(2)]
    text = ParallelText(*write(*("\n".join(side).encode() + end for side in lines)))
    expected = [tuple(line.encode() for line in pair) for pair in zip(*lines, strict=True)]
    assert len(text) == 54
    assert list(text.pairs()) == expected
    for start, stop in ((0, 1), (3, 5), (4, 4), (7, 54), (53, 54)):
        assert list(text.pairs(start, stop)) == expected[start:stop]


def test_an_empty_file_has_no_pairs(write):
    assert list(ParallelText(*write(b"", b"")).pairs()) == []


def test_a_file_that_has_grown_is_read_anew(write):
    assert len(ParallelText(*write(b"a\n", b"b\n"))) == 1
    assert list(ParallelText(*write(b"a\nc\r\n", b"b\nd\n")).pairs()) == [(b"a", b"b"), (b"c", b"d")]


def test_a_file_with_more_lines_is_named(write):
    files = write(b"a\nb\n", b"a\n")
    with pytest.raises(ValueError, match=r"source and .*target have different numbers of lines \(2 and 1\)"):
        ParallelText(*files)
