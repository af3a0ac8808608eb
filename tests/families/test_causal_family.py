"""A decoder-only family from outside goes through training, teaching, evaluation and cascades with no change there.

What the project's own decoder-only family does alike, in test_decoder_family.py, is tested of this one exhaustively.
"""

import dataclasses

import causal_world
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from causal_family import CausalConfig
from flax import nnx

from cat_jax.cascade.experiment import cascade
from cat_jax.checkpoint.params import load_model, read_model_file
from cat_jax.data.loader import DatasetConfig, make_train_iterator
from cat_jax.data.store import ExampleStore
from cat_jax.decode.beam import BeamSearch
from cat_jax.decode.score import score_targets
from cat_jax.errors import UserError
from cat_jax.evaluate.prompts import prompt_batch
from cat_jax.evaluate.run import evaluate
from cat_jax.losses.objective import Objective
from cat_jax.models.flops import parameter_count
from cat_jax.models.registry import MODEL_FAMILIES, register_family
from cat_jax.models.t5_config import T5Config
from cat_jax.parallel.mesh import MeshConfig
from cat_jax.table import read_table
from cat_jax.teacher.layout import FullLayout
from cat_jax.teacher.live import LiveTeacher
from cat_jax.teacher.store import StoredTeacher
from cat_jax.teacher.writer import teach
from cat_jax.train.loop import train
from cat_jax.train.optimizer import AdamW
from cat_jax.types import Batch

LARGE, SMALL = CausalConfig(vocab_size=10, width=32), CausalConfig(vocab_size=10, num_layers=1)
XENT, CAT_XENT = Objective(w=1.0, keep="all"), Objective(w=1.0, keep="either")


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("world")
    causal_world.write_words(root / "store")
    causal_world.write_words(root / "store", "options", options=True)
    causal_world.write_words(root / "store", "free", features=("targets",))
    return root


def dataset(root, split="train", task="backwards", **fields):
    return DatasetConfig(str(root / "store"), task, split, causal_world.LENGTHS, 16, **fields)


def trained(root, name, model, objective, *, steps=120, task="backwards", pack=False, **fields):
    """The directory of a run, and the result of its last evaluation."""
    result = train(
        root / name,
        model,
        objective,
        dataset(root, task=task, pack=pack),
        steps,
        dataset(root, "validation", task),
        optimizer=AdamW(0.01),
        **fields,
    )
    return root / name, result.metrics


@pytest.fixture(scope="module")
def large(root):
    return trained(root, "large", LARGE, XENT, steps=400, pack=True)


@pytest.fixture(scope="module")
def signal(root, large):
    teach(large[0], root / "store", "backwards", root / "signal", splits=("train", "validation"), layout=FullLayout())
    return StoredTeacher(str(root / "signal"))


@pytest.fixture(scope="module")
def students(root, signal):
    return {pack: trained(root, f"small_{pack}", SMALL, CAT_XENT, pack=pack, teacher=signal) for pack in (False, True)}


@pytest.fixture(scope="module")
def tables(root, large, students):
    models = {"large": str(large[0]), "small": str(students[True][0])}
    with pytest.MonkeyPatch.context() as patch:
        causal_world.without_seqio(patch)
        for task, mode in (("backwards", "generate"), ("options", "score"), ("free", "generate")):
            evaluate(models, str(root / "store"), task, str(root / "tables"), splits=("validation", "test"), mode=mode)
    return root / "tables"


def model_of(directory):
    _, graphdef, params, _ = load_model(directory, mesh=MeshConfig(data=1).build(jax.devices()[:1]))
    return nnx.merge(graphdef, params)


@pytest.fixture(scope="module")
def model():
    return nnx.merge(*nnx.split(SMALL.build(jax.random.key(0))))


def teacher_forced(inputs, targets):
    """Rows of inputs and targets, as training pads them."""
    columns = max(len(i) + len(t) for i, t in zip(inputs, targets, strict=True))
    tokens, weights = np.zeros((2, len(inputs), columns), np.int32)
    for row, (i, t) in enumerate(zip(inputs, targets, strict=True)):
        tokens[row, : len(i) + len(t)] = [*i, *t]
        weights[row, len(i) : len(i) + len(t)] = 1
    return Batch(tokens, np.pad(tokens, [(0, 0), (1, 0)])[:, :-1], weights.astype(np.float32))


@pytest.mark.exhaustive
def test_packed_examples_equal_single_ones(root, model):
    run = jax.jit(lambda batch: model(batch).hidden)
    states = {}
    for pack in (False, True):
        settings = dataset(root, pack=pack, shuffle=False, num_epochs=1, prefetch=0)
        states[pack] = {}
        for host in make_train_iterator(settings, prompt="prefix"):
            hidden, targets = np.array(run(host.batch)), host.batch.decoder_target_tokens
            segments = host.batch.decoder_segment_ids if pack else (targets > 0).astype(np.int32)
            for row in range(len(targets)):
                for segment in range(1, segments[row].max() + 1):
                    here = segments[row] == segment
                    states[pack][tuple(targets[row][here])] = hidden[row][here]
    assert len(states[True]) > 30
    assert states[True].keys() == states[False].keys()
    for example, found in states[True].items():
        np.testing.assert_allclose(found, states[False][example], atol=3e-6)


@pytest.mark.exhaustive
@pytest.mark.parametrize("side", ["right", "left"])
def test_decoding_from_prompts_of_unequal_length_equals_the_teacher_forced_pass(model, side):
    inputs, targets = [[2, 3, 4, 5], [], [6, 7]], [[5, 4, 1], [9, 9, 1], [7, 6, 1]]
    forced = teacher_forced(inputs, targets)
    expected = np.array(model(forced).hidden)
    prompts = prompt_batch(jnp.array([i + [0] * (5 - len(i)) for i in inputs]), "prefix")
    if side == "left":
        empty = [5 - len(i) for i in inputs]
        roll = lambda x: jnp.stack([jnp.roll(row, n) for row, n in zip(x, empty, strict=True)])  # noqa: E731
        prompts = jax.tree.map(roll, prompts)
    cache, hidden = jax.jit(model.prefill, static_argnums=1)(prompts, 3)
    assert {leaf.shape[0] for leaf in jax.tree.leaves(cache)} == {3}
    step = jax.jit(model.step)
    for t in range(3):
        here = np.array([len(i) + t for i in inputs])
        np.testing.assert_allclose(hidden, expected[np.arange(3), here], atol=3e-6)
        cache, hidden = step(jnp.array([target[t] for target in targets]), cache) if t < 2 else (cache, hidden)


@pytest.mark.exhaustive
def test_beams_carry_their_prefixes_along(model):
    inputs = [[2, 3, 4, 5], [], [6, 7]]
    prompts = prompt_batch(jnp.array([i + [0] * (4 - len(i)) for i in inputs]), "prefix")
    found = jax.jit(lambda batch: BeamSearch(3)(model, batch, max_decode_length=5, eos_id=1))(prompts)
    written = [row[:n].tolist() for row, n in zip(np.array(found.tokens), np.array(found.lengths), strict=True)]
    forced = jax.jit(score_targets)(model, teacher_forced(inputs, written))
    for r, (i, tokens) in enumerate(zip(inputs, written, strict=True)):
        here = forced.logprobs[r, len(i) : len(i) + len(tokens)]
        np.testing.assert_allclose(found.statistics.logprobs[r, : len(tokens)], here, rtol=1e-4, atol=1e-5)


def test_a_run_trains_and_says_what_it_is(root, large):
    directory, metrics = large
    config, _ = read_model_file(directory)
    assert config == LARGE
    assert metrics["loss"] < 1.0  # an untrained model has log 10 = 2.3
    assert parameter_count(config) == sum(x.size for x in jax.tree.leaves(nnx.state(LARGE.build(jax.random.key(0)))))


@pytest.mark.parametrize("pack", [False, True])
def test_the_stored_signal_stands_at_its_targets(root, large, signal, pack):
    """Against the teacher's own teacher-forced pass over the same batch."""
    store = ExampleStore.open(root / "store", "backwards", "train")
    readers = signal.readers([store], needs_distribution=True)
    host = next(make_train_iterator(dataset(root, pack=pack, prefetch=0), prompt="prefix", signals=readers))
    output = model_of(large[0])(host.batch)
    counted = host.batch.decoder_loss_weights > 0
    np.testing.assert_allclose(
        host.signal.logits[counted], output.head.logits(output.hidden)[counted], rtol=1e-4, atol=1e-4
    )
    assert counted.sum() > 50
    assert not host.signal.logits[~counted].any()


@pytest.mark.exhaustive
@pytest.mark.parametrize("pack", [False, True])
def test_a_student_learns_from_the_stored_signal(students, pack):
    _, metrics = students[pack]
    assert metrics["loss"] < 1.7
    assert 0 < metrics["kept_fraction"] < 1


def test_the_live_teacher_says_what_the_stored_one_does(root, large, signal):
    readers = signal.readers([ExampleStore.open(root / "store", "backwards", "train")])
    host = next(make_train_iterator(dataset(root, pack=True, prefetch=0), prompt="prefix", signals=readers))
    loaded = LiveTeacher(str(large[0])).load(MeshConfig(data=1).build(jax.devices()[:1]))
    target, counted = host.batch.decoder_target_tokens, host.batch.decoder_loss_weights > 0
    output = loaded.signal_fn()(loaded.params, host.batch).output
    right = np.array(jnp.argmax(output.head.logits(output.hidden), axis=-1)) == target
    assert 0 < right[counted].sum() < counted.sum()
    np.testing.assert_array_equal(host.signal.top1_correct[counted], right[counted])


@pytest.mark.exhaustive
def test_generated_tokens_are_the_teacher_forced_argmax(root, large, tables):
    table, info = read_table(tables / "large" / "backwards.test.parquet")
    store = {e.example_id: e for e in ExampleStore.open(root / "store", "backwards", "test")}
    rows = table.to_pylist()
    inputs = [store[row["example_id"]].inputs.tolist() for row in rows]
    written = [row["prediction_tokens"] for row in rows]
    assert min(map(len, inputs)) == 0
    batch = teacher_forced(inputs, written)
    model = model_of(large[0])
    output, statistics = model(batch), score_targets(model, batch)
    best = np.array(jnp.argmax(output.head.logits(output.hidden), axis=-1))
    for r, row in enumerate(rows):
        here = slice(len(inputs[r]), len(inputs[r]) + len(written[r]))
        assert best[r, here].tolist() == written[r]
        np.testing.assert_allclose(row["token_logprobs"], statistics.logprobs[r, here], rtol=1e-4, atol=1e-5)
        assert row["flops"] == LARGE.answer_flops(len(inputs[r]), len(written[r]))
    assert info.parameters == parameter_count(LARGE)
    assert info.metrics["accuracy"] > 0


@pytest.mark.exhaustive
def test_options_are_scored_as_teacher_forced(root, students, tables):
    table, _ = read_table(tables / "small" / "options.test.parquet")
    store = {e.example_id: e for e in ExampleStore.open(root / "store", "options", "test")}
    model = model_of(students[True][0])
    for row in table.to_pylist()[:4]:
        example = store[row["example_id"]]
        options = [[*causal_world.Letters().encode(option), 1] for option in row["options"]]
        batch = teacher_forced([example.inputs.tolist()] * len(options), options)
        expected = np.array(score_targets(model, batch).logprobs).sum(axis=1)
        np.testing.assert_allclose(row["option_scores"], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.exhaustive
def test_tasks_without_inputs_are_continued_from_nothing(root, large, tables):
    table, _ = read_table(tables / "large" / "free.test.parquet")
    rows = table.to_pylist()
    assert len({tuple(row["prediction_tokens"]) for row in rows}) == 1  # every prompt is the same: nothing
    output = model_of(large[0])(teacher_forced([[]], [rows[0]["prediction_tokens"]]))
    best = jnp.argmax(output.head.logits(output.hidden), axis=-1)
    assert best[0].tolist() == rows[0]["prediction_tokens"]
    [host, *_] = make_train_iterator(dataset(root, task="free", num_epochs=1, prefetch=0), prompt="prefix")
    assert host.batch.decoder_loss_weights[0, 0] == 1


@pytest.mark.exhaustive
def test_the_tables_make_a_cascade(root, tables):
    results = cascade(
        tables_dir=tables,
        large="large",
        students={"small": ("cat_xent", 0)},
        tasks=["backwards", "options"],
        output_dir=root / "report",
        resamples=0,
    )
    assert set(results["tasks"]) == {"backwards", "options"}
    assert (root / "report" / "results.json").exists()


def test_a_signal_knows_no_family(root, large, signal):
    """An encoder-decoder trains with the decoder-only teacher's signal; live, one batch cannot be both."""
    t5 = T5Config(
        vocab_size=10, embed_dim=8, num_heads=2, head_dim=4, mlp_dim=8, num_encoder_layers=1, num_decoder_layers=1
    )
    assert train(root / "t5", t5, CAT_XENT, dataset(root), 1, teacher=signal).step == 1
    with pytest.raises(UserError, match=r"reads inputs as prefix, the student as encoder.*run `cat-jax teach`"):
        train(root / "t5_live", t5, CAT_XENT, dataset(root), 1, teacher=LiveTeacher(str(large[0])))
    with pytest.raises(UserError, match="have no inputs for the model's encoder"):
        train(root / "t5_free", t5, XENT, dataset(root, task="free"), 1)
    with pytest.raises(UserError, match="have no inputs for the encoder of"):
        evaluate({"t5": str(root / "t5")}, str(root / "store"), "free", str(root / "none"), splits=("test",))


def test_what_no_family_can_be_is_refused():
    class Other(CausalConfig):
        pass

    with pytest.raises(UserError, match=r"Other would be the model family 'toy_causal', which .*CausalConfig is alr"):
        register_family(Other)
    Other.family, Other.prompt = "other", "suffix"
    with pytest.raises(UserError, match=r"Other.prompt is 'suffix': give one of encoder, prefix"):
        register_family(Other)
    assert "other" not in MODEL_FAMILIES
    assert register_family(CausalConfig) is CausalConfig
    assert dataclasses.is_dataclass(MODEL_FAMILIES["toy_causal"])
