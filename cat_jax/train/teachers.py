"""The teacher of a run: whether student and data can follow it, and by what the run's directory knows it again."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from cat_jax.checkpoint.params import read_model_file, split_step_dir
from cat_jax.data.beginnings import check_beginnings
from cat_jax.data.store import ExampleStore
from cat_jax.errors import UserError
from cat_jax.losses.objective import Objective
from cat_jax.models.int8 import in_dtype
from cat_jax.teacher.live import LiveTeacher
from cat_jax.teacher.store import SignalStore, StoredTeacher
from cat_jax.teacher.vocabulary import check_teacher_vocabularies
from cat_jax.types import ModelConfig

Teacher = LiveTeacher | StoredTeacher


def check_live(teacher: LiveTeacher, model: ModelConfig, objective: Objective, stores: Iterable[ExampleStore]) -> None:
    """Checks a live teacher before it is loaded.

    Raises:
      UserError: there is no such model; it was trained on other vocabularies than the stores', does not know all their
        ids, has ids that the student lacks (see `check_signals`), reads the inputs where the student does not, or
        cannot do without any; or there is no such dtype.
    """
    model_dir, step = split_step_dir(teacher.model_dir, teacher.step)
    config, vocabularies = read_model_file(model_dir, teacher.model, step)
    in_dtype(config, teacher.dtype)  # refuses what is none
    if config.prompt != model.prompt:
        raise UserError(
            f"the live teacher {model_dir} reads inputs as {config.prompt}, the student as {model.prompt}: one batch "
            "cannot be both",
            "run `cat-jax teach` with this teacher, and train with @StoredTeacher()",
        )
    for store in stores:
        check_beginnings([store], config)
        features = store.manifest.features
        check_teacher_vocabularies(str(model_dir), vocabularies, config.vocab_size, features, str(store.directory))
    _check_ids(f"the teacher {model_dir}", config.vocab_size, model, objective)


def check_signals(signals: Mapping[str, SignalStore], model: ModelConfig, objective: Objective) -> None:
    """Checks that the student has every id that a stored distribution may name. The bit names none.

    Raises:
      UserError: it has not.
    """
    for signal in signals.values():
        _check_ids(f"the signal {signal.directory}", signal.manifest.recipe.vocab_size, model, objective)


def _check_ids(teacher: str, vocab_size: int, model: ModelConfig, objective: Objective) -> None:
    if objective.needs_distribution and vocab_size > model.vocab_size:
        raise UserError(
            f"{teacher} has a distribution over {vocab_size} ids, the student knows {model.vocab_size}",
            f"set the student's vocab_size to at least {vocab_size}, or train with Objective.w = 1",
        )


def describe_teacher(teacher: Teacher | None, signals: Mapping[str, SignalStore] | None) -> dict[str, Any] | None:
    """JSON for the run's description: equal for equal content, wherever it lies; `named` is for people.

    Args:
      teacher: of the run.
      signals: the training data's, where the teacher is stored.

    Raises:
      UserError: there is no such model.
    """
    if isinstance(teacher, LiveTeacher):
        identity = teacher.identity()
        named = f"{identity.name} at step {identity.step}"
        return {"kind": "LiveTeacher", "dtype": identity.dtype, "fingerprint": identity.fingerprint, "named": named}
    if teacher is None:
        return None
    return {"kind": "StoredTeacher", "signals": {task: _describe(signal) for task, signal in (signals or {}).items()}}


def _describe(signal: SignalStore) -> dict[str, str]:
    identity = signal.manifest.recipe.teacher
    named = f"the {signal.layout.kind} signal of {identity.name} at step {identity.step}"
    return {"fingerprint": signal.manifest.fingerprint, "named": named}
