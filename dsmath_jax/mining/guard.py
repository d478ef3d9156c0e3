"""Calls that may hang, crash or use up memory, in a child process that is replaced when they do."""

from __future__ import annotations

import importlib
import multiprocessing
import multiprocessing.connection
import os
import resource
import signal
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

from dsmath_jax.mining.pages import Page, Rejected

R = TypeVar("R")
START_SECONDS = 120.0  # for the child's imports


def guarded(
    fn: Callable[[Page], R], items: Iterable[Page], *, seconds: float = 10.0, memory: int = 1 << 30
) -> Iterator[R | Rejected]:
    """Yields fn(item) for each item in order, or why there is no result.

    Args:
      fn: a function at the top of a module, or a `functools.partial` of one; it and its results can
        be pickled.
      items: pages, or anything else with `source`, `offset` and `url`.
      seconds: for each item, after which the child is killed: "timeout".
      memory: bytes that the child may take on top of what it has after its imports: "memory".

    Yields:
      The result; else `Rejected` with the reason "timeout", "memory", "crash" (the child died), or
      "error: " and the name of the exception that `fn` raised.

    Raises:
      RuntimeError: the child cannot be started. A script must have its own start under
        `if __name__ == "__main__"`, as the child imports it.
    """
    child = _Child(fn, seconds, memory)
    try:
        for item in items:
            # One item at a time: to send more could block both sides on full pipes.
            result, reason = child.ask(item)
            if reason in ("timeout", "crash", "memory"):
                child.kill()
                child = _Child(fn, seconds, memory)
            yield Rejected(item.source, item.offset, item.url, reason) if reason else result
    finally:
        child.kill()


class _Child:
    def __init__(self, fn: Callable[[Page], Any], seconds: float, memory: int):
        self.seconds = seconds
        # Not a fork: the parent may have threads, of JAX or of a client of an object store.
        context = multiprocessing.get_context("spawn")
        self.pipe, other = context.Pipe()
        self.process = context.Process(target=_work, args=(other, fn, seconds, memory), daemon=True)
        self.process.start()
        other.close()
        if not self.pipe.poll(START_SECONDS):
            self.kill()
            raise RuntimeError(f"a guarded process did not start in {START_SECONDS:.0f} s")
        try:
            self.pipe.recv()
        except EOFError:
            raise RuntimeError("a guarded process could not start; see its messages") from None

    def ask(self, item: Page) -> tuple[Any, str]:
        """The result for an item, and what went wrong."""
        try:
            self.pipe.send(item)
            if not self.pipe.poll(self.seconds):
                return None, "timeout"
            return self.pipe.recv()  # type: ignore[no-any-return]
        except (EOFError, BrokenPipeError, ConnectionResetError):
            return None, "crash"

    def kill(self) -> None:
        self.process.kill()
        self.process.join()
        self.pipe.close()


def _work(
    pipe: multiprocessing.connection.Connection,
    fn: Callable[[Page], Any],
    seconds: float,
    memory: int,
) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent ends this process
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    importlib.import_module(getattr(fn, "func", fn).__module__)
    _limit_memory(memory)
    pipe.send(None)
    while True:
        try:
            item = pipe.recv()
        except EOFError:
            return
        # Ends this process, whatever it does, when the parent was killed and cannot.
        signal.setitimer(signal.ITIMER_REAL, 2 * seconds + 5)
        try:
            answer: tuple[Any, str] = (fn(item), "")
        except MemoryError:
            answer = (None, "memory")
        except Exception as e:
            answer = (None, f"error: {type(e).__name__}")
        signal.setitimer(signal.ITIMER_REAL, 0)
        pipe.send(answer)


def _limit_memory(memory: int) -> None:
    try:
        with open("/proc/self/statm") as file:
            used = int(file.read().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return  # not Linux: there is no such figure
    resource.setrlimit(resource.RLIMIT_AS, (used + memory, used + memory))
