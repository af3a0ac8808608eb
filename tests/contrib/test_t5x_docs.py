"""The snippets of docs/t5x.md, run as they stand."""

import inspect
import json
import pathlib
import re

import numpy as np
import pytest
from gin import config_parser

from cat_jax.data.manifest import FeatureInfo, Recipe
from cat_jax.data.mixture import Mixture, MixtureTask, write_mixture
from cat_jax.data.record import Example
from cat_jax.data.writer import write_store
from cat_jax.losses.objective import Objective
from cat_jax.teacher.imported import import_signal

DOCS = (pathlib.Path(__file__).parents[2] / "docs/t5x.md").read_text()
BLOCKS = dict(re.findall(r"^```\w+ (\S+)\n(.*?)^```", DOCS, re.MULTILINE | re.DOTALL))
LENGTHS = {"inputs": 12, "targets": 10, "teacher_bits": 10}


class Statements(config_parser.ParserDelegate):
    """Gin as data."""

    def configurable_reference(self, scoped_configurable_name, evaluate):
        return scoped_configurable_name

    def macro(self, macro_name):
        return macro_name


def test_the_gin_file_binds_what_there_is(t5x):
    theirs = {
        "cat.CascadeAwareEncoderDecoderModel": t5x.CascadeAwareEncoderDecoderModel.__init__,
        "cat.checkpoint_params": t5x.checkpoint_params,
        "objective.Objective": Objective,
    }
    bound = {name: set() for name in theirs}
    for statement in config_parser.ConfigParser(BLOCKS["cat_small.gin"], Statements()):
        if isinstance(statement, config_parser.BindingStatement) and statement.selector in theirs:
            bound[statement.selector].add(statement.arg_name)
    for name, found in bound.items():
        assert found, name
        assert found <= set(inspect.signature(theirs[name]).parameters), name


def test_the_gin_file_makes_the_model(t5x, tmp_path, monkeypatch):
    if t5x.is_stub:
        pytest.skip("is of t5x itself")
    import gin
    import t5x as theirs

    (tmp_path / "cat_small.gin").write_text(BLOCKS["cat_small.gin"])
    gin.clear_config()
    gin.add_config_file_search_path(str(pathlib.Path(theirs.__file__).parents[1]))
    monkeypatch.setattr(theirs.checkpoints, "load_t5x_checkpoint", lambda path, step=None: {"target": path})
    gin.parse_config_file(str(tmp_path / "cat_small.gin"))
    gin.parse_config("DROPOUT_RATE = 0.1")
    model = gin.query_parameter("%MODEL").scoped_configurable_fn()
    gin.clear_config()
    assert isinstance(model, t5x.CascadeAwareEncoderDecoderModel)
    assert model.objective == Objective(w=0.5, keep="either", z_loss=1e-4)
    assert (model.module.config.emb_dim, model.module.config.dropout_rate) == (512, 0.1)
    assert (model._teacher_module.config.emb_dim, model._teacher_module.config.dropout_rate) == (1024, 0.0)
    assert model._teacher_params == "/checkpoints/large"


@pytest.fixture(scope="module")
def taught(tmp_path_factory):
    """A store of examples of unlike lengths, and a teacher's bits for it."""
    root, feature = tmp_path_factory.mktemp("taught"), FeatureInfo("bytes", 259, 1, True)
    draw = np.random.default_rng(0)
    recipe = Recipe("toy", "train", {"inputs": feature, "targets": feature}, {"inputs": 8, "targets": 8}, 2, False)
    ids = lambda count: np.append(draw.integers(3, 259, count), 1).astype(np.int32)  # noqa: E731
    examples = [Example(str(k), ids(draw.integers(1, 7)), ids(draw.integers(1, 7)), None) for k in range(9)]
    write_store(root / "store", recipe, examples)
    write_mixture(root / "store", Mixture("toy", (MixtureTask("toy", 1.0, ("train",)),)))
    rows = [
        {"example_id": e.example_id, "target_tokens": e.targets.tolist(), "top1_correct": (e.targets % 2 == 0).tolist()}
        for e in examples
    ]
    (root / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    import_signal(str(root / "rows.jsonl"), root / "store", "toy", root / "signal")
    return root


@pytest.mark.parametrize("pack", [False, True])
def test_bits_of_a_signal_come_back_beside_their_targets(t5x_beside_seqio, taught, pack):
    import seqio

    t5x, snippet, name = t5x_beside_seqio, {}, f"toy_with_bits_{pack}"
    exec(BLOCKS["bits_for_t5x.py"], snippet)
    path = str(taught / "bits.tfrecord")
    snippet["write"](taught / "store", taught / "signal", "toy", "train", path)
    snippet["register"](name, {"train": path}, seqio.ByteVocabulary())
    rows = seqio.get_mixture_or_task(name).get_dataset(LENGTHS, split="train", shuffle=False)
    batches = list(t5x.TeacherBitFeatureConverter(pack=pack)(rows, LENGTHS).as_numpy_iterator())
    assert len(batches) < 9 if pack else len(batches) == 9
    counted = 0
    for batch in batches:
        targets, bits = batch["decoder_target_tokens"], batch[t5x.BATCH_BITS]
        np.testing.assert_array_equal(bits, np.where(targets == 0, 0, np.where(targets % 2 == 0, 2, 1)))
        counted += np.count_nonzero(targets)
    assert counted == sum(map(len, (row["targets"] for row in rows.as_numpy_iterator())))
