"""Checksums of a directory's files, kept in it, by which damage is found and named."""

from __future__ import annotations

import hashlib
import json
import os
import pathlib
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor

import jax
import numpy as np
from jax.experimental import multihost_utils

NAME = "checksums.json"
WITHOUT = {NAME, "_CHECKPOINT_METADATA"}  # the latter is Orbax's times, written last and not needed
THREADS = min(8, os.cpu_count() or 1)  # hashlib works outside of the interpreter's lock


def write_checksums(directory: pathlib.Path, part: str = "") -> None:
    """Writes {path: [bytes, sha256]} of all files below `directory` into its checksums.json.

    Args:
      part: a subdirectory, to hash it alone and keep the result beside it, as PART.checksums. Those
        are merged when the whole is written, and their files not read again. So each process can
        hash what it wrote.
    """
    if part:
        found = _hashed(directory, _files(directory / part, directory))
        _write(directory / f"{part}.checksums", found)
        return
    found = {}
    for path in directory.rglob("*.checksums"):
        found |= json.loads(path.read_text())
        path.unlink()
    left = [name for name in _files(directory, directory) if name not in found]
    found |= _hashed(directory, left)
    _write(directory / NAME, dict(sorted(found.items())))


def damage(directory: pathlib.Path, *, share: tuple[int, int] = (0, 1)) -> str:
    """What is wrong with a directory: "" when all files are those of its checksums.json, else a few
    words that name the file.

    Args:
      share: (index, count): only every count-th file is read, from the index-th; so `count`
        processes read each its own.
    """
    try:
        known = json.loads((directory / NAME).read_text())
        index, count = share
        mine = dict(list(known.items())[index::count])
        sizes = {name: int(size) for name, (size, _) in mine.items()}
    except FileNotFoundError:
        return f"{NAME} is missing"
    except (OSError, ValueError, TypeError, AttributeError):
        return f"{NAME} cannot be read"
    for name, size in sizes.items():
        path = directory / name
        if not path.is_file():
            return f"{name} is missing"
        if path.stat().st_size != size:
            return f"{name} has {path.stat().st_size} bytes, not the {size} that were written"
    try:
        found = _hashed(directory, mine)
    except OSError as e:
        return f"{pathlib.Path(e.filename or '').name} cannot be read ({e.strerror})"
    return next((f"{n} differs from what was written" for n in mine if found[n] != mine[n]), "")


def damage_seen_by_any(directory: pathlib.Path) -> str:
    """`damage`, shared among the processes of the run, which all must call it."""
    here, processes = jax.process_index(), jax.process_count()
    problem = damage(directory, share=(here, processes))
    if processes > 1:
        found = multihost_utils.process_allgather(np.array(bool(problem)))
        problem = problem or ("seen by another host" if found.any() else "")
    return problem


def _files(below: pathlib.Path, root: pathlib.Path) -> list[str]:
    paths = (path for path in below.rglob("*") if path.is_file())
    return [str(p.relative_to(root)) for p in paths if p.name not in WITHOUT]


def _hashed(root: pathlib.Path, names: Iterable[str]) -> dict[str, list]:
    def one(name: str) -> list:
        with (root / name).open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
            return [file.tell(), digest]

    names = list(names)
    with ThreadPoolExecutor(THREADS) as pool:
        return dict(zip(names, pool.map(one, names), strict=True))


def _write(path: pathlib.Path, content: dict[str, list]) -> None:
    beside = path.with_name(f"{path.name}.partial")
    with beside.open("w") as file:
        json.dump(content, file, indent=0)
        file.flush()
        os.fsync(file.fileno())
    beside.replace(path)
