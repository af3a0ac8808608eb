"""What an experiment compares: teachers, students, objectives and seeds."""

from __future__ import annotations

import dataclasses
import os
import pathlib
from collections.abc import Mapping, Sequence

from cat_jax.cli import child
from cat_jax.errors import UserError

GinFiles = str | Sequence[str]
"""A gin file or several: paths, or names found as `--gin_file` finds them."""

RESERVED = ("eval", "teach")
"""Scopes that the run files use themselves."""

SIGNALS = ("stored", "live")
_ACCELERATORS = ("/dev/nvidia0", "/dev/accel0", "/dev/vfio/0", "/dev/kfd")
_BYTES_PER_JOB = 2 << 30


@dataclasses.dataclass(frozen=True)
class Experiment:
    """What is compared. Each name of a teacher or a student is a gin scope: `NAME/train.train_steps` is its own.

    Attributes:
      teachers: name to the gin file(s) of its model, or to the directory of a model that is trained already.
      students: name to the gin file(s) of its model.
      objectives: names of gin files `objectives/<name>.gin`, or paths of gin files. An objective's name is a scope
        inside the student's: `STUDENT/cat_xent/NAME` is of that student with that objective.
      seeds: each student and objective is trained with each; it is the macro SEED.
      signal: "stored" runs `teach` once and trains on what it wrote, "live" runs the teacher beside each student.
      train_split: what models are trained on.
      validation_split: what thresholds are picked on; None for none.
      test_split: what everything is reported on.

    Raises:
      UserError: nothing to train, a name twice, or a name that is no gin scope.
    """

    teachers: Mapping[str, GinFiles]
    students: Mapping[str, GinFiles]
    objectives: Sequence[str]
    seeds: Sequence[int] = (0,)
    signal: str = "stored"
    train_split: str = "train"
    validation_split: str | None = "validation"
    test_split: str = "test"

    def __post_init__(self):
        for field in ("teachers", "students"):
            if not isinstance(getattr(self, field), Mapping) or not getattr(self, field):
                raise UserError(f"Experiment.{field} names nothing", "give {'name': 'models/t5_tiny.gin'}")
        for field in ("objectives", "seeds"):
            value = getattr(self, field)
            if isinstance(value, str) or not isinstance(value, Sequence) or not value:
                raise UserError(f"Experiment.{field} is {value!r}", "give a list with at least one entry")
            if len(set(value)) < len(value):
                raise UserError(f"Experiment.{field} {list(value)} has an entry twice", "name each once")
        named: dict[str, str] = {}
        for objective in self.objectives:
            twin = named.setdefault(objective_name(objective), objective)
            if twin != objective:
                raise UserError(
                    f"Experiment.objectives has {twin!r} and {objective!r}, which are both called "
                    f"{objective_name(objective)!r}",
                    "rename one of the files",
                )
        for name in [*self.teachers, *self.students]:
            if not name.isidentifier() or name in RESERVED:
                raise UserError(
                    f"a model cannot be called {name!r}: its name is a gin scope",
                    f"use letters, digits and underscores, and none of {', '.join(RESERVED)}",
                )
        both = sorted(set(self.teachers) & set(self.students))
        if both:
            raise UserError(f"{both[0]} is both a teacher and a student", "give them different names")
        if self.validation_split == self.test_split:
            raise UserError(
                f"Experiment picks thresholds and reports on the same split {self.test_split!r}",
                "set Experiment.validation_split = None, or name another split",
            )
        if self.signal not in SIGNALS:
            raise UserError(f"Experiment.signal is {self.signal!r}", f"choose one of {', '.join(SIGNALS)}")

    @property
    def evaluation_splits(self) -> list[str]:
        """The splits on which every model is evaluated."""
        return [split for split in dict.fromkeys([self.validation_split, self.test_split]) if split is not None]


def objective_name(objective: str) -> str:
    """The name of an objective, from its name or the path of its gin file.

    >>> objective_name("cat_xent"), objective_name("my/focal.gin")
    ('cat_xent', 'focal')
    """
    return pathlib.PurePath(objective).stem if objective.endswith(".gin") else objective


def objective_file(objective: str) -> str:
    """The gin file of an objective, as `--gin_file` takes it."""
    return objective if objective.endswith(".gin") else f"objectives/{objective}.gin"


def is_trained(files: GinFiles) -> bool:
    """Whether a teacher is given as the directory of a trained model instead of gin files."""
    return isinstance(files, str) and not files.endswith(".gin")


def default_jobs() -> int:
    """How many stages run at once if nobody says: one on an accelerator, which one process holds; else one a core.

    No more than fit in memory at 2 GiB each.
    """
    platforms = os.environ.get("JAX_PLATFORMS", "")
    if platforms != "cpu" and any(os.path.exists(path) for path in _ACCELERATORS):
        return 1
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return max(1, min(len(child.usable_cores()), memory // _BYTES_PER_JOB))
