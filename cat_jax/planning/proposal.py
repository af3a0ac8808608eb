"""What to change so that a train step fits: more microbatches, more rematerialisation, another mesh."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator
from typing import Any

from cat_jax.errors import UserError
from cat_jax.parallel.batches import check_batch_size
from cat_jax.planning.steps import Compiled, TrainCase, activation_bytes, state_bytes, train_step

MOST_TRIES = 4
"""Each is a compilation."""


@dataclasses.dataclass(frozen=True)
class Proposal:
    """A change that fits.

    Attributes:
      flags: the gin flags that make it.
      compiled: the step with it.
      share: of the rows that the step has then.
    """

    flags: tuple[str, ...]
    compiled: Compiled
    share: float = 1.0


@dataclasses.dataclass(frozen=True)
class _Candidate:
    case: TrainCase
    mesh: Any
    flags: tuple[str, ...]
    needed: float  # bytes a chip, guessed


def propose(
    case: TrainCase,
    shape: tuple[int, int, int],
    compiled: Compiled,
    memory: int,
    build: Callable[[tuple[int, int, int]], Any],
    report: Callable[[str], None],
) -> Proposal | None:
    """The first change found to fit, of those that should fit by a guess, least change of the run first.

    Args:
      case: what does not fit.
      shape: of its mesh.
      compiled: its step.
      memory: bytes of a chip.
      build: a mesh of another shape.
      report: is told what is tried.
    """
    tried = 0
    for candidate in _candidates(case, shape, compiled, build):
        if candidate.needed > memory:
            continue
        report(f"trying {' '.join(candidate.flags)}")
        found = train_step(candidate.case, candidate.mesh)
        if found.program is not None and found.total <= memory:
            return Proposal(candidate.flags, found)
        tried += 1
        if tried == MOST_TRIES:
            return None
    return None


def _candidates(
    case: TrainCase, shape: tuple[int, int, int], compiled: Compiled, build: Callable[[tuple[int, int, int]], Any]
) -> Iterator[_Candidate]:
    """Changes in the order of what they cost: nothing but time first, then computing again, then another mesh."""
    kept = compiled.parts["activations"]
    rest = compiled.total - state_bytes(case, build(shape)) - kept
    for new_shape in _shapes(shape):
        mesh = build(new_shape)
        mesh_flags = (
            ()
            if new_shape == shape
            else tuple(
                f"--gin.MeshConfig.{axis}={size}"
                for axis, size in zip(("data", "fsdp", "tensor"), new_shape, strict=True)
            )
        )
        state = state_bytes(case, mesh)
        rows = new_shape[0] * new_shape[1]
        for remat in ("", "full"):
            if remat and getattr(case.model, "remat", remat) == remat:
                continue
            model: Any = case.model
            again = dataclasses.replace(case, model=dataclasses.replace(model, remat=remat) if remat else model)
            activations = kept if not remat and mesh_flags == () else activation_bytes(again, mesh)
            for factor in (1, 2, 4, 8, 16, 32):
                parts = case.num_microbatches * factor
                try:
                    check_batch_size(case.batch_size, mesh, parts)
                except UserError:
                    break
                flags = mesh_flags
                if remat:
                    flags += (f"--gin.{type(case.model).__name__}.remat='\"{remat}\"'",)
                if factor > 1:
                    flags += (f"--gin.NUM_MICROBATCHES={parts}",)
                if not flags:
                    continue
                changed = dataclasses.replace(again, num_microbatches=parts)
                # What is not activations shrinks with the rows of a chip, at best.
                needed = state + activations / factor + rest * (shape[0] * shape[1]) / rows / factor
                yield _Candidate(changed, mesh, flags, needed)


def _shapes(shape: tuple[int, int, int]) -> list[tuple[int, int, int]]:
    """The mesh itself, then with parameters split further."""
    data, fsdp, tensor = shape
    shapes = [shape]
    if data > 1:
        shapes.append((1, data * fsdp, tensor))
    if tensor < 8 and fsdp * data % 2 == 0:
        shapes.append((1, data * fsdp // 2, tensor * 2))
    return shapes


def propose_teach(
    compile_with: Callable[[tuple[int, int, int], int], Compiled],
    shape: tuple[int, int, int],
    rows: int,
    compiled: Compiled,
    memory: int,
    report: Callable[[str], None],
) -> Proposal | None:
    """`propose` for teaching on one host: parameters split over its chips, and fewer rows at a time.

    Args:
      compile_with: (mesh, rows of a chip) -> the step.
      shape: of the host's mesh.
      rows: of a chip that do not fit.
      compiled: their step.
      memory: bytes of a chip.
      report: is told what is tried.
    """
    chips = math.prod(shape)
    parts = chips // shape[0]  # of a copy of the teacher
    parameters = compiled.parts["teacher"] * parts
    per_row = (compiled.total - compiled.parts["teacher"]) / rows
    tried = 0
    for split in dict.fromkeys((parts, chips)):
        for fewer in (rows >> halvings for halvings in range(rows.bit_length())):
            if parameters / split + per_row * fewer > memory or (split == parts and fewer == rows):
                continue
            flags = (f"--gin.TEACH_BATCH_SIZE={fewer}",) if fewer < rows else ()
            if split != parts:
                sizes = {"data": chips // split, "fsdp": split, "tensor": 1}
                flags = (*(f"--gin.teach/MeshConfig.{axis}={size}" for axis, size in sizes.items()), *flags)
            report(f"trying {' '.join(flags)}")
            found = compile_with(shape if split == parts else (chips // split, split, 1), fewer)
            tried += 1
            if found.program is not None and found.total <= memory:
                return Proposal(flags, found, fewer / rows)
            if tried == MOST_TRIES:
                return None
    return None
