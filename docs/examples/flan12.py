"""Twelve of FLAN2021's data sets in one mixture, by training examples, 3,000 of each at most."""

import seqio
from cat_jax_tasks import flan2021, rates

NAMES = "copa wsc rte cb cola arc_challenge glue_mrpc trec openbookqa sst2 ag_news_subset wic".split()  # noqa: SIM905
FAMILY = flan2021  # imported for the tasks that it registers

seqio.MixtureRegistry.add("flan12", [f"flan2021_{name}" for name in NAMES], default_rate=rates.examples_up_to(3_000))
