"""Checkpoints of a training run: saved in the background, sealed, verified, few."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import logging
import os
import pathlib
import re
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from jax.experimental import multihost_utils

from cat_jax.checkpoint.digest import params_digest
from cat_jax.checkpoint.retention import CheckpointConfig, checkpoints_dir, unwanted_steps
from cat_jax.checkpoint.seal import (
    Seal,
    files_to_check,
    find_damage,
    hash_files,
    read_seal,
    remove_step,
    remove_unsealed,
    sealed_steps,
    write_seal,
)
from cat_jax.errors import UserError
from cat_jax.files import atomic_write, cannot_write, read_json, write_json
from cat_jax.parallel.barrier import barrier

logger = logging.getLogger(__name__)

_DISK_TROUBLE = re.compile(r"No space left|Read-only|Permission denied|File too large|quota|Input/output error", re.I)


@dataclasses.dataclass(frozen=True)
class Restored:
    """A checkpoint read back: arrays where the caller wants them, and this process's own notes."""

    step: int
    params: dict[str, jax.Array]
    state: dict[str, jax.Array]
    host: Any


_DISCARDS = 20


class CheckpointManager:
    """Reads and writes `<model_dir>/checkpoints`; every process of a run holds one and calls it alike.

    A save returns as soon as the arrays are copied; a thread lets Orbax finish, computes checksums, seals the step
    and removes the ones that are no longer wanted. Errors of that thread surface at the next `save`, `wait` or
    `close`. Only one manager may write to a directory at a time.

    Args:
      model_dir: the run's directory.
      config: what to keep.
      writable: False opens it for restoring alone and touches nothing.

    Raises:
      UserError: the directory cannot be written.
    """

    def __init__(self, model_dir: str | os.PathLike, config: CheckpointConfig | None = None, *, writable: bool = True):
        self.directory = checkpoints_dir(model_dir)
        self._config = config or CheckpointConfig()
        self._checkpointer = ocp.AsyncCheckpointer(ocp.CompositeCheckpointHandler())
        self._thread: threading.Thread | None = None
        self._failure: BaseException | None = None
        if writable and jax.process_index() == 0:
            atomic_write(self.directory / ".probe", b"")  # a read-only or full disk shows now, not after the first hour
            removed = [name for name in remove_unsealed(self.directory) if not name.startswith(".probe")]
            if removed:
                logger.warning("removed unfinished checkpoints: %s", ", ".join(removed))
        if writable:
            _meet("open", self.directory)

    def __enter__(self) -> CheckpointManager:
        return self

    def __exit__(self, *_) -> None:
        self.close()

    def latest(self) -> int | None:
        """The newest sealed step; None if there is none."""
        steps = sealed_steps(self.directory)
        return steps[-1] if steps else None

    def save(
        self,
        step: int,
        params: Mapping[str, jax.Array],
        state: Mapping[str, jax.Array],
        host: Any,
        metrics: Mapping[str, float] | None = None,
    ) -> None:
        """Starts to save; returns when the arrays may be donated or overwritten.

        Args:
          step: the number of updates behind `params`.
          params: the model's parameters by name.
          state: everything else that lives on devices, by name.
          host: JSON-able; what this process needs beside them to go on exactly.
          metrics: evaluation metrics of these parameters.

        Raises:
          UserError: the disk is full or read-only; earlier checkpoints are untouched.
        """
        self.wait()
        directory = self.directory / str(step)
        if step in sealed_steps(self.directory):
            return
        if directory.exists():
            raise UserError(f"{directory} is no checkpoint of cat-jax", "move it away, or name another MODEL_DIR")
        host_bytes = json.dumps(host, sort_keys=True).encode()
        seal = Seal(
            step=step,
            digest=params_digest(params),
            metrics={name: float(value) for name, value in (metrics or {}).items()},
            best_metric=self._config.best_metric if self._config.keep_best else None,
            best_mode=self._config.best_mode,
            arrays={"params": _describe(params), "state": _describe(state)},
            files={},
        )
        items = {"params": ocp.args.StandardSave(dict(params)), "state": ocp.args.StandardSave(dict(state))}
        try:
            with _disk_errors(directory):
                self._checkpointer.save(directory.absolute(), args=ocp.args.Composite(**items))
        except UserError:
            self._discard_unsealed()
            raise
        self._thread = threading.Thread(target=self._finish, args=(directory, seal, host_bytes), name="checkpoint")
        self._thread.start()

    def add_metrics(self, step: int, metrics: Mapping[str, float]) -> None:
        """Puts evaluation metrics into the seal of a step that was saved before it was evaluated.

        Raises:
          UserError: the disk is full or read-only; the seal is as it was.
        """
        self.wait()
        if jax.process_index() == 0:
            directory = self.directory / str(step)
            scores = {name: float(value) for name, value in metrics.items()}
            write_seal(directory, dataclasses.replace(read_seal(directory), metrics=scores))
        _meet("rated", self.directory / str(step))

    def restore(
        self, step: int, abstract_params: Mapping[str, Any], abstract_state: Mapping[str, Any] | None = None
    ) -> Restored:
        """Reads and verifies a checkpoint.

        Args:
          step: one of the sealed steps.
          abstract_params: `jax.ShapeDtypeStruct`s with shardings: what to read, as which dtype, and where to.
          abstract_state: the same for the rest; None reads the parameters alone.

        Raises:
          UserError: a file is damaged or missing (names it), or the arrays have other names or shapes, or those of the
            state other dtypes.
        """
        directory = self.directory / str(step)
        seal = read_seal(directory)
        items = {"params": abstract_params} | ({} if abstract_state is None else {"state": abstract_state})
        for item, arrays in items.items():
            _check_arrays(directory, item, seal.arrays[item], arrays)
        others = {"state", "host"} if abstract_state is None else set()
        _verify(directory, seal, [file for file in sorted(seal.files) if file.split("/")[0] not in others])
        read = self._checkpointer.restore(
            directory.absolute(),
            args=ocp.args.Composite(**{k: ocp.args.StandardRestore(dict(v)) for k, v in items.items()}),
        )
        host = None if abstract_state is None else _read_host(directory)
        return Restored(step, read["params"], {} if abstract_state is None else read["state"], host)

    def reader(self, step: int, abstract_params: Mapping[str, Any]) -> Callable[[Iterable[str]], dict[str, jax.Array]]:
        """Verifies a checkpoint's parameters, and returns what reads those of some names.

        Args:
          step: one of the sealed steps.
          abstract_params: as of `restore`: all that the checkpoint has.

        Raises:
          UserError: as `restore`.
        """
        directory = self.directory / str(step)
        seal = read_seal(directory)
        _check_arrays(directory, "params", seal.arrays["params"], abstract_params)
        _verify(directory, seal, [file for file in sorted(seal.files) if file.split("/")[0] not in ("state", "host")])

        def read(names: Iterable[str]) -> dict[str, jax.Array]:
            wanted = {name: abstract_params[name] for name in names}
            options = ocp.args.PyTreeRestore(
                item=wanted,
                restore_args=ocp.checkpoint_utils.construct_restore_args(wanted),
                partial_restore=True,
            )
            with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as checkpointer:
                return checkpointer.restore((directory / "params").absolute(), args=options)

        return read

    def wait(self) -> None:
        """Returns when the last save is sealed.

        Raises:
          UserError: it failed because the disk is full or read-only.
        """
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        if self._failure is not None:
            failure, self._failure = self._failure, None
            raise failure

    def close(self) -> None:
        """Waits, and lets go of Orbax's threads."""
        try:
            self.wait()
        finally:
            self._checkpointer.close()

    def _finish(self, directory: pathlib.Path, seal: Seal, host: bytes) -> None:
        try:
            with _disk_errors(directory):
                self._checkpointer.wait_until_finished()
                self._seal(directory, seal, host)
        except BaseException as e:  # handed to the main thread, whatever it is
            self._failure = e
            self._discard_unsealed()

    def _discard_unsealed(self) -> None:
        if jax.process_index() != 0:
            return
        for _ in range(_DISCARDS):  # a write that has not failed yet may still put files there
            with contextlib.suppress(OSError):
                remove_unsealed(self.directory)
                if not any(".orbax-checkpoint-tmp" in path.name for path in self.directory.iterdir()):
                    return
            time.sleep(0.1)

    def _seal(self, directory: pathlib.Path, seal: Seal, host: bytes) -> None:
        process, processes = jax.process_index(), jax.process_count()
        atomic_write(directory / "host" / f"{process}.json", host)
        _meet("host", directory)
        share = files_to_check(directory)[process::processes]
        write_json(directory / "sums" / f"{process}.json", hash_files(directory, share))
        _meet("sums", directory)
        if process == 0:
            files: dict[str, str] = {}
            for k in range(processes):
                files |= json.loads((directory / "sums" / f"{k}.json").read_text())
            write_seal(directory, dataclasses.replace(seal, files=files))
            for step in unwanted_steps(self.directory, self._config):
                remove_step(self.directory / str(step))
        _meet("sealed", directory)


def _describe(arrays: Mapping[str, Any]) -> dict[str, list[Any]]:
    return {name: [str(x.dtype), list(x.shape)] for name, x in arrays.items()}


def _check_arrays(directory: pathlib.Path, item: str, saved: dict[str, list[Any]], wanted: Mapping[str, Any]) -> None:
    mend = "use the model, optimizer and configuration that wrote it"
    for there, here, where in ((saved, wanted, "checkpoint"), (wanted, saved, "model")):
        missing = sorted(set(there) - set(here))
        if missing:
            more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
            raise UserError(f"{directory / item}: only the {where} has {missing[0]}{more}", mend)
    for name, (dtype, shape) in saved.items():
        here = wanted[name]
        was, now = str(tuple(shape)), str(tuple(here.shape))
        if was == now and item == "state":  # parameters may be read as any dtype, moments would be rounded
            was, now = dtype, str(here.dtype)
        if was != now:
            raise UserError(f"{directory / item}: {name} is {was} in the checkpoint and {now} here", mend)


def _verify(directory: pathlib.Path, seal: Seal, files: list[str]) -> None:
    """Each process checks its share; all raise for the same file if any finds damage."""
    process, processes = jax.process_index(), jax.process_count()
    damage = find_damage(directory, seal, files[process::processes])
    if processes > 1:
        found = multihost_utils.process_allgather(np.asarray([damage is not None]))
        if found.any():
            first = int(np.argmax(np.ravel(found)))
            damage = find_damage(directory, seal, files[first::processes]) or damage
    if damage is not None:
        raise damage


def _read_host(directory: pathlib.Path) -> Any:
    """This process's own notes; another process's when the number of processes changed and all wrote the same."""
    paths = sorted((directory / "host").glob("*.json"), key=lambda p: int(p.stem))
    if len(paths) == jax.process_count():
        own = directory / "host" / f"{jax.process_index()}.json"
    elif len({path.read_bytes() for path in paths}) == 1:
        own = paths[0]
    else:
        raise UserError(
            f"{directory} was written by {len(paths)} processes whose positions in the data differ, "
            f"and this run has {jax.process_count()}",
            f"resume with {len(paths)} processes",
        )
    return read_json(own, "state of the data iterator", "remove this checkpoint to fall back to an earlier one")


@contextlib.contextmanager
def _disk_errors(directory: pathlib.Path) -> Iterator[None]:
    """Turns what the operating system refused, however Orbax words it, into one line."""
    try:
        yield
    except OSError as e:
        raise cannot_write(directory, e) from e
    except Exception as e:
        trouble = _DISK_TROUBLE.search(str(e))
        if trouble is None or isinstance(e, UserError):
            raise
        raise cannot_write(directory, OSError(0, trouble.group())) from e


def _meet(what: str, directory: pathlib.Path) -> None:
    barrier(f"checkpoint.{what}.{directory.name}")
