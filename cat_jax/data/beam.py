"""The work of `prepare` as an Apache Beam pipeline: one element a shard. The bytes are those of any other way."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from cat_jax.data import seqio_task
from cat_jax.data.units import Unit, write_shard
from cat_jax.errors import UserError

logger = logging.getLogger(__name__)


def run_units_with_beam(
    units: Sequence[Unit], modules: str | Sequence[str] | None, runner: str, options: Sequence[str]
) -> None:
    """Writes all the shards on Beam's workers, which need the store root, the modules and the sources.

    Args:
      units: the shards.
      modules: that register the tasks; each worker imports them.
      runner: Beam's name of it.
      options: flags of the pipeline.

    Raises:
      UserError: Beam is not installed, knows no such runner, or its pipeline fails.
    """
    try:
        import apache_beam as beam
        from apache_beam.options.pipeline_options import PipelineOptions
    except ImportError as e:
        raise UserError(f"cannot import Apache Beam ({e})", "pip install 'cat-jax[beam]'") from e
    logging.getLogger("apache_beam").setLevel(logging.WARNING)
    logger.info("%d shards go to Beam's %s", len(units), runner)
    try:
        with beam.Pipeline(runner=runner, options=PipelineOptions(list(options))) as pipeline:
            _ = (
                pipeline
                | "shards" >> beam.Create(list(units))
                | "spread" >> beam.Reshuffle()
                | "write" >> beam.Map(_write, modules=modules)
            )
    except UserError:
        raise
    except Exception as e:
        cause = _user_error(e)
        if cause is not None:
            raise cause from e
        if isinstance(e, ValueError):
            raise UserError(f"Beam refuses the runner {runner!r} ({str(e)[:300]})", "name one that Beam knows") from e
        problem = f"the Beam pipeline fails ({type(e).__name__}: {str(e)[:400]})"
        raise UserError(problem, "look at the runner's log; finished shards are kept") from e


def _write(unit: Unit, modules: str | Sequence[str] | None) -> int:
    seqio_task.load_modules(modules)
    return sum(write_shard(unit))


def _user_error(error: BaseException) -> UserError | None:
    """Our own error in the chain of what Beam has wrapped around it."""
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, UserError):
            return seen
        seen = seen.__cause__ or seen.__context__
    return None
