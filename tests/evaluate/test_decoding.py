"""How answers are decoded, from the option of `evaluate` to the table."""

import json
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
import small_world
from fake_devices import environment
from flax import nnx

from cat_jax.data.store import ExampleStore
from cat_jax.decode.beam import BeamSearch
from cat_jax.decode.greedy import Greedy
from cat_jax.decode.sample import Sampling
from cat_jax.errors import UserError
from cat_jax.evaluate.prompts import prompt_batch
from cat_jax.evaluate.run import evaluate
from cat_jax.table import read_table

HERE = Path(__file__).parent
SETTINGS = {"mixture_or_task": "letters", "splits": ("test",), "batch_size": 4}
BEAM, SAMPLING = BeamSearch(3, alpha=0.5), Sampling(temperature=1.5, top_k=20, seed=3)


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    root = tmp_path_factory.mktemp("world")
    small_world.write_world(root)
    return root


@pytest.fixture(autouse=True)
def _texts(monkeypatch):
    for module, name in small_world.PATCHED:
        monkeypatch.setattr(module, name, getattr(module, name))
    small_world.without_seqio()


def run(world, output_dir, decoding, **changes):
    models = {"model0": str(world / "models" / "0")}
    evaluate(models, str(world / "store"), output_dir=str(output_dir), decoding=decoding, **{**SETTINGS, **changes})
    return read_table(output_dir / "model0" / "letters.test.parquet")


@pytest.mark.parametrize(
    "decoding", [BEAM, pytest.param(SAMPLING, marks=pytest.mark.exhaustive)], ids=["beam", "sampling"]
)
def test_answers_and_flops_are_those_of_the_decoding(world, tmp_path, decoding):
    """All rows at once, in the store's order, against chunks of four in the table."""
    table, info = run(world, tmp_path, decoding)
    assert info.settings == {"decoding": decoding.to_dict(), "max_decode_length": 6, "dtype": None}
    examples = list(ExampleStore.open(world / "store", "letters", "test"))
    inputs = np.stack([np.pad(e.inputs, (0, 32 - len(e.inputs))) for e in examples])
    net = nnx.merge(*small_world.model())

    @jax.jit
    def write(inputs, rows):
        return decoding(net, prompt_batch(inputs), max_decode_length=6, eos_id=1, rows=rows)

    decoded = jax.tree.map(np.asarray, write(inputs, np.arange(len(examples))))
    config, beams = small_world.CONFIG, getattr(decoding, "beams", 1)
    rows = {row["example_id"]: row for row in table.to_pylist()}
    for i, example in enumerate(examples):
        row, length = rows[example.example_id], decoded.lengths[i]
        assert row["prediction_tokens"] == decoded.tokens[i, :length].tolist()
        np.testing.assert_allclose(row["token_logprobs"], decoded.statistics.logprobs[i, :length], rtol=1e-4, atol=1e-4)
        first, whole = (config.answer_flops(len(example.inputs), n) for n in (1, int(decoded.steps[i])))
        assert row["flops"] == first + beams * (whole - first)
    assert len(set(decoded.lengths.tolist())) > 1
    if beams > 1:
        assert (decoded.steps > decoded.lengths).any(), "searching costs more than what it finds"


def test_a_table_is_made_again_for_another_decoding_only(world, tmp_path):
    path = tmp_path / "model0" / "letters.test.parquet"
    greedy, info = run(world, tmp_path, Greedy())
    assert info.settings["decoding"] == {"name": "greedy"}
    drawn, _ = run(world, tmp_path, SAMPLING)
    assert drawn["prediction"] != greedy["prediction"]
    made = path.stat().st_mtime_ns
    run(world, tmp_path, Sampling(temperature=1.5, top_k=20, seed=3))
    assert path.stat().st_mtime_ns == made
    metrics = json.loads((tmp_path / "model0" / "letters.test.metrics.json").read_text())
    assert metrics["tasks"]["letters"]["settings"]["decoding"] == SAMPLING.to_dict()


@pytest.mark.parametrize("decoding", ["beam", BeamSearch, None])
def test_what_is_no_decoding_is_refused(world, tmp_path, decoding):
    with pytest.raises(UserError, match=r"decoding cannot be .*: use @Greedy\(\), @BeamSearch\(\) or @Sampling\(\)"):
        run(world, tmp_path / "out", decoding)
    assert not (tmp_path / "out").exists()


SCRIPT = """
import sys
sys.path[:0] = [{here!r}, {here!r} + '/..']
import small_world
from test_decoding import BEAM, SAMPLING, run
from pathlib import Path
from cat_jax.parallel.mesh import MeshConfig
small_world.without_seqio()
for name, decoding in (("beam", BEAM), ("sampling", SAMPLING)):
    run(Path(sys.argv[1]), Path(sys.argv[2]) / name, decoding, mesh=MeshConfig(*{mesh!r}))
"""


@pytest.mark.exhaustive
def test_the_bytes_do_not_depend_on_the_mesh(world, tmp_path):
    script = SCRIPT.format(here=str(HERE), mesh=(1, 2, 4))
    subprocess.run([sys.executable, "-c", script, str(world), str(tmp_path / "8")], env=environment(8), check=True)
    for name, decoding in (("beam", BEAM), ("sampling", SAMPLING)):
        run(world, tmp_path / "1" / name, decoding)
        one, eight = (tmp_path / n / name / "model0" / "letters.test.parquet" for n in ("1", "8"))
        assert one.read_bytes() == eight.read_bytes(), name
