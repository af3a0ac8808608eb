"""Mixtures of what is on this machine's disk: `at_hand` of all tasks, `at_hand_train` of those with training rows.

They hold SuperGLUE's, WMT22's and FLAN2021's tasks (of WMT22 those with T5's prompt), and are what they were when this
module was imported: for a look at everything, not for a result that others shall repeat.
"""

from __future__ import annotations

import seqio
from cat_jax_tasks import catalog, joint, rates

FAMILIES = joint.FAMILIES
"""Imported for the tasks that they register."""

for _mixture in catalog.of_at_hand():
    if _mixture.tasks:
        seqio.MixtureRegistry.add(
            _mixture.name, list(_mixture.tasks), default_rate=rates.examples_up_to(catalog.FLAN2021_CAP)
        )
