"""What a path is a checkpoint of, by what lies there; and its arrays."""

from __future__ import annotations

import dataclasses
import pathlib

from cat_jax.errors import UserError
from cat_jax.foreign import gguf_file, gguf_model, hugging_face, orbax_files, t5x_files
from cat_jax.foreign.arrays import Checkpoint
from cat_jax.foreign.pickles import refuse_pickle, refuse_pickles_of

HUGGING_FACE, GGUF, T5X, ORBAX = "Hugging Face", "GGUF", "T5X", "Orbax"


@dataclasses.dataclass(frozen=True)
class Found:
    """A checkpoint of another program.

    Attributes:
      kind: `HUGGING_FACE`, `GGUF`, `T5X` or `ORBAX`.
      path: the folder, directory or file.
      step: as its name says; 0 if it does not.
    """

    kind: str
    path: pathlib.Path
    step: int

    @property
    def says_its_model(self) -> bool:
        """Whether it has the model's configuration, and names as `transformers` has them."""
        return self.kind in (HUGGING_FACE, GGUF)

    def open(self) -> Checkpoint:
        """Its arrays by name; their data is not read.

        Raises:
          UserError: it is damaged, or of a kind that is not read.
        """
        if self.kind == HUGGING_FACE:
            return hugging_face.open_folder(self.path)
        if self.kind == GGUF:
            return gguf_model.open_file(self.path)
        return t5x_files.open_checkpoint(self.path) if self.kind == T5X else orbax_files.open_item(self.path)


def find(path: pathlib.Path, step: int | str | None = None) -> Found | None:
    """What is at `path`, if it is another program's; only names are looked at.

    Args:
      path: a folder of `transformers`; a GGUF file; a checkpoint of T5X, or the directory of its run; a directory of
        Orbax.
      step: which one of a run; None for the newest.

    Raises:
      UserError: a pickle, adapters without their model, or a step that is not there.
    """
    if path.is_file():
        refuse_pickle(path)
        if path.suffix == ".safetensors":
            raise UserError(f"{path} does not say what model it is of", f"name its folder, {path.parent}")
        if gguf_file.is_gguf(path):
            return _with_step(Found(GGUF, path, 0), step)
    if hugging_face.is_folder(path):
        return _with_step(Found(HUGGING_FACE, path, 0), step)
    if t5x_files.is_checkpoint(path):
        return _with_step(Found(T5X, path, t5x_files.step_of(path)), step)
    steps = t5x_files.steps_of(path)
    if steps:
        if step is not None and step not in steps:
            raise UserError(f"{path} has no checkpoint of step {step!r}", f"use one of {', '.join(map(str, steps))}")
        number = steps[-1] if step is None else int(step)
        return Found(T5X, path / f"checkpoint_{number}", number)
    item = orbax_files.find_item(path)
    if item is not None:
        return _with_step(Found(ORBAX, item, t5x_files.step_of(path)), step)
    if path.is_dir():
        files = sorted(path.glob(f"*{gguf_file.SUFFIX}"))
        if files and not (path / "model.json").exists():
            raise UserError(f"{path} is a folder with {len(files)} GGUF files", f"name one: {files[0]}")
        hugging_face.refuse_adapters(path)
        refuse_pickles_of(path)
    return None


def _with_step(found: Found, step: int | str | None) -> Found:
    if step is not None and step != found.step:
        raise UserError(f"{found.path} is one checkpoint, and step {step!r} of it is asked for", "leave the step out")
    return found
