"""From an experiment to the stages of its run: which command, with which flags, after which."""

from __future__ import annotations

import dataclasses
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from cat_jax.checkpoint.params import checkpoint_fingerprint, split_step_dir
from cat_jax.cli import configuration
from cat_jax.cli.bindings import Macro, Reach, Reference, text_of
from cat_jax.cli.command import GinFlags
from cat_jax.cli.experiment import Experiment, GinFiles, is_trained, objective_file, objective_name
from cat_jax.cli.spelling import check_bindings, check_scopes
from cat_jax.cli.stages import Stage
from cat_jax.errors import UserError

TEACHER_OBJECTIVE = "xent"

IRRELEVANT = ("MeshConfig", "CheckpointConfig", "PrepareConfig.workers", "PrepareConfig.overwrite")
"""Bindings that change how fast a result comes or what is kept of it, not the result: free to change in a run."""


@dataclasses.dataclass(frozen=True)
class Student:
    """A small model of the run."""

    name: str
    teacher: str
    scope: str
    files: GinFiles
    objective: str
    seed: int


class Plan:
    """The stages of an experiment, and where each model, signal, table and report goes below the run directory.

    Args:
      experiment: what to compare.
      run_dir: where everything goes.
      flags: the configuration flags of `run`: every stage reads the same files, in its own scope.
      jobs: how many stages run at once: into so many processes the evaluation of students is split.

    Raises:
      UserError: a stage's configuration is wrong; names the stage.
    """

    def __init__(self, experiment: Experiment, run_dir: str | os.PathLike, flags: GinFlags, jobs: int):
        self._experiment, self._flags, self._jobs = experiment, flags, jobs
        self.run_dir = pathlib.Path(run_dir)
        self.tables_dir = self.run_dir / "tables"
        self.students = self._students()
        bindings = configuration.of_flags(flags)
        objectives = [*map(objective_name, experiment.objectives)]
        check_scopes(bindings, [*experiment.teachers, *experiment.students], objectives)
        shared = bindings.macro("STORE_DIR")
        self.store_dir = shared if isinstance(shared, str) else str(self.run_dir / "store")
        self._visited = set(bindings.reachable(["run"]).visited)  # what the run and its stages make
        self.stages = self._stages()
        check_bindings(bindings, self._visited)

    def model_dir(self, name: str) -> str:
        """The directory of a model."""
        files = self._experiment.teachers.get(name)
        return str(files) if files is not None and is_trained(files) else str(self.run_dir / "models" / name)

    def report_dir(self, teacher: str, student: str) -> pathlib.Path:
        """Where the report of a pair goes: the run directory itself if there is one pair."""
        single = len(self._experiment.teachers) == len(self._experiment.students) == 1
        return self.run_dir if single else self.run_dir / "reports" / f"{teacher}.{student}"

    def pairs(self) -> list[tuple[str, str]]:
        """The pairs of a teacher and a student that have a report each."""
        return [(teacher, student) for teacher in self._experiment.teachers for student in self._experiment.students]

    def _students(self) -> list[Student]:
        experiment = self._experiment
        found = []
        for teacher, student in self.pairs():
            prefix = f"{teacher}.{student}" if len(experiment.teachers) > 1 else student
            # Seeds of one objective come far apart: the later one finds the program of the earlier one compiled.
            for seed in experiment.seeds:
                for objective in experiment.objectives:
                    name = f"{prefix}.{objective_name(objective)}.{seed}"
                    found.append(Student(name, teacher, student, experiment.students[student], objective, seed))
        return found

    def _stages(self) -> list[Stage]:
        stages = [self._prepare()]
        for name, files in self._experiment.teachers.items():
            if not is_trained(files):
                stages.append(self._train_teacher(name, files))
            if self._experiment.signal == "stored":
                stages.append(self._teach(name, files))
        stages.append(self._evaluate("evaluate/teachers", list(self._experiment.teachers), stages, peers=2))
        trained = [self._train_student(student) for student in self.students]
        stages += trained
        evaluated = [stages[-1 - len(trained)].name]
        groups = min(self._jobs, len(trained))
        size = -(-len(trained) // groups)
        for start in range(0, len(trained), size):
            names = [student.name for student in self.students[start : start + size]]
            name = f"evaluate/students.{start // size}"
            stages.append(self._evaluate(name, names, trained[start : start + size], peers=groups))
            evaluated.append(name)
        return [*stages, *(self._cascade(*pair, evaluated) for pair in self.pairs())]

    def _prepare(self) -> Stage:
        experiment = self._experiment
        splits = list(dict.fromkeys([experiment.train_split, *experiment.evaluation_splits]))
        return self._stage(
            "prepare", "prepare", {}, outputs=(pathlib.Path(self.store_dir),), extent={"PREPARE_SPLITS": splits}
        )

    def _train_teacher(self, name: str, files: GinFiles) -> Stage:
        return self._stage(
            f"train/{name}",
            "train",
            {"MODEL_DIR": self.model_dir(name), "TEACHER": None, **self._no_evaluation()},
            models=files,
            objective=TEACHER_OBJECTIVE,
            scope=name,
            needs=["prepare"],
            peers=len(self._experiment.teachers),
            **self._owned(self.model_dir(name), "model.json"),
        )

    def _teach(self, name: str, files: GinFiles) -> Stage:
        signal_dir = str(self.run_dir / "signals" / name)
        return self._stage(
            f"teach/{name}",
            "teach",
            {
                "TEACHER_DIR": self.model_dir(name),
                "SIGNAL_DIR": signal_dir,
                "TEACH_SPLITS": [self._experiment.train_split],
            },
            models=() if is_trained(files) else files,
            scope=name,
            needs=["prepare"] if is_trained(files) else ["prepare", f"train/{name}"],
            peers=len(self._experiment.teachers),
            teachers=[name],
            **self._owned(signal_dir),
        )

    def _train_student(self, student: Student) -> Stage:
        live = self._experiment.signal == "live"
        source = Reference("", "LiveTeacher" if live else "StoredTeacher", evaluate=True)
        trained = is_trained(self._experiment.teachers[student.teacher])
        needs = f"teach/{student.teacher}" if not live else f"train/{student.teacher}"
        model_dir = self.model_dir(student.name)
        return self._stage(
            f"train/{student.name}",
            "train",
            {
                "MODEL_DIR": model_dir,
                "SEED": student.seed,
                "TEACHER": source,
                "TEACHER_DIR": self.model_dir(student.teacher),
                "SIGNAL_DIR": str(self.run_dir / "signals" / student.teacher),
                **({} if live else self._signals_teacher(student.teacher)),
                **self._no_evaluation(),
            },
            models=student.files,
            objective=student.objective,
            scope=f"{student.scope}/{objective_name(student.objective)}",
            needs=["prepare"] if live and trained else ["prepare", needs],
            peers=len(self.students),
            teachers=[student.teacher] if live else [],
            **self._owned(model_dir, "model.json"),
        )

    def _signals_teacher(self, teacher: str) -> dict[str, Any]:
        """The checkpoint that a stored signal must be from: the one that `teach` reads, in the teacher's scope."""
        scoped = configuration.of_flags(dataclasses.replace(self._flags, scope=teacher)).merged()
        step = {"StoredTeacher.step": scoped["teach.step"].value} if "teach.step" in scoped else {}
        return {"StoredTeacher.model_dir": Macro("TEACHER_DIR"), **step}

    def _no_evaluation(self) -> dict[str, None]:
        """While training there is none if there is no split for it."""
        return {"EVAL_DATASET": None} if self._experiment.validation_split is None else {}

    def _evaluate(self, name: str, models: Sequence[str], needs: Sequence[Stage], peers: int) -> Stage:
        return self._stage(
            name,
            "evaluate",
            {
                "EVAL_MODELS": {model: self.model_dir(model) for model in models},
                "EVAL_SPLITS": self._experiment.evaluation_splits,
                "TABLES_DIR": str(self.tables_dir),
                **self._model_files(models),
            },
            needs=["prepare", *(stage.name for stage in needs if stage.name.startswith("train/"))],
            outputs=tuple(self.tables_dir / model for model in models),
            peers=peers,
            teachers=[model for model in models if model in self._experiment.teachers],
        )

    def _model_files(self, models: Sequence[str]) -> dict[str, Any]:
        """EVAL_MODEL_FILES of those models alone, where there is such a thing."""
        files = configuration.of_flags(self._flags).macro("EVAL_MODEL_FILES")
        named = {model: files[model] for model in models if model in files} if isinstance(files, Mapping) else {}
        return {"EVAL_MODEL_FILES": named or None} if files else {}

    def _cascade(self, teacher: str, scope: str, needs: Sequence[str]) -> Stage:
        mine = [s for s in self.students if (s.teacher, s.scope) == (teacher, scope)]
        directories = {teacher: self.model_dir(teacher), **{s.name: self.model_dir(s.name) for s in mine}}
        report_dir = self.report_dir(teacher, scope)
        return self._stage(
            "cascade" if report_dir == self.run_dir else f"cascade/{teacher}.{scope}",
            "cascade",
            {
                "TABLES_DIR": str(self.tables_dir),
                "REPORT_DIR": str(report_dir),
                "LARGE": teacher,
                "STUDENTS": {s.name: (objective_name(s.objective), s.seed) for s in mine},
                "HISTORIES": {s.name: os.path.join(directories[s.name], "metrics.jsonl") for s in mine},
                "CONFIGS": self._configs(directories),
                "TEST_SPLIT": self._experiment.test_split,
                "VALIDATION_SPLIT": self._experiment.validation_split,
            },
            needs=needs,
            outputs=(report_dir / "report.html", report_dir / "results.json"),
            inputs=tuple(self.tables_dir / name for name in directories),
        )

    def _configs(self, directories: Mapping[str, str]) -> dict[str, str]:
        """The configurations that a report shows: a model that was trained elsewhere may have come without one."""
        found = {}
        for name, directory in directories.items():
            path = split_step_dir(directory)[0] / "operative_config.gin"
            if path.exists() or not is_trained(self._experiment.teachers.get(name, ())):
                found[name] = str(path)
        return found

    def _owned(self, directory: str, *files: str) -> dict[str, Any]:
        """The outputs of a stage that a directory belongs to; a directory elsewhere is never deleted."""
        path = pathlib.Path(directory)
        return {"outputs": tuple(path / file for file in files) or (path,), "owns": path}

    def _stage(
        self,
        name: str,
        command: str,
        macros: Mapping[str, Any],
        *,
        models: GinFiles = (),
        objective: str | None = None,
        scope: str = "",
        needs: Sequence[str] = (),
        outputs: Sequence[pathlib.Path] = (),
        owns: pathlib.Path | None = None,
        inputs: Sequence[pathlib.Path] = (),
        extent: Mapping[str, Any] | None = None,
        peers: int = 1,
        teachers: Sequence[str] = (),
    ) -> Stage:
        """A stage, its configuration checked.

        Args:
          name: of the stage.
          command: of `cat-jax`.
          macros: what the run decides, beyond STORE_DIR: macros, and bindings by their full name.
          models: gin files read before those of the run, which may change what they bind.
          objective: its gin file is read after those of the run: it alone says what the objective is.
          scope: the gin scope that the command runs in.
          needs: names of stages.
          outputs: as in `Stage`.
          owns: as in `Stage`.
          inputs: as in `Stage`.
          extent: macros that say how much of the work is asked for.
          peers: as in `Stage`.
          teachers: those that the command reads; of one that is trained already the stage keeps in mind which
            parameters it found.
        """
        macros = {"STORE_DIR": self.store_dir, **macros, **(extent or {})}
        flags = dataclasses.replace(
            self._flags,
            files=(*_listed(models), *self._flags.files, *([objective_file(objective)] if objective else [])),
            bindings=(*self._flags.bindings, *(f"{macro}={value!r}" for macro, value in macros.items())),
            scope=scope,
        )
        try:
            bindings = configuration.of_flags(flags)
            reach = configuration.check(bindings, command)
            self._visited.update(reach.visited)
            # What a constructor refuses is told now, not after the stages before.
            configuration.build(bindings, command, reach)
        except UserError as e:
            raise UserError(f"stage {name}: {e.problem}", e.mend) from e
        return Stage(
            name=name,
            arguments=(command, *flags.arguments(), "--debug=unexpected"),
            configuration=self._found(teachers, reach) + self._text(reach, extent or {}),
            needs=tuple(needs),
            outputs=tuple(outputs),
            owns=owns,
            inputs=tuple(inputs),
            extent=repr(dict(extent or {})),
            peers=peers,
        )

    def _text(self, reach: Reach, extent: Mapping[str, Any]) -> str:
        """The configuration of a stage as far as it decides the result; the same wherever the run directory lies."""
        items = [item for item in reach.used if item.key not in (*IRRELEVANT, *extent) and item.name not in IRRELEVANT]
        return text_of(dataclasses.replace(item, value=self._below(item.value)) for item in items)

    def _below(self, value: Any) -> Any:
        """`value` with RUN_DIR for the run directory in the paths that it holds."""
        if isinstance(value, str):
            below = value == str(self.run_dir) or value.startswith(f"{self.run_dir}{os.sep}")
            return "RUN_DIR" + value.removeprefix(str(self.run_dir)) if below else value
        if isinstance(value, Mapping):
            return {self._below(key): self._below(item) for key, item in value.items()}
        if isinstance(value, list | tuple):
            return type(value)(self._below(item) for item in value)
        return value

    def _found(self, teachers: Sequence[str], reach: Reach) -> str:
        """A line for each teacher that is trained already: the checkpoint that is there now."""
        keys = ("teach.step", "LiveTeacher.step")
        steps = [item.value for item in reach.used if item.key in keys and isinstance(item.value, int | str)]
        lines = []
        for name in teachers:
            files = self._experiment.teachers[name]
            if isinstance(files, str) and is_trained(files):
                lines.append(
                    f"# {files} has the parameters {checkpoint_fingerprint(files, steps[0] if steps else None)}\n"
                )
        return "".join(lines)


def _listed(files: GinFiles) -> list[str]:
    return [files] if isinstance(files, str) else list(files)
