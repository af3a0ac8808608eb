"""XLA's compilation cache: on unless the user has set one up, so that a second start takes seconds."""

from __future__ import annotations

import logging
import os
import pathlib

import jax

logger = logging.getLogger(__name__)


def enable_compilation_cache(directory: str | os.PathLike | None = None) -> None:
    """Keeps compiled programs in `directory` across processes.

    Args:
      directory: None is `$XDG_CACHE_HOME/cat_jax/xla`, or `~/.cache/cat_jax/xla`, unless jax has a directory already
        (`JAX_COMPILATION_CACHE_DIR`); an empty string leaves everything as it is.
    """
    if directory == "" or (directory is None and jax.config.values["jax_compilation_cache_dir"]):
        return
    if directory is None:
        home = os.environ.get("XDG_CACHE_HOME") or pathlib.Path("~/.cache").expanduser()
        directory = pathlib.Path(home) / "cat_jax" / "xla"
    try:
        pathlib.Path(directory).mkdir(parents=True, exist_ok=True)
    except OSError as e:
        logger.warning("no compilation cache: cannot write %s (%s)", directory, e.strerror)
        return
    jax.config.update("jax_compilation_cache_dir", str(directory))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
