"""Local processes that do jobs and are watched: one that hangs, dies or grows too large at a page
is replaced, and the job begins again without that page."""

from __future__ import annotations

import contextlib
import ctypes
import multiprocessing
import os
import pickle
import signal
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from multiprocessing.connection import Connection, wait
from typing import Any, TypeVar

T = TypeVar("T")
AT_MOST = 200  # characters of a page's name that are kept, its last
DEATHS = 2  # of processes at one page until it is left out; a hang needs one
TRIES = 20  # of a job
PR_SET_PDEATHSIG = 1  # linux/prctl.h


class Progress:
    """What a job calls before each page; in a worker it writes down where the process is. A job
    that never calls it takes the time it needs.

    left_out: pages that the job must not touch.
    """

    def __init__(self, left_out: Sequence[str] = (), place: Any = None, count: Any = None):
        self.left_out, self.place, self.count = frozenset(left_out), place, count

    def __call__(self, item: str) -> bool:
        """Whether to leave the page out."""
        item = item[-AT_MOST:]
        if self.place is not None:
            self.place.value = item.encode()
            self.count.value += 1
        return item in self.left_out

    def each(self, pages: Iterable[T]) -> Iterator[T]:
        """The pages; the time until the next one is read is no page's, and nobody watches it."""
        for page in pages:
            yield page
            self("")


class WorkerError(Exception):
    """A job that no process could finish."""


class _Worker:
    """A process, its pipe, and what it is doing."""

    def __init__(self, context: Any, function: Callable, memory_gb: float):
        self.place = context.RawArray("c", 4 * AT_MOST + 1)
        self.count = context.RawValue("L", 0)
        self.pipe, theirs = context.Pipe()
        arguments = (function, theirs, self.place, self.count, memory_gb, os.getpid())
        self.process = context.Process(target=_work, args=arguments, daemon=True)
        self.process.start()
        theirs.close()
        self.job: int | None = None
        self.seen, self.since = 0, time.monotonic()

    def give(self, number: int, job: Any, left_out: list[str]) -> None:
        self.job, self.since = number, time.monotonic()
        self.place.value = b""
        with contextlib.suppress(OSError):  # it has died: seen where answers are read
            self.pipe.send((job, left_out))

    def stuck(self, seconds: float) -> bool:
        """Whether it has been at one page for so long."""
        if self.count.value != self.seen:
            self.seen, self.since = self.count.value, time.monotonic()
        at_page = self.job is not None and self.place.value
        return bool(at_page) and time.monotonic() - self.since > seconds

    def stop(self) -> None:
        with contextlib.suppress(OSError):
            self.process.kill()
        self.process.join()
        self.pipe.close()


class Workers:
    """`count` processes; see `run_shards` for the limits."""

    def __init__(self, count: int, stuck_seconds: float, memory_gb: float = 0.0):
        self.count = max(1, count)
        self.stuck_seconds, self.memory_gb = stuck_seconds, memory_gb

    def run(
        self,
        function: Callable[[Any, Progress], Any],
        jobs: Sequence[Any],
        ended: Callable[[Any], None] = lambda result: None,
    ) -> list[Any]:
        """[function(job, progress) for job in jobs].

        Raises:
          WorkerError: processes keep dying at a job.
          Exception: what the function raised first; other jobs that had begun are waited for.
        """
        context = multiprocessing.get_context("spawn")
        results: dict[int, Any] = {}
        waiting = list(range(len(jobs)))[::-1]
        left_out: dict[int, list[str]] = {n: [] for n in waiting}
        deaths: dict[tuple[int, str], int] = {}
        tries = dict.fromkeys(waiting, 0)
        error: BaseException | None = None
        workers: list[_Worker] = []
        try:
            while (waiting and error is None) or any(w.job is not None for w in workers):
                idle = [w for w in workers if w.job is None]
                while waiting and error is None and (idle or len(workers) < self.count):
                    if not idle:
                        workers.append(_Worker(context, function, self.memory_gb))
                        idle.append(workers[-1])
                    number = waiting.pop()
                    idle.pop().give(number, jobs[number], left_out[number])
                ready = wait([w.pipe for w in workers if w.job is not None], timeout=0.5)
                for worker in list(workers):
                    if worker.job is None:
                        continue
                    number = worker.job
                    answer = _answer(worker.pipe) if worker.pipe in ready else None
                    if answer is not None:
                        worker.job = None
                        good, value = answer
                        if good:
                            results[number] = value
                            ended(value)
                        else:
                            error = error or value
                        continue
                    hung = worker.stuck(self.stuck_seconds)
                    if not hung and worker.process.is_alive() and worker.pipe not in ready:
                        continue
                    item = worker.place.value.decode(errors="replace")
                    worker.stop()
                    workers.remove(worker)
                    tries[number] += 1
                    deaths[number, item] = deaths.get((number, item), 0) + 1
                    if item and (hung or deaths[number, item] >= DEATHS):
                        left_out[number].append(item)
                    if tries[number] >= TRIES:
                        last = repr(item) if item else "no page"
                        raise WorkerError(f"{TRIES} processes died at one job, last at {last}")
                    waiting.append(number)
            if error is not None:
                raise error
        finally:
            for worker in workers:
                worker.stop()
        return [results[n] for n in range(len(jobs))]


def _answer(pipe: Connection) -> tuple[bool, Any] | None:
    try:
        return pipe.recv()
    except (EOFError, OSError):
        return None


def _work(
    function: Callable, pipe: Connection, place: Any, count: Any, memory_gb: float, parent: int
) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent ends it
    if memory_gb:
        import resource

        limit = int(memory_gb * 2**30)
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    end_with_parent(parent)
    while True:
        try:
            job, left_out = pipe.recv()
        except (EOFError, OSError):
            return
        try:
            answer = (True, function(job, Progress(left_out, place, count)))
        except MemoryError:
            os._exit(1)
        except Exception as e:
            answer = (False, sendable(e))
        pipe.send(answer)


def end_with_parent(parent: int) -> None:
    """Has this process killed when its parent, whose number is given, ends; where there is no such
    call, a worker ends with its job, at the closed pipe."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)


def sendable(error: Exception) -> Exception:
    """The error, or one that says the same and can be pickled."""
    try:
        pickle.loads(pickle.dumps(error))
        return error
    except Exception:
        return RuntimeError(f"{type(error).__name__}: {error}")
