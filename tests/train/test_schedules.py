"""Schedules against numbers computed by hand from t5x's definitions."""

import numpy as np
import pytest

from cat_jax.errors import UserError
from cat_jax.train.schedule import CosineDecay, LinearDecay, Schedule


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        # 0.5 * min(1, s / 100) / sqrt(max(s, 100))
        (Schedule(warmup_steps=100), {0: 1e-8, 50: 0.025, 100: 0.05, 400: 0.025, 10000: 0.005}),
        (Schedule("constant", 0.003), {0: 0.003, 7: 0.003}),
        # 2 * sqrt(4) / sqrt(max(s, 4))
        (Schedule("constant * rsqrt_normalized_decay", 2.0, warmup_steps=4), {0: 2.0, 4: 2.0, 16: 1.0, 64: 0.5}),
        # 1 * 0.5 ** (s // 10)
        (Schedule("constant * decay_every", 1.0, steps_per_decay=10), {9: 1.0, 10: 0.5, 35: 0.125}),
        # (1 + cos(pi * ((s - 10) / 40 mod 1))) / 2
        (
            Schedule("constant*cosine_decay", 1.0, warmup_steps=10, steps_per_cycle=40),
            {0: 1.0, 10: 1.0, 30: 0.5, 40: 0.1464466, 50: 1.0},
        ),
        # 1 * min(s / 10, 1 + 0.05 * (10 - s)), at least 1e-8
        (
            Schedule("linear_decay", 1.0, warmup_steps=10, decay_factor=0.05),
            {5: 0.5, 10: 1.0, 20: 0.5, 30: 1e-8, 90: 1e-8},
        ),
        (Schedule("constant * linear_warmup", 1.0, warmup_steps=4, step_offset=100), {50: 1e-8, 102: 0.5, 200: 1.0}),
        (LinearDecay(2.0, 10, 2, 1.0), {0: 0.0, 1: 1.0, 2: 2.0, 6: 1.5, 10: 1.0, 99: 1.0}),
        (CosineDecay(2.0, 10, 0), {0: 2.0, 5: 1.0, 10: 0.0, 11: 0.0}),
    ],
)
def test_schedule(schedule, expected):
    for step, rate in expected.items():
        np.testing.assert_allclose(schedule(step), rate, rtol=1e-5, atol=1e-9)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Schedule("constant * rsqrt"), ["'rsqrt'", "did you mean 'rsqrt_decay'"]),
        (lambda: Schedule(warmup_steps=0), ["Schedule.warmup_steps is 0", "at least 1"]),
        (lambda: Schedule(base_learning_rate=float("nan")), ["base_learning_rate is nan"]),
        (
            lambda: LinearDecay(1.0, total_steps=5, warmup_steps=5),
            ["total_steps (TRAIN_STEPS, as", "is 5, all within"],
        ),
        (lambda: LinearDecay(1.0, total_steps=0), ["LinearDecay.total_steps is 0", "at least 1"]),
        (lambda: CosineDecay(-1.0, 5), ["CosineDecay.peak is -1.0"]),
    ],
)
def test_bad_schedules_are_named(make, words):
    with pytest.raises(UserError) as error:
        make()
    for word in words:
        assert word in str(error.value)
