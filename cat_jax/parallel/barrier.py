"""A meeting of all processes of a job."""

from __future__ import annotations

import jax
import orbax.checkpoint as ocp

_LONGEST_MS = 1_200_000


def barrier(name: str) -> None:
    """All processes arrive before any goes on; through the coordination service, so that it may run in a thread."""
    if jax.process_count() > 1:
        ocp.multihost.get_barrier_sync_fn()(key=f"cat_jax.{name}", timeout_ms=_LONGEST_MS)
