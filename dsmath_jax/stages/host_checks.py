"""What all hosts of a run must have in common: the configuration and the directory."""

from __future__ import annotations

import contextlib
import json
import os
import pathlib
import time
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from dsmath_jax.data.errors import InputError


def require_same(config: dict[str, Any]) -> None:
    """Checks that all processes of the run have one configuration: else they would wait for each
    other for ever.

    Raises:
      InputError: on every process, with a field that differs.
    """
    if jax.process_count() == 1:
        return
    own = np.frombuffer(json.dumps(config, sort_keys=True, default=str).encode(), np.uint8)
    longest = multihost_utils.process_allgather(np.array([len(own)])).max()
    padded = np.pad(own, (0, int(longest) - len(own)), constant_values=ord(" "))
    rows = multihost_utils.process_allgather(padded).reshape(-1, int(longest))
    first, *others = (json.loads(row.tobytes()) for row in rows)
    for number, other in enumerate(others, 1):
        if differs := differences(first, other, "config"):
            raise InputError(
                f"the hosts have different configurations: process 0 and process {number} in "
                f"{', '.join(differs[:3])}: give every host the same command"
            )


def differences(old: Any, new: Any, name: str) -> list[str]:
    """["config.steps 5 -> 6", ...] of two nested dicts."""
    if isinstance(old, dict) and isinstance(new, dict):
        keys = [*old, *(k for k in new if k not in old)]
        return [d for k in keys for d in differences(old.get(k), new.get(k), f"{name}.{k}")]
    return [] if old == new else [f"{name} {old!r} -> {new!r}"]


def require_shared(directory: pathlib.Path, timeout: int) -> None:
    """Checks that all processes of the run see one directory: they write one checkpoint there.

    Args:
      timeout: seconds until what process 0 wrote must be there (network filesystems show it late).

    Raises:
      InputError: on every process, where some do not find what process 0 wrote.
    """
    if jax.process_count() == 1:
        return
    number = int.from_bytes(os.urandom(3)) if jax.process_index() == 0 else 0
    number = int(multihost_utils.broadcast_one_to_all(np.int32(number)))
    mark = directory / f".seen-by-all-{number}"
    if jax.process_index() == 0:
        mark.parent.mkdir(parents=True, exist_ok=True)
        mark.touch()
    multihost_utils.sync_global_devices("the mark is written")
    seen = multihost_utils.process_allgather(np.array([_appears(mark, timeout)])).ravel()
    if jax.process_index() == 0:
        mark.unlink(missing_ok=True)
    if not seen.all():
        blind = ", ".join(str(i) for i in np.flatnonzero(~seen))
        with contextlib.suppress(OSError):  # a directory that this made
            directory.rmdir()
        raise InputError(
            f"--workdir={directory}: process {blind} does not see what process 0 wrote there; give "
            "every host the same directory, on a filesystem that they share"
        )


def _appears(path: pathlib.Path, timeout: int) -> bool:
    end = time.monotonic() + timeout
    while not path.exists():
        if time.monotonic() > end:
            return False
        time.sleep(0.5)
    return True
