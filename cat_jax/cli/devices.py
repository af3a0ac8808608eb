"""What the commands that compute do before anything touches a device."""

from __future__ import annotations

from cat_jax.cli import distributed


def start(multiprocess: bool) -> bool:
    """Joins the job that this process is part of, if it is; returns whether there are other processes.

    Raises:
      UserError: the job cannot be joined.
    """
    from absl import flags

    flags.FLAGS.mark_as_parsed()  # Grain's workers read absl flags, which a program without absl.app never parses
    several = distributed.asked_for(multiprocess)
    distributed.join(multiprocess)
    return several


def cache_compilations() -> None:
    """Keeps compiled programs across processes, as `train` does by itself."""
    from cat_jax.train.compilation import enable_compilation_cache

    enable_compilation_cache()


def is_first() -> bool:
    """Whether this is the process that writes what is written once."""
    import jax

    return jax.process_index() == 0
