"""One limit on requests and bytes a second for all processes of a machine."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import time
from dataclasses import dataclass

from dsmath_jax.data.errors import InputError


@dataclass(frozen=True)
class RateLimit:
    """Requests and bytes per second that all processes of a machine share.

    It is kept in a small file that each process locks for as long as it takes to reserve a place in
    the queue (a token bucket, kept as the time at which it is full again). Machines that read at
    the same time each have a limit of their own: divide by their number.

    Args:
      path: of the file, on a local disk; made when it is missing.
      requests: a second.
      bytes: a second; 0 sets no limit.
      burst: seconds of both that may be used at once after a pause.
    """

    path: str
    requests: float = 10.0
    bytes: float = 0.0
    burst: float = 1.0

    def __post_init__(self) -> None:
        if self.requests <= 0 or self.bytes < 0 or self.burst < 0:
            raise InputError(
                f"a rate limit of {self.requests} requests and {self.bytes} bytes a second, burst "
                f"{self.burst}: set requests above 0, and bytes and burst to 0 or more"
            )

    def wait(self, size: int) -> float:
        """Waits until a request for `size` bytes may be sent; gives the seconds waited."""
        seconds = self._reserve(1 / self.requests, size / self.bytes if self.bytes else 0.0)
        if seconds > 0:
            time.sleep(seconds)
        return max(seconds, 0.0)

    def pause(self, seconds: float) -> None:
        """Lets no process send a request for so long: the server asked to slow down."""
        with self._locked() as (state, now):
            state["paused"] = max(state["paused"], now + seconds)

    def _reserve(self, request_seconds: float, byte_seconds: float) -> float:
        with self._locked() as (state, now):
            # A bucket's entry is the time at which all that was reserved is paid for.
            start = max(state["requests"], state["bytes"], now - self.burst)
            state["requests"] = max(state["requests"], now - self.burst) + request_seconds
            state["bytes"] = max(state["bytes"], now - self.burst) + byte_seconds
            return max(start, state["paused"]) - now

    def _locked(self) -> _LockedState:
        return _LockedState(self.path)


class _LockedState:
    """The times in the file of a rate limit, under a lock; written back at the end."""

    def __init__(self, path: str):
        self.path = path

    def __enter__(self) -> tuple[dict[str, float], float]:
        try:
            self.file = open(os.open(self.path, os.O_RDWR | os.O_CREAT, 0o644), "r+")
        except OSError as e:
            raise InputError(f"the rate limit's file {self.path} cannot be written: {e}") from None
        fcntl.flock(self.file, fcntl.LOCK_EX)
        now = time.time()
        self.state = {"requests": 0.0, "bytes": 0.0, "paused": 0.0}
        # A file that is new, or was cut short by a full disk, says nothing.
        with contextlib.suppress(ValueError, AttributeError, TypeError):
            self.state |= {k: float(v) for k, v in json.loads(self.file.read()).items()}
        if max(self.state.values()) > now + 3600:  # the clock was set back
            self.state = dict.fromkeys(self.state, 0.0)
        return self.state, now

    def __exit__(self, *_: object) -> None:
        self.file.seek(0)
        self.file.truncate()
        json.dump(self.state, self.file)
        self.file.close()  # flushes, then gives up the lock
