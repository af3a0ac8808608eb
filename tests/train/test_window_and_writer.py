"""Metrics between the step and the files: added in f64, exact over a resume, cut back to the restored step."""

import json

import jax.numpy as jnp
import numpy as np
import pytest

from cat_jax.errors import NonFiniteError, UserError
from cat_jax.losses.metrics import SUMS
from cat_jax.train.chips import peak_flops
from cat_jax.train.clock import Clock
from cat_jax.train.metrics_writer import MetricsWriter
from cat_jax.train.packed import PackedMetrics
from cat_jax.train.run_file import describe, first_difference
from cat_jax.train.window import MetricWindow


def packed(step, **fields):
    sums = {name: jnp.array([4.0, 2.0 * step]) for name in SUMS}
    scalars = {"loss_sum": 4.0 + 2 * step, "weight_sum": 1.0, "grad_norm": float(step), "learning_rate": 0.1 * step}
    metrics = {**sums, **scalars, "input_tokens": 10.0, "teacher_failures": 0.0, **fields}
    return PackedMetrics.pack({name: jnp.asarray(value) for name, value in metrics.items()})


def test_a_window_is_the_mean_over_tokens():
    window = MetricWindow()
    for step, loss in ((1, [1.0, 3.0]), (2, [3.0, 1.0])):
        window.add(step, packed(step, loss=loss))
    scalars = window.take(["a", "b"])
    assert scalars["loss"] == pytest.approx(8 / 14)  # (1 + 3 + 3 + 1) / (4 + 2 + 4 + 4)
    assert scalars["a/loss"] == pytest.approx(4 / 8)
    assert scalars["b/loss"] == pytest.approx(4 / 6)
    assert scalars["grad_norm"] == 1.5
    assert scalars["learning_rate"] == pytest.approx(0.2)
    assert scalars["input_tokens"] == 20
    assert window.empty()


def test_counts_beyond_24_bits_are_exact():
    window = MetricWindow()
    for step in range(1, 4):
        window.add(step, packed(step, target_tokens=[2.0**24, 0.0]))
        window.add(step, packed(step, target_tokens=[1.0, 0.0]))
    assert window.take(["a", "b"])["target_tokens"] == 3 * 2**24 + 3


def test_a_window_goes_through_a_checkpoint_exactly():
    whole, before = MetricWindow(), MetricWindow()
    for step in (1, 2):
        whole.add(step, packed(step, loss=[0.1, 1e-7]))
        before.add(step, packed(step, loss=[0.1, 1e-7]))
    after = MetricWindow(json.loads(json.dumps(before.state())))
    whole.add(3, packed(3))
    after.add(3, packed(3))
    assert after.take(["a", "b"]) == whole.take(["a", "b"])


@pytest.mark.parametrize(("fields", "what"), [({"loss_sum": np.nan}, "loss"), ({"grad_norm": np.inf}, "gradient norm")])
def test_the_first_bad_step_is_named(fields, what):
    window = MetricWindow()
    for step in (7, 8, 9):
        window.add(step, packed(step, **(fields if step >= 8 else {})))
    window.settle(leave=2)
    with pytest.raises(NonFiniteError, match=f"the {what} of step 8 is not finite"):
        window.settle()


def test_a_teacher_that_fails_is_named_before_the_loss_that_it_spoils():
    window = MetricWindow(teacher="large at step 7")
    window.add(3, packed(3, teacher_failures=5.0, loss_sum=np.nan))
    words = "the teacher large at step 7 gives numbers that are not finite for 5 target tokens of step 3"
    with pytest.raises(NonFiniteError, match=words):
        window.settle()


def lines(tmp_path):
    return [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]


def test_records_after_the_restored_step_are_done_again(tmp_path):
    writer = MetricsWriter(tmp_path, 0)
    for step in (2, 4, 6):
        writer.write(step, "train", {"loss": float(step)}, {"seconds": 1.0})
    writer.close()
    with (tmp_path / "metrics.jsonl").open("a") as f:
        f.write('{"step": 8, "tra')  # killed while writing
    MetricsWriter(tmp_path, 4).close()
    assert lines(tmp_path) == [{"step": s, "train/loss": float(s), "timing": {"seconds": 1.0}} for s in (2, 4)]
    assert sorted(p.name for p in (tmp_path / "tensorboard").iterdir())


def test_a_file_that_is_no_log_is_not_touched(tmp_path):
    (tmp_path / "metrics.jsonl").write_text("my notes\nmore\n")
    with pytest.raises(UserError, match=r"line 1 of .*metrics.jsonl is not a record"):
        MetricsWriter(tmp_path, 4)
    assert (tmp_path / "metrics.jsonl").read_text() == "my notes\nmore\n"


def test_the_clock_leaves_out_pauses(monkeypatch):
    monkeypatch.setattr("cat_jax.train.clock.peak_flops", lambda kind: 100.0)
    times = iter([0.0, 1.0, 4.0, 7.0, 7.0])
    clock = Clock(flops_per_step=50.0, num_devices=2, now=lambda: next(times))
    with clock.pause():
        pass
    lap = clock.lap(8, tokens_per_step=5.0)  # 7 seconds, of which 3 paused
    assert lap == {"seconds": 4.0, "steps_per_second": 2.0, "tokens_per_second": 10.0, "mfu": 0.5}


def test_chips_are_known_by_the_longest_name():
    assert peak_flops("TPU v5 lite") == 197e12
    assert peak_flops("TPU v5") == 459e12
    assert peak_flops("NVIDIA H100 PCIe") == 756e12
    assert peak_flops("cpu") is None


def test_differences_are_found_at_any_depth():
    assert first_difference({"a": [1, {"b": 2}]}, {"a": [1, {"b": 2}]}) is None
    assert first_difference({"a": 1}, {"a": 1, "b": {"c": 2}}) == "b was None and is now {'c': 2}"
    assert describe({"x": (1, None), "y": len}) == {"x": [1, None], "y": "len"}
