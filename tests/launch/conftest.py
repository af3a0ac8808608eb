"""A host of stand-ins for each test."""

import pytest
from hosts import Host


@pytest.fixture
def host(tmp_path):
    return Host(tmp_path)
