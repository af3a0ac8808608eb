"""TPU types against what Google publishes (cloud.google.com/tpu/docs/{v4,v5e,v5p,v6e}; GKE: plan-tpus)."""

import pytest
from cat_jax_launch.topology import SLICES, slice_of

from cat_jax.errors import UserError

# type: (topology, chips, hosts)
PUBLISHED = {
    "v4-8": ("2x2x1", 4, 1),
    "v4-16": ("2x2x2", 8, 2),
    "v4-32": ("2x2x4", 16, 4),
    "v4-64": ("2x4x4", 32, 8),
    "v4-128": ("4x4x4", 64, 16),
    "v4-256": ("4x4x8", 128, 32),
    "v4-512": ("4x8x8", 256, 64),
    "v4-1024": ("8x8x8", 512, 128),
    "v4-2048": ("8x8x16", 1024, 256),
    "v4-4096": ("8x16x16", 2048, 512),
    "v5litepod-1": ("1x1", 1, 1),
    "v5litepod-4": ("2x2", 4, 1),
    "v5litepod-8": ("2x4", 8, 1),
    "v5litepod-16": ("4x4", 16, 4),
    "v5litepod-32": ("4x8", 32, 8),
    "v5litepod-64": ("8x8", 64, 16),
    "v5litepod-128": ("8x16", 128, 32),
    "v5litepod-256": ("16x16", 256, 64),
    "v5p-8": ("2x2x1", 4, 1),
    "v5p-16": ("2x2x2", 8, 2),
    "v5p-32": ("2x2x4", 16, 4),
    "v5p-64": ("2x4x4", 32, 8),
    "v5p-128": ("4x4x4", 64, 16),
    "v5p-256": ("4x4x8", 128, 32),
    "v5p-512": ("4x8x8", 256, 64),
    "v5p-1024": ("8x8x8", 512, 128),
    "v5p-2048": ("8x8x16", 1024, 256),
    "v5p-4096": ("8x16x16", 2048, 512),
    "v5p-8192": ("16x16x16", 4096, 1024),
    "v5p-12288": ("16x16x24", 6144, 1536),
    "v6e-1": ("1x1", 1, 1),
    "v6e-4": ("2x2", 4, 1),
    "v6e-8": ("2x4", 8, 1),
    "v6e-16": ("4x4", 16, 4),
    "v6e-32": ("4x8", 32, 8),
    "v6e-64": ("8x8", 64, 16),
    "v6e-128": ("8x16", 128, 32),
    "v6e-256": ("16x16", 256, 64),
}
LABELS = {"v4": "tpu-v4-podslice", "v5litepod": "tpu-v5-lite-podslice", "v5p": "tpu-v5p-slice", "v6e": "tpu-v6e-slice"}


def test_every_type_is_as_published():
    found = {kind: (item.topology, item.chips, item.hosts) for kind, item in SLICES.items()}
    assert found == PUBLISHED
    assert all(item.accelerator == LABELS[kind.split("-")[0]] for kind, item in SLICES.items())


def test_a_type_that_is_none_is_told():
    with pytest.raises(UserError, match="there is no TPU type v5litepod-12: one of v5litepod-1, v5litepod-4"):
        slice_of("v5litepod-12")
    with pytest.raises(UserError, match=r"one of v4-\.\.\., v5litepod-\.\.\., v5p-\.\.\., v6e-\.\.\.$"):
        slice_of("h100")


def test_hosts_of_another_size():
    assert slice_of("v6e-8").with_hosts_of(4).hosts == 2
    with pytest.raises(UserError, match="v4-8 has no hosts of 8 chips: it has 4 chips"):
        slice_of("v4-8").with_hosts_of(8)
