"""The order of the tests.

Types are promoted by JAX's standard rules: under `jax_numpy_dtype_promotion = "strict"` optax's Adam fails, which
raises a float to the power of an integer count (optax 0.2.8, `tree_bias_correction`).
"""


def pytest_collection_modifyitems(items):
    """Files with slow tests first, so that parallel workers end together (with `--no-loadscope-reorder`)."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)
