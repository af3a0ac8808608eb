"""What an Objective refuses, when, and what it says; its names, needs and gin files."""

import ast
import dataclasses
import pathlib
import re

import jax.numpy as jnp
import numpy as np
import pytest
from losses_cases import batch_of, random_case, signal_of, student_of, with_sparse

from cat_jax.errors import UserError
from cat_jax.losses.objective import Objective
from cat_jax.types import Head, ModelOutput

GIN_FILES = sorted((pathlib.Path(__file__).parents[2] / "gin_configs" / "objectives").glob("*.gin"))
CASE = random_case()
STUDENT, BATCH = student_of(CASE, jnp.float32), batch_of(CASE)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"w": -0.1}, "Objective.w = -0.1 is not a number in [0, 1]"),
        ({"w": 1.5}, "Objective.w = 1.5"),
        ({"w": "0.5"}, "Objective.w = '0.5'"),
        ({"w": float("nan")}, "Objective.w = nan"),
        ({"w": True}, "Objective.w = True"),
        ({"w": None}, "Objective.w = None"),
        ({"temperature": 0}, "Objective.temperature = 0 is not a number above 0"),
        ({"temperature": -1.0}, "Objective.temperature = -1.0"),
        ({"temperature": float("inf")}, "Objective.temperature = inf"),
        ({"label_smoothing": 1.0}, "Objective.label_smoothing = 1.0 is not a number in [0, 1)"),
        ({"label_smoothing": -0.1}, "Objective.label_smoothing"),
        ({"z_loss": -1e-4}, "Objective.z_loss"),
        ({"normalizer": "kept_token"}, "did you mean 'kept_tokens'?"),
        ({"normalizer": "mean"}, "only target_tokens, kept_tokens"),
        ({"normalizer": None}, "no Objective.normalizer None"),
        ({"keep": "either one"}, "did you mean 'either'?"),
    ],
)
def test_bad_fields_are_refused_at_construction(fields, words):
    with pytest.raises(UserError) as error:
        Objective(**fields)
    assert words in str(error.value)


def test_cat_without_a_teacher_is_refused():
    with pytest.raises(UserError, match=r"cat_xent needs a teacher.*StoredTeacher or LiveTeacher"):
        Objective(w=1)(STUDENT, BATCH, None)


def test_distillation_from_a_bit_is_refused():
    with pytest.raises(UserError, match=r"holds none.*cat-jax teach.*Objective.w = 1"):
        Objective()(STUDENT, BATCH, signal_of(CASE, "bit", jnp.float32))


def test_two_distributions_are_refused():
    both = dataclasses.replace(
        signal_of(CASE, "logits", jnp.float32), output=signal_of(CASE, "output", jnp.float32).output
    )
    with pytest.raises(UserError, match="holds several"):
        Objective()(STUDENT, BATCH, both)


def test_another_temperature_than_the_stored_is_refused():
    case = with_sparse(CASE, 3, temperature=2.0, ghost=True)
    signal = signal_of(case, "sparse", jnp.float32, temperature=2.0)
    with pytest.raises(
        UserError, match=r"stored at temperature 2.0, the objective has 1.0.*Objective.temperature = 2.0"
    ):
        Objective()(STUDENT, BATCH, signal)
    # Nothing is read of it when there is no distillation.
    Objective(w=1)(STUDENT, BATCH, signal)


@pytest.mark.parametrize("kind", ["logits", "output"])
def test_ids_that_the_teacher_lacks_have_no_mass(kind):
    few = dataclasses.replace(CASE, teacher_logits=CASE.teacher_logits[..., :-1])
    filled = np.concatenate([few.teacher_logits, np.full((*CASE.targets.shape, 1), -np.inf)], axis=-1)
    signal = signal_of(dataclasses.replace(CASE, teacher_logits=filled), "logits", jnp.float32)
    expected = Objective()(STUDENT, BATCH, signal)
    got = Objective()(
        STUDENT, BATCH, dataclasses.replace(signal_of(few, kind, jnp.float32), top1_correct=signal.top1_correct)
    )
    np.testing.assert_allclose(got.loss_sum, expected.loss_sum, rtol=1e-6)
    assert np.isfinite(got.loss_sum)


def test_a_larger_vocabulary_of_a_live_teacher_is_refused():
    output = ModelOutput(jnp.ones((*CASE.targets.shape, 2)), Head(jnp.ones((2, 12)), 12))
    signal = dataclasses.replace(signal_of(CASE, "bit", jnp.float32), output=output)
    with pytest.raises(UserError, match="has 12 ids, the student's 11"):
        Objective()(STUDENT, BATCH, signal)


def test_random_keep_without_its_numbers_is_a_bug_of_the_caller():
    with pytest.raises(ValueError, match="uniform"):
        Objective(w=1, keep="random(0.5)")(STUDENT, BATCH, None)


def test_needs():
    def needs(**fields):
        objective = Objective(**fields)
        return objective.needs_distribution, objective.needs_teacher, objective.needs_uniform

    assert needs(w=1, keep="all") == (False, False, False)
    assert needs(w=1, keep="student") == (False, False, False)
    assert needs(w=1, keep="random(0.5)") == (False, False, True)
    assert needs(w=1, keep="either") == (False, True, False)
    assert needs(w=1, keep="teacher") == (False, True, False)
    assert needs(w=0.5, keep="all") == (True, True, False)
    assert needs(w=0.5, keep="random(0.5)") == (True, True, True)

    class ReadsTeacher(Objective):
        reads_teacher = True

    assert ReadsTeacher(w=1, keep="all").needs_teacher
    assert ReadsTeacher(w=1, keep="all").name == "ReadsTeacher", "not xent"
    with pytest.raises(UserError, match="needs a teacher and there is none"):
        ReadsTeacher(w=1, keep="all")(STUDENT, BATCH, None)


def test_the_names_and_the_hash():
    assert [Objective(w=w, keep=k).name for w, k in [(1, "all"), (0.5, "all"), (1, "either"), (0, "either")]] == [
        "xent",
        "dist",
        "cat_xent",
        "cat_dist",
    ]
    assert Objective(w=1, keep="random(0.95)").name == "random_xent"
    assert Objective(name="mine").name == "mine"
    assert hash(Objective()) == hash(Objective(w=0.5))


@pytest.mark.parametrize("path", GIN_FILES, ids=lambda p: p.stem)
def test_each_gin_file_makes_the_objective_it_is_named_after(path):
    text = path.read_text()
    fields = {k: ast.literal_eval(v) for k, v in re.findall(r"^Objective\.(\w+) = (.+)$", text, re.MULTILINE)}
    assert Objective(**fields).name == path.stem
    assert {"w", "keep"} <= set(fields)
    assert text.endswith("\nOBJECTIVE = @Objective()\n")


def test_the_four_objectives_have_gin_files():
    assert {"xent", "dist", "cat_xent", "cat_dist"} <= {p.stem for p in GIN_FILES}
    assert np.all([p.read_text().startswith("# ") for p in GIN_FILES])
