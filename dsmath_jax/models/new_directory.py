"""Directories that appear whole or not at all."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pathlib
import shutil
from collections.abc import Iterator

import jax
from jax.experimental import multihost_utils


@contextlib.contextmanager
def new_directory(directory: str | os.PathLike) -> Iterator[pathlib.Path]:
    """Gives a directory to write in, `.NAME.partial` beside `directory`, and renames it at the end.

    After an exception the partial directory is removed; what a killed process left is removed by
    the next that writes to the same place. With several processes all must call it, on a shared
    filesystem; the first one creates and renames.

    Raises:
      FileExistsError: `directory` is there already (an empty one is replaced), or another process
        is writing it.
    """
    target = pathlib.Path(os.path.abspath(directory))
    partial = target.with_name(f".{target.name}.partial")
    lock = _create(partial, target) if jax.process_index() == 0 else None
    try:
        _barrier(f"created {partial}")
        yield partial
        _barrier(f"written {partial}")
        if lock is not None:
            if target.is_dir():
                target.rmdir()
            partial.rename(target)
        _barrier(f"renamed {target}")
    except BaseException:
        if lock is not None:
            shutil.rmtree(partial, ignore_errors=True)
        raise
    finally:
        if lock is not None:
            os.close(lock)


def _create(partial: pathlib.Path, target: pathlib.Path) -> int:
    """Makes the empty partial directory and returns its lock, which dies with this process."""
    target.parent.mkdir(parents=True, exist_ok=True)
    while True:
        partial.mkdir(exist_ok=True)
        lock = os.open(partial, os.O_RDONLY)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if target.exists() and not (target.is_dir() and not any(target.iterdir())):
                shutil.rmtree(partial, ignore_errors=True)
                raise FileExistsError(f"{target} exists: remove it or choose another place")
            # Whoever held the lock before may have renamed the directory away from under us.
            if partial.exists() and os.fstat(lock).st_ino == partial.stat().st_ino:
                break
        except BlockingIOError:
            os.close(lock)
            raise FileExistsError(f"another process is writing {target}") from None
        except BaseException:
            os.close(lock)
            raise
        os.close(lock)
    for path in partial.iterdir():
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    return lock


def _barrier(name: str) -> None:
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(name)
