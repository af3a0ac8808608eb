"""FLAN2021: 70 data sets in 12 clusters and more, each with ten prompts of our own words.

Importing this package registers tasks `flan2021_<data set>` and the mixtures `flan2021`, `flan2021_cls`,
`flan2021_gen`, `flan2021_cluster_<cluster>` and `flan2021_without_<cluster>`.

`templates/` holds the data sets and their prompts, one
readable file a cluster, `views/` what it takes to make fields of a row that is not plain.
"""

from cat_jax_tasks.flan2021 import registration as registration
