"""The keep rules, and that alpha is a constant to the gradient."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cat_jax.errors import UserError
from cat_jax.losses.keep import KeepRule

STUDENT = jnp.array([True, True, False, False])
TEACHER = jnp.array([True, False, True, False])
UNIFORM = jnp.array([0.0, 0.2499, 0.25, 0.9])


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("either", [1, 1, 1, 0]),
        ("teacher", [1, 0, 1, 0]),
        ("student", [1, 1, 0, 0]),
        ("all", [1, 1, 1, 1]),
        ("random(0.25)", [1, 1, 0, 0]),
        ("random( 1 )", [1, 1, 1, 1]),
    ],
)
def test_who_is_kept(text, kept):
    assert KeepRule.parse(text)(STUDENT, TEACHER, UNIFORM).tolist() == [bool(k) for k in kept]


@pytest.mark.parametrize("text", ["student", "all", "random(0.5)"])
def test_rules_that_ask_no_teacher_work_without_one(text):
    rule = KeepRule.parse(text)
    assert not rule.needs_teacher
    assert rule(STUDENT, None, UNIFORM).shape == (4,)


def test_needs():
    needs = {
        t: (r.needs_teacher, r.needs_uniform) for t in ("either", "teacher", "random(1)") if (r := KeepRule.parse(t))
    }
    assert needs == {"either": (True, False), "teacher": (True, False), "random(1)": (False, True)}


def test_random_keeps_its_share():
    uniform = jax.random.uniform(jax.random.key(1), (20_000,))
    right = jnp.zeros(20_000, bool)
    assert np.mean(KeepRule.parse("random(0.3)")(right, None, uniform)) == pytest.approx(0.3, abs=0.015)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("eihter", "did you mean 'either'?"),
        ("techer", "did you mean 'teacher'?"),
        ("xyz", "only either, teacher, student, random(p), all"),
        ("random", "random(0.5)"),
        ("random(0)", "outside (0, 1]"),
        ("random(1.1)", "outside (0, 1]"),
        ("random(nan)", "outside (0, 1]"),
        ("random(p)", "'p' is not a number"),
        ("random()", "'' is not a number"),
        (0.5, "there is no keep rule 0.5"),
    ],
)
def test_bad_rules_are_named(text, words):
    with pytest.raises(UserError) as error:
        KeepRule.parse(text)
    assert words in str(error.value)
