"""Joins a job of several processes, before anything touches a device."""

from __future__ import annotations

import os

from cat_jax.errors import UserError

_VARIABLES = ("CAT_JAX_COORDINATOR", "CAT_JAX_NUM_PROCESSES", "CAT_JAX_PROCESS_ID")


def asked_for(multiprocess: bool) -> bool:
    """Whether this process is one of several.

    Raises:
      UserError: some of the variables that say so are set, and some are not.
    """
    given = [name for name in _VARIABLES if os.environ.get(name)]
    if given and len(given) < len(_VARIABLES):
        missing = [name for name in _VARIABLES if name not in given]
        raise UserError(f"{given[0]} is set, but not {', '.join(missing)}", "set all three or none")
    return bool(given) or multiprocess


def join(multiprocess: bool = False) -> None:
    """Calls `jax.distributed.initialize` where the environment or the flag `--multiprocess` asks for it.

    The variables CAT_JAX_COORDINATOR (host:port), CAT_JAX_NUM_PROCESSES and CAT_JAX_PROCESS_ID say it all; with the
    flag alone jax finds out by itself, as it can on TPU pods, under SLURM and under Open MPI.

    Raises:
      UserError: the variables are not what they should be, or the others cannot be reached.
    """
    if not asked_for(multiprocess):
        return
    import jax

    if jax.distributed.is_initialized():
        return
    address, count, index = (os.environ.get(name) for name in _VARIABLES)
    # XLA:CPU runs programs side by side when they are dispatched ahead. Two with collectives may then meet in another
    # order on another process, and all wait for ever. Other platforms keep the order, and do not read this.
    jax.config.update("jax_cpu_enable_async_dispatch", False)
    try:
        if address and count and index:
            jax.distributed.initialize(address, int(count), int(index))
        else:
            jax.distributed.initialize()
    except (ValueError, RuntimeError) as e:
        reason = str(e).splitlines()[0] if str(e) else type(e).__name__
        raise UserError(
            f"cannot join the job at {address or 'a coordinator that jax looks for'} ({reason})",
            f"set {', '.join(_VARIABLES)}, or use --multiprocess on a TPU pod or under SLURM",
        ) from e
