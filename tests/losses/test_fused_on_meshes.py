"""The fused head with tokens and vocabulary split over devices, in a process of its own that has 8 of them."""

import json
import pathlib
import subprocess
import sys

import pytest
from fake_devices import environment

PROGRAM = pathlib.Path(__file__).parent / "fused_program.py"


@pytest.mark.parametrize(("cases", "count"), [("split", 6), pytest.param("others", 24, marks=pytest.mark.exhaustive)])
def test_every_mesh_has_the_gradients_of_whole_logits_on_one_device(cases, count):
    setting = environment(8)
    setting["XLA_FLAGS"] += " --xla_backend_optimization_level=0"
    command = [sys.executable, str(PROGRAM), cases]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=setting)
    assert done.returncode == 0, done.stderr
    differences = json.loads(done.stdout)
    assert len(differences) == count
    assert {case: found for case, found in differences.items() if not found < 1e-12} == {}
