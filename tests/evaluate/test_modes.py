"""The two modes against the plain functions of decode, on a real T5."""

import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from small_world import LENGTHS, VOCABULARY, model, write_examples

import cat_jax.evaluate.job
from cat_jax.decode.greedy import Greedy, greedy
from cat_jax.decode.score import score_targets
from cat_jax.errors import NonFiniteError
from cat_jax.evaluate.devices import Devices
from cat_jax.evaluate.generate import Generation, generation_program
from cat_jax.evaluate.job import EvaluatedModel, Job, answer
from cat_jax.evaluate.prompts import prompt_batch
from cat_jax.evaluate.score import Scoring
from cat_jax.parallel.mesh import MeshConfig
from cat_jax.types import Batch

STATISTICS = ("logprobs", "entropies", "margins")
NUMBERS = ("token_logprobs", "token_entropies", "token_margins")


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return write_examples(tmp_path_factory.mktemp("store"))


@pytest.fixture(scope="module")
def devices():
    return Devices(MeshConfig().build())


def job_of(store, directory, mode="generate"):
    return Job(EvaluatedModel("m", "nowhere"), store, directory / "table.parquet", mode, 1, "checkpoint", {"L": 6})


def generate(store, devices, directory, rows, length=LENGTHS["targets"], seed=0):
    graphdef, params = model(seed=seed)
    made = answer(
        job_of(store, directory), Generation(store, devices, rows, length), rows, graphdef, params, devices, 1e9
    )
    assert made is not None
    return made


@pytest.fixture(scope="module")
def generated(store, devices, tmp_path_factory):
    return generate(store, devices, tmp_path_factory.mktemp("out"), rows=4)


def test_generates_what_greedy_does_one_by_one(store, generated):
    net = nnx.merge(*model())
    assert generated["index"].to_pylist() == list(range(37))
    one = jax.jit(lambda inputs: greedy(net, prompt_batch(inputs), max_decode_length=6, eos_id=1))
    lengths = set()
    for row in generated.to_pylist():
        alone = jax.tree.map(np.asarray, one(padded(store[row["index"]].inputs, 40)[None]))
        assert row["prediction_tokens"] == alone.tokens[0, : alone.lengths[0]].tolist()
        for name in NUMBERS:
            expected = getattr(alone.statistics, name.removeprefix("token_"))[0, : alone.lengths[0]]
            np.testing.assert_allclose(row[name], expected, rtol=1e-4, atol=1e-4)
        assert row["option_scores"] is None
        lengths.add(len(row["prediction_tokens"]))
    assert len(lengths) > 1, "answers of one length prove little"


@pytest.mark.parametrize("rows", [1, 64])
def test_the_batch_size_changes_nothing(store, devices, generated, tmp_path, rows):
    other = generate(store, devices, tmp_path, rows)
    assert other["prediction_tokens"].equals(generated["prediction_tokens"])
    for name in NUMBERS:
        ours, theirs = (np.concatenate(table[name].to_pylist()) for table in (other, generated))
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-4)


def test_equal_models_share_the_program(store, devices, tmp_path):
    generate(store, devices, tmp_path, 4)
    program = generation_program(model(seed=5)[0], devices, 6, 1, Greedy())
    compiled = program._cache_size()
    assert compiled > 0
    answers = [generate(store, devices, tmp_path / str(seed), 4, seed=seed) for seed in (0, 5)]
    assert program._cache_size() == compiled
    assert answers[0] != answers[1]


def options_of(store, seed=0):
    """1 to 3 options of 1 to 7 tokens for each example, and the same once more: the second is never chosen."""
    rng = np.random.default_rng(seed)
    draw = lambda: np.append(rng.integers(2, VOCABULARY, rng.integers(0, 7)), 1).astype(np.int32)  # noqa: E731
    return [[draw() for _ in range(rng.integers(1, 4))] * 2 for _ in range(len(store))]


@pytest.mark.parametrize("normalization", ["sum", "mean"])
def test_scores_are_teacher_forced_log_likelihoods(store, devices, tmp_path, normalization):
    graphdef, params = model()
    score, options = forced_scores(nnx.merge(graphdef, params)), options_of(store)
    mode = Scoring(store, options, devices, 4, normalization)
    scored = answer(job_of(store, tmp_path, "score"), mode, 4, graphdef, params, devices, 1e9)
    assert scored is not None
    assert scored["index"].to_pylist() == list(range(37))
    for row, of_row in zip(scored.to_pylist(), options, strict=True):
        forced = [score(store[row["index"]].inputs, tokens) for tokens in of_row]
        sums = np.array([each["logprobs"].sum() for each in forced])
        np.testing.assert_allclose(row["option_scores"], sums, rtol=1e-4, atol=1e-4)
        assert row["option_lengths"] == [len(tokens) for tokens in of_row]
        keys = sums / [len(tokens) for tokens in of_row] if normalization == "mean" else sums
        best = int(np.argmax(keys))
        assert row["best_option"] == best < len(of_row) / 2
        assert row["prediction_tokens"] == of_row[best].tolist()
        for name in NUMBERS:
            np.testing.assert_allclose(row[name], forced[best][name.removeprefix("token_")], rtol=1e-4, atol=1e-4)
    if normalization == "mean":
        plain = np.array([np.argmax(each) for each in scored["option_scores"].to_pylist()])
        assert (plain != scored["best_option"].to_numpy()).any(), "the case must tell the two apart"


def padded(tokens, length):
    return np.pad(tokens, (0, length - len(tokens)))


def forced_scores(net):
    """A function (inputs, target) -> statistics of the target's tokens, by a teacher-forced pass of one row."""

    @jax.jit
    def run(inputs, targets, weights):
        batch = Batch(targets, jnp.pad(targets, [(0, 0), (1, 0)])[:, :-1], weights, encoder_input_tokens=inputs)
        return score_targets(net, batch)

    def score(inputs, tokens):
        weights = padded(np.ones(len(tokens), np.float32), 8)
        found = run(padded(inputs, 40)[None], padded(tokens, 8)[None], weights[None])
        return {name: np.asarray(getattr(found, name))[0, : len(tokens)] for name in STATISTICS}

    return score


def test_a_process_that_reads_no_answers_leaves_with_the_one_that_does(store, devices, tmp_path, monkeypatch):
    """Process 1 of two, which is told what is done already, and then what process 0 found in the first batch."""
    told = [np.zeros(37, bool), np.array([2, 4], np.int32)]
    other = types.SimpleNamespace(process_index=lambda: 1, device_get=jax.device_get)
    monkeypatch.setattr(cat_jax.evaluate.job, "jax", other)
    monkeypatch.setattr(cat_jax.evaluate.job, "agree", lambda own: told.pop(0))
    mode = types.SimpleNamespace(
        chunks=Generation(store, devices, 4, 6).chunks,
        arrays=lambda examples, length: {"examples": examples.astype(np.int32)},
        program=lambda graphdef: lambda params, arrays: arrays,
    )
    with pytest.raises(NonFiniteError, match="the log-probabilities of 2 of 4 examples are not finite"):
        answer(job_of(store, tmp_path), mode, 4, None, None, devices, 1e9)
    assert not told
