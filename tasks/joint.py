"""The mixture of SuperGLUE, WMT22 and FLAN2021 together, each task by its training examples, 3,000 at most."""

from __future__ import annotations

import seqio
from cat_jax_tasks import catalog, flan2021, rates, super_glue, wmt22

FAMILIES = (super_glue, wmt22, flan2021)
"""Imported for the tasks that they register."""

_MIXTURE = next(mixture for mixture in catalog.mixtures() if mixture.module == __name__)
seqio.MixtureRegistry.add(_MIXTURE.name, list(_MIXTURE.tasks), default_rate=rates.examples_up_to(catalog.FLAN2021_CAP))
