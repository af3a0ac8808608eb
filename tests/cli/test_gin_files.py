"""The bundled gin files: each parses, binds what exists, and says what it requires."""

import re

import pytest

from cat_jax.cli import configuration, names
from cat_jax.cli.bindings import REQUIRED

FILES = sorted(str(path.relative_to(configuration.BUNDLED)) for path in configuration.BUNDLED.glob("*/*.gin"))
FROM = "models/from_checkpoint.gin"  # which is whatever it is given
RUNS = [name for name in FILES if name.startswith("runs/")]


def test_there_are_bundled_files():
    assert {"runs/train.gin", "models/t5_tiny.gin", "objectives/cat_xent.gin", "runs/experiment.gin"} <= set(FILES)


@pytest.mark.parametrize("name", FILES)
def test_every_binding_of_a_bundled_file_exists(name, caplog):
    bindings = configuration.read([name])
    assert not caplog.messages
    assert set(bindings.names()) <= set(names.NAMES)
    for item in bindings.items:
        if not item.is_macro:
            signature = names.signature(item.name)
            assert signature is not None
            assert item.parameter in signature.parameters, f"{name}: {item}"


@pytest.mark.parametrize("name", FILES)
def test_every_bundled_file_says_what_it_is(name):
    first = (configuration.BUNDLED / name).read_text().splitlines()[0]
    assert re.match(r"# \w.*[.:]$", first), first


@pytest.mark.parametrize("name", [name for name in RUNS if (name[5:-4]) in {*names.ROOTS, "finetune", "experiment"}])
def test_what_a_run_file_needs_is_declared_required(name):
    root = {"finetune": "train", "experiment": "run"}.get(name[5:-4], name[5:-4])
    bindings = configuration.read([name])
    missing = bindings.reachable([root], names.signature).missing
    declared = {key for key, item in bindings.merged().items() if item.value == REQUIRED}
    assert set(missing) <= declared


@pytest.mark.parametrize("name", [name for name in FILES if name.startswith("objectives/")])
def test_an_objective_file_gives_an_objective_of_its_own_name(name):
    bindings = configuration.read([name])
    objective = names.NAMES["Objective"].load()
    fields = {item.parameter: item.value for item in bindings.merged().values() if item.name == "Objective"}
    stem = name.removeprefix("objectives/").removesuffix(".gin")
    assert objective(**fields).name == stem
    assert repr(bindings.macro("OBJECTIVE")) == "@Objective()"


@pytest.mark.parametrize("name", [name for name in FILES if name.startswith("models/") and name != FROM])
def test_a_model_file_gives_a_model(name):
    bindings = configuration.read([name])
    family = repr(bindings.macro("MODEL")).removeprefix("@").removesuffix("()")
    assert family in ("T5Config", "DecoderConfig")
    fields = {item.parameter: item.value for item in bindings.merged().values() if item.name == family}
    assert names.NAMES[family].load()(**fields).vocab_size > 0
