"""Devices that are not here: a TPU slice that its compiler knows, or a number of GPUs."""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
import importlib.util
import math
import os
import re
from typing import Any

from cat_jax.errors import UserError
from cat_jax.planning.chips import CHIPS, Chip

_SETTING = {
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_ACCELERATOR_TYPE": "v5litepod-16",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
}
"""Keeps libtpu from looking for the machine that it is not on, and from waiting for a chip that nobody touches."""


@dataclasses.dataclass(frozen=True)
class Topology:
    """So many chips of a kind, and how a TPU's lie.

    >>> Topology.parse("v5e:16x16").count, Topology.parse("h100:8").chip.platform
    (256, 'gpu')
    """

    text: str
    chip: Chip
    count: int

    @classmethod
    def parse(cls, text: str) -> Topology:
        """The topology that `text` spells: v5e:16x16, v5p:4x4x4, h100:8.

        Raises:
          UserError: there is no such chip, or this is no shape.
        """
        examples = "write v5e:16x16, v5p:4x4x4, v6e:8x8 or h100:8"
        match = re.fullmatch(r"(\w+):(\d+(?:x\d+)*)", text) if isinstance(text, str) else None
        if match is None:
            raise UserError(f"TOPOLOGY is {text!r}", examples)
        name, shape = match[1].lower(), [int(n) for n in match[2].split("x")]
        if name not in CHIPS:
            close = difflib.get_close_matches(name, CHIPS, n=1)
            mend = f"did you mean {close[0]}?" if close else f"the chips are {', '.join(CHIPS)}"
            raise UserError(f"TOPOLOGY {text!r} names a chip that is not known", mend)
        chip = CHIPS[name]
        if math.prod(shape) < 1 or (chip.platform == "gpu" and len(shape) > 1):
            raise UserError(f"TOPOLOGY {text!r} is no number of chips", examples)
        return cls(f"{name}:{match[2]}", chip, math.prod(shape))

    def devices(self) -> list[Any]:
        """The devices to compile for. Call it before anything else touches a device.

        A TPU's are descriptions for its compiler. There is no compiler for GPUs without one: programs for them are
        compiled for as many CPU devices.

        Raises:
          UserError: libtpu is not installed or does not know the topology, or JAX has started with fewer devices.
        """
        import jax

        jax.config.update("jax_platforms", "cpu")
        if self.chip.platform == "gpu":
            return self._cpu_devices()
        for name, value in _SETTING.items():
            os.environ.setdefault(name, value)
        from jax.experimental import topologies

        try:
            return list(topologies.get_topology_desc(platform="tpu", topology_name=self.text).devices)
        except Exception as e:  # jaxlib's own, of no public class
            reason = str(e).splitlines()[0]
            if importlib.util.find_spec("libtpu") is None:
                raise UserError(f"no compiler for {self.text} ({reason})", "pip install 'cat-jax[tpu]'") from e
            raise UserError(
                f"libtpu refuses the topology {self.text} ({reason})",
                "name one that exists, as cloud.google.com/tpu lists them",
            ) from e

    def host(self) -> Topology:
        """One host's chips as a slice of their own, where teaching is planned: hosts teach apart from one another.

        On chips whose links do not route through others (v5e, v6e) a program that spans some chips of a slice must span
        all of them: a teacher that is split over a host's chips is taught on slices of one host.
        """
        if self.chip.platform == "gpu":
            return Topology(f"{self.chip.name}:{min(self.count, 8)}", self.chip, min(self.count, 8))
        shape = "2x2" if self.text.count("x") == 1 else "2x2x1"
        return self if self.count <= 4 else Topology(f"{self.chip.name}:{shape}", self.chip, 4)

    def _cpu_devices(self) -> list[Any]:
        import jax

        with contextlib.suppress(RuntimeError):  # JAX has started: enough devices may be there
            jax.config.update("jax_num_cpu_devices", self.count)
        if len(jax.devices()) < self.count:
            raise UserError(
                f"JAX has started with {len(jax.devices())} devices, and {self.text} needs {self.count}",
                "plan in a process of its own, as `cat-jax plan` does",
            )
        return list(jax.devices()[: self.count])
