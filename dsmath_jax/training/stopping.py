"""Stopping a run by a signal: on every host after the same step."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec


@contextmanager
def stop_signals() -> Iterator[threading.Event]:
    """An event that SIGTERM or SIGINT sets; a second SIGINT interrupts at once."""
    stop = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return

    def handle(number, frame):
        if stop.is_set() and number == signal.SIGINT:
            raise KeyboardInterrupt
        stop.set()

    before = {n: signal.signal(n, handle) for n in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class Agreement:
    """Whether any process was told to stop: each call gives all processes the same answer.

    With several processes it is computed on the devices, in their queue of steps. To wait for it
    would leave them without a next step meanwhile, so `behind` gives the answer to the call before:
    it is there when the step before is done.

    Args:
      mesh: all devices of all processes.
      behind: answer one call late; where the host waits for each step anyway, False costs nothing.
    """

    def __init__(self, mesh: Mesh, *, behind: bool):
        self.alone = jax.process_count() == 1
        self.behind = behind
        self.before: jax.Array | None = None
        self.size = mesh.size
        self.layout = NamedSharding(mesh, PartitionSpec(mesh.axis_names))
        everywhere = NamedSharding(mesh, PartitionSpec())
        self.any = jax.jit(jnp.any, out_shardings=everywhere)

    def __call__(self, stop: bool) -> bool:
        if self.alone:
            return stop
        answer: jax.Array | None = self._ask(stop)
        if self.behind:
            answer, self.before = self.before, answer
        return answer is not None and bool(answer)

    def now(self, stop: bool) -> bool:
        """The answer to this call, waited for."""
        return stop if self.alone else bool(self._ask(stop))

    def _ask(self, stop: bool) -> jax.Array:
        shape, flag = (self.size,), np.array([stop])
        return self.any(jax.make_array_from_callback(shape, self.layout, lambda _: flag))
