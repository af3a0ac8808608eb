"""Programs that a test starts on several devices of the CPU."""

import os


def environment(devices, **more):
    """That of the tests, whose flags of XLA go on, for a process of so many devices."""
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count={devices}"
    return {**os.environ, "JAX_PLATFORMS": "cpu", "XLA_FLAGS": flags.strip(), **more}
