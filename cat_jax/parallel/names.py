"""Names of parameters: `decoder.layers.0.mlp.wi` for a leaf of a nested tree.

The train state and checkpoints hold parameters as a flat `{name: array}`: a name outlives a refactoring of the
containers around it, errors can say it, masks can match it, and JAX flattens a dict without running any Python.
"""

from __future__ import annotations

from typing import Any

import jax


def path_name(path: tuple[Any, ...]) -> str:
    """The name of a key path of `jax.tree_util`: its keys joined by dots.

    >>> path_name((jax.tree_util.DictKey("layers"), jax.tree_util.SequenceKey(0), jax.tree_util.GetAttrKey("value")))
    'layers.0'
    """
    keys = [getattr(key, "key", getattr(key, "idx", getattr(key, "name", None))) for key in path]
    if path and isinstance(path[-1], jax.tree_util.GetAttrKey) and keys[-1] == "value":
        keys = keys[:-1]  # nnx.Variable wraps its array in an attribute of that name
    return ".".join(map(str, keys))


def flatten_names(tree: Any) -> dict[str, Any]:
    """{name: leaf} of a tree of parameters (an `nnx.State` or nested containers), in the tree's own order."""
    return {path_name(path): leaf for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]}


def unflatten_names(like: Any, leaves: dict[str, Any]) -> Any:
    """A tree with the structure of `like` whose leaves are looked up by name.

    Raises:
      KeyError: a leaf of `like` has no entry.
    """
    paths, structure = jax.tree_util.tree_flatten_with_path(like)
    return jax.tree_util.tree_unflatten(structure, [leaves[path_name(path)] for path, _ in paths])
