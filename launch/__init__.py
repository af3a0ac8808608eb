"""Starts `cat-jax` on the hosts of a job: a file a platform.

Imports within it are relative: the folder `launch` is the package `cat_jax_launch` only where it is installed.
"""
