"""The stages of a run: what each runs, what it needs, and whether it is finished.

The rule. A stage is finished when the record in `run.json` says so for the same configuration, and its outputs are
there. The configuration of a stage is what its command uses of the gin bindings, and that of every stage it needs.
If it has changed, a stage that is cheap to bring up to date (evaluate, cascade) runs again; any other is refused with
the difference, so that no long training is thrown away by a typo. With `rerun_changed` it is deleted and done again.
"""

from __future__ import annotations

import dataclasses
import difflib
import pathlib
import shutil
from collections.abc import Mapping, Sequence
from typing import Any

from cat_jax.errors import UserError
from cat_jax.files import atomic_write, fingerprint, read_json, write_json

VERSION = 1


@dataclasses.dataclass(frozen=True)
class Stage:
    """One `cat-jax` command of a run.

    Attributes:
      name: such as `train/student.cat_xent.0`; unique.
      arguments: the command and its flags.
      configuration: what the command uses of the gin bindings, as text.
      needs: names of the stages that must be finished before.
      outputs: files that exist once it is finished.
      owns: the directory that belongs to it alone and is deleted when it is done again; None: the command brings its
        outputs up to date by itself.
      extent: how much of its work is asked for (which splits, say); with more of it the stage runs again, what needs
        it does not.
      inputs: directories; a stage whose outputs are older than a file in them is not finished.
      peers: how many stages, itself included, are likely to run at the same time: they share the cores.
    """

    name: str
    arguments: tuple[str, ...]
    configuration: str
    needs: tuple[str, ...] = ()
    outputs: tuple[pathlib.Path, ...] = ()
    owns: pathlib.Path | None = None
    inputs: tuple[pathlib.Path, ...] = ()
    extent: str = ""
    peers: int = 1

    @property
    def file_name(self) -> str:
        return self.name.replace("/", ".")

    def is_stale(self) -> bool:
        """Whether an input is newer than an output, or an output is missing."""
        if not all(path.exists() for path in self.outputs):
            return True
        made = min((path.stat().st_mtime for path in self.outputs), default=float("inf"))
        read = (file.stat().st_mtime for directory in self.inputs for file in directory.glob("*") if file.is_file())
        return max(read, default=0.0) > made


def fingerprints(stages: Sequence[Stage]) -> dict[str, str]:
    """Of each stage: of its configuration and of all that it needs. `stages` lists a stage after what it needs."""
    found: dict[str, str] = {}
    for stage in stages:
        found[stage.name] = fingerprint([stage.configuration, *(found[name] for name in stage.needs)])
    return found


class Ledger:
    """What is known of the stages of a run directory: `run.json` and the configuration of each stage as it began."""

    def __init__(self, run_dir: pathlib.Path):
        self._path = run_dir / "run.json"
        self._configs = run_dir / "configs"
        self._records: dict[str, dict[str, Any]] = {}
        if self._path.exists():
            mend = f"delete {self._path} to look at every stage again"
            content = read_json(self._path, "run record", mend)
            if not isinstance(content, dict) or content.get("version") != VERSION:
                raise UserError(f"{self._path} is not a run record of version {VERSION}", mend)
            self._records = content["stages"]

    def pending(self, stages: Sequence[Stage], rerun_changed: bool) -> list[Stage]:
        """The stages that are not finished; deletes nothing.

        Raises:
          UserError: the configuration of a stage that is not cheap has changed, and `rerun_changed` is off.
        """
        prints = fingerprints(stages)
        pending: set[str] = set()
        for stage in reversed(stages):
            record = self._records.get(stage.name)
            changed = record is not None and record["fingerprint"] != prints[stage.name]
            if changed and stage.owns is not None and stage.owns.exists() and not rerun_changed:
                raise UserError(
                    f"stage {stage.name} was begun with another configuration ({self._difference(stage, stages)})",
                    "take the change back, name another RUN_DIR, or do it again with --gin.run.rerun_changed=True",
                )
            as_recorded = {"fingerprint": prints[stage.name], "extent": stage.extent, "state": "finished"}
            finished = record is not None and as_recorded.items() <= record.items()
            there = not stage.is_stale()
            users = [other for other in stages if stage.name in other.needs]
            wanted = not users or any(user.name in pending for user in users)
            # Outputs that were deleted (a large signal, say) are made again only for a stage that still needs them.
            if not finished or (not there and wanted):
                pending.add(stage.name)
        return [stage for stage in stages if stage.name in pending]

    def begin(self, stage: Stage, print_of: Mapping[str, str]) -> None:
        """Records that a stage starts; what it left under another configuration is deleted."""
        record = self._records.get(stage.name)
        if record is not None and record["fingerprint"] != print_of[stage.name] and stage.owns is not None:
            shutil.rmtree(stage.owns, ignore_errors=True)
        atomic_write(self._config_of(stage), stage.configuration.encode())
        self._write(stage, fingerprint=print_of[stage.name], extent=stage.extent, state="begun")

    def end(self, stage: Stage, exit_code: int, seconds: float) -> None:
        """Records how a stage ended; the time of all its attempts is added up."""
        spent = self._records[stage.name].get("seconds", 0.0) + round(seconds, 1)
        state = "finished" if exit_code == 0 else "failed"
        self._write(stage, state=state, exit_code=exit_code, seconds=round(spent, 1))

    def seconds(self, stage: Stage) -> float:
        """The time that a stage has taken so far."""
        return self._records.get(stage.name, {}).get("seconds", 0.0)

    def _write(self, stage: Stage, **fields: Any) -> None:
        known = self._records.get(stage.name, {})
        if fields.get("fingerprint", known.get("fingerprint")) != known.get("fingerprint"):
            known = {}
        self._records[stage.name] = {**known, **fields}
        write_json(self._path, {"version": VERSION, "stages": self._records})

    def _config_of(self, stage: Stage) -> pathlib.Path:
        return self._configs / f"{stage.file_name}.gin"

    def _difference(self, stage: Stage, stages: Sequence[Stage]) -> str:
        """The first lines in which the configuration of a stage, or of one that it needs, differs from before."""
        for name in (stage.name, *stage.needs):
            needed = next(other for other in stages if other.name == name)
            if told := self._own_difference(needed):
                return told if needed is stage else f"of {name}, which it needs: {told}"
        return f"of a stage that it needs: {', '.join(stage.needs)}"

    def _own_difference(self, stage: Stage) -> str:
        path = self._config_of(stage)
        before = path.read_text().splitlines() if path.exists() else []
        lines = [
            line
            for line in difflib.unified_diff(before, stage.configuration.splitlines(), lineterm="", n=0)
            if line[:1] in "+-" and line[:3] not in ("+++", "---")
        ]
        if not lines:
            return ""
        removed = [line[1:] for line in lines if line[0] == "-"][:2]
        added = [line[1:] for line in lines if line[0] == "+"][:2]
        return f"then {'; '.join(removed) or 'nothing'}, now {'; '.join(added) or 'nothing'}"
