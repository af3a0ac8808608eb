"""Being told to stop: SIGTERM or Ctrl-C on any process stops all of them after the same step."""

from __future__ import annotations

import collections
import signal
import threading
from types import FrameType

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from cat_jax.parallel.batches import replicated

_LAG = 2
"""Steps between a signal and the decision in a job of several processes; as far as the host runs ahead."""


class Stopper:
    """Notices SIGTERM and SIGINT while it is entered; a second SIGINT interrupts at once.

    Processes agree on the step: each step they take the maximum of their flags on the devices, and act on the result
    of two steps ago, which all of them have and which costs no waiting.
    """

    def __init__(self, mesh: Mesh):
        self.signal: signal.Signals | None = None
        self._before: dict[int, object] = {}
        self._agreed: collections.deque[jax.Array] = collections.deque()
        self._several = jax.process_count() > 1
        if self._several:
            sharding = NamedSharding(mesh, PartitionSpec(mesh.axis_names))
            local = np.ones(len(mesh.local_devices), np.int32)
            self._flags = [jax.make_array_from_process_local_data(sharding, local * value) for value in (0, 1)]
            self._max = jax.jit(jnp.max, out_shardings=replicated(mesh))

    def __enter__(self) -> Stopper:
        if threading.current_thread() is threading.main_thread():  # Python handles signals nowhere else
            for number in (signal.SIGTERM, signal.SIGINT):
                self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)  # pyright: ignore[reportArgumentType]

    def should_stop(self) -> bool:
        """Whether to stop after the step just started; call it once per step, on every process."""
        if not self._several:
            return self.signal is not None
        self._agreed.append(self._max(self._flags[self.signal is not None]))
        return len(self._agreed) > _LAG and bool(jax.device_get(self._agreed.popleft()))

    def reason(self) -> str:
        """The signal's name; another process may have been the one that got it."""
        return "a signal to another process" if self.signal is None else self.signal.name

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.signal == signal.SIGINT == number:
            raise KeyboardInterrupt
        self.signal = signal.Signals(number)
