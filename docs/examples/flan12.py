"""Twelve of FLAN2021's data sets in one mixture, by training examples, 3,000 of each at most.

Without the prompts that turn a task around ("write a review that is positive"): most of the tokens to write would be
theirs, and models of this size would learn little else.
"""

import seqio
import tensorflow as tf
from cat_jax_tasks import flan2021, rates

NAMES = "copa wsc rte cb cola arc_challenge glue_mrpc trec openbookqa sst2 ag_news_subset wic".split()  # noqa: SIM905
FAMILY = flan2021  # imported for the tasks that it registers


def straight(examples: tf.data.Dataset) -> tf.data.Dataset:
    """The examples whose target is one of the options."""
    return examples.filter(lambda example: tf.size(example["options"]) > 0)


for name in NAMES:
    task = seqio.TaskRegistry.get(f"flan2021_{name}")
    prompts, *rest = task.preprocessors
    seqio.TaskRegistry.add_provider(
        f"flan12_{name}", task.replace(name=f"flan12_{name}", preprocessors=[prompts, straight, *rest])
    )
seqio.MixtureRegistry.add("flan12", [f"flan12_{name}" for name in NAMES], default_rate=rates.examples_up_to(3_000))
