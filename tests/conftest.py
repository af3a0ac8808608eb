"""The order of the tests."""


def pytest_collection_modifyitems(items):
    """Files with slow tests first, so that parallel workers end together (with `--no-loadscope-reorder`)."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)
