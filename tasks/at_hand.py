"""Mixtures of what is on this machine's disk: `at_hand` of all tasks, `at_hand_train` of those with training rows.

They hold SuperGLUE's, WMT22's and FLAN2021's tasks (of WMT22 those with T5's prompt) with the splits that are here, as
it was when this module was imported: for a look at everything, not for a result that others shall repeat.
"""

from __future__ import annotations

import seqio
from cat_jax_tasks import catalog, joint, rates
from cat_jax_tasks.wmt22 import Wmt22Source

FAMILIES = joint.FAMILIES
"""Imported for the tasks that they register."""


def _here(name: str) -> seqio.Task:
    """The task, or one like it with the splits that are on disk; sources of TFDS leave out the others themselves."""
    task = seqio.TaskRegistry.get(name)
    if not isinstance(task.source, Wmt22Source):
        return task
    there = [split for split, rows in _ROWS[name].items() if rows is not None]
    return task.replace(source=task.source.only(there))


_ROWS = {entry.name: entry.rows() for entry in catalog.entries()}
for _mixture in catalog.of_at_hand():
    if _mixture.tasks:
        seqio.MixtureRegistry.add(
            _mixture.name, list(map(_here, _mixture.tasks)), default_rate=rates.examples_up_to(catalog.FLAN2021_CAP)
        )
