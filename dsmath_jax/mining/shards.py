"""Stages as pure functions from a shard to a folder of files, run by local processes or by Ray.

A shard's folder appears whole or not at all: files are written beside it and it is renamed when its
marker, `done.json`, is in it. The marker's key is of the stage's settings and of what it reads, so
a changed setting does again what depends on it and nothing else, and a rerun repeats no finished
shard. What runs where, and how many shards there are at once, changes no byte.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import pathlib
import secrets
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from dsmath_jax.mining.workers import Progress, Workers

MARKER = "done.json"
SECONDS = ".seconds"  # a file beside each shard: what it took

# (shard, folder to write to, settings, progress) -> what is counted. `progress(item)` is called
# before each page with what names it, and says whether the page is to be left out, because a
# process has hung or died at it.
Stage = Callable[["Shard", pathlib.Path, dict[str, Any], Progress], dict[str, Any]]


@dataclasses.dataclass(frozen=True)
class Shard:
    """A unit of work.

    name: of its folder.
    inputs: paths that the stage reads.
    key: of their contents; another key, and it is done again.
    """

    name: str
    inputs: tuple[str, ...]
    key: str


@dataclasses.dataclass(frozen=True)
class Engine:
    """Who runs the shards.

    workers: processes, or with Ray shards at a time (0: as many as there are CPUs).
    ray: address of a cluster ("local" starts one), "" for local processes.
    stuck_seconds: at one page until a process is killed, and begins again without the page.
    memory_gb: that a process may take before it is killed (0: no limit).
    """

    workers: int = 1
    ray: str = ""
    stuck_seconds: float = 60.0
    memory_gb: float = 0.0


def run_shards(
    stage: Stage,
    version: int,
    shards: Sequence[Shard],
    folder: pathlib.Path,
    settings: dict[str, Any],
    engine: Engine = Engine(),
    say: Callable[[str], None] = print,
    *,
    without_key: dict[str, Any] | None = None,
) -> list[dict[str, Any]]:
    """What each shard counted, with its "seconds" and "bytes_written", in their order, after doing
    those that are not done.

    Args:
      stage: a function of a module, its settings JSON.
      version: of what it computes, part of the key.
      folder: FOLDER/NAME is a shard's.
      say: gets a line of progress every few seconds.
      without_key: more settings, on which no output depends.

    Raises:
      Exception: what the stage raised; the other shards that had begun are finished.
    """
    folder.mkdir(parents=True, exist_ok=True)
    keys = {s.name: shard_key(stage, version, settings, s) for s in shards}
    done = {s.name: read_marker(folder / s.name, keys[s.name]) for s in shards}
    missing = [s for s in shards if done[s.name] is None]
    _remove_others(folder, {s.name for s in shards if done[s.name] is not None})
    report = Report(stage.__name__, len(shards), len(missing), say)
    given = settings | (without_key or {})
    jobs = [(stage, s, folder, given, keys[s.name]) for s in missing]
    for shard, counts in zip(missing, _run(jobs, engine, report), strict=True):
        done[shard.name] = counts
    _remove_others(folder, set(done))
    report.end()
    return [found for s in shards if (found := done[s.name]) is not None]


def _run(jobs: list[tuple], engine: Engine, report: Report) -> list[dict[str, Any]]:
    if engine.ray:
        from dsmath_jax.mining.ray_engine import run_on_ray

        return run_on_ray(jobs, engine, report.ended)
    count = engine.workers or os.cpu_count() or 1
    workers = Workers(min(count, len(jobs)), engine.stuck_seconds, engine.memory_gb)
    return workers.run(do_shard, jobs, report.ended)


def do_shard(job: tuple, progress: Progress) -> dict[str, Any]:
    """One shard: its folder, with the marker, and what was counted."""
    stage, shard, folder, settings, key = job
    target = folder / shard.name
    if (found := read_marker(target, key)) is not None:  # its process died before it could say so
        return found
    # Ray may have one shard done twice at once, and processes of two nodes may have one number.
    partial = folder / f".{shard.name}.{secrets.token_hex(8)}"
    partial.mkdir()
    start = time.perf_counter()
    counts = stage(shard, partial, settings, progress)
    files = {}
    for path in sorted(p for p in partial.rglob("*") if p.is_file()):
        files[str(path.relative_to(partial))] = [path.stat().st_size, file_hash(path)]
        _sync(path)
    marker = {
        "key": key,
        "counts": counts,
        "files": files,
        "left_out": sorted(progress.left_out),
    }
    (partial / MARKER).write_text(json.dumps(marker, sort_keys=True) + "\n")
    _sync(partial / MARKER)
    try:
        partial.rename(target)
    except OSError:
        if read_marker(target, key) is None:  # from a process of a run that was killed
            shutil.rmtree(target)
            partial.rename(target)
        else:  # another process has done it, with the same bytes
            shutil.rmtree(partial, ignore_errors=True)
    _sync(folder)
    # Apart from the marker, so that all outputs are the same bytes at each run.
    seconds = {"key": key, "seconds": round(time.perf_counter() - start, 3)}
    (folder / f"{shard.name}{SECONDS}").write_text(json.dumps(seconds))
    return _counted(target, marker)


def shard_key(stage: Stage, version: int, settings: dict[str, Any], shard: Shard) -> str:
    what = [stage.__module__, stage.__name__, version, settings, shard.name, shard.key]
    return hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()


def read_marker(folder: pathlib.Path, key: str | None = None) -> dict[str, Any] | None:
    """What a finished shard counted, its seconds and bytes; None where it is not finished, has
    another key, or files that are not the marker's."""
    try:
        marker = json.loads((folder / MARKER).read_text())
        sizes = {name: (folder / name).stat().st_size for name in marker["files"]}
    except (OSError, ValueError, KeyError):
        return None
    if key is not None and marker["key"] != key:
        return None
    if any(sizes[name] != size for name, (size, _) in marker["files"].items()):
        return None
    return _counted(folder, marker)


def _counted(folder: pathlib.Path, marker: dict[str, Any]) -> dict[str, Any]:
    """What a shard counted, bytes of its files, and the seconds that it took."""
    written = sum(size for size, _ in marker["files"].values())
    seconds = _seconds(folder, marker["key"])
    return marker["counts"] | {"bytes_written": written, "seconds": seconds}


def _seconds(folder: pathlib.Path, key: str) -> float:
    """That a shard took when it was done; 0 where a kill came before they were written."""
    try:
        kept = json.loads(folder.with_name(folder.name + SECONDS).read_text())
    except (OSError, ValueError):
        return 0.0
    return kept["seconds"] if kept["key"] == key else 0.0


def output_key(folder: pathlib.Path) -> str:
    """Of the contents of a finished shard's files: the key of a shard that reads them."""
    marker = json.loads((folder / MARKER).read_text())
    return hashlib.sha256(json.dumps(marker["files"], sort_keys=True).encode()).hexdigest()


def file_hash(path: pathlib.Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _sync(path: pathlib.Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _remove_others(folder: pathlib.Path, names: set[str]) -> None:
    """Leftovers of killed processes, and shards that are of another key or there are no more."""
    for path in folder.iterdir():
        if path.is_dir() and path.name not in names:
            shutil.rmtree(path, ignore_errors=True)
        elif path.suffix == SECONDS and path.stem not in names:
            path.unlink(missing_ok=True)


class Report:
    """Lines of progress: shards done, pages a second, time left."""

    every = 5.0  # seconds

    def __init__(self, name: str, shards: int, missing: int, say: Callable[[str], None]):
        self.name, self.shards, self.missing, self.say = name, shards, missing, say
        self.done = self.pages = 0
        self.start = self.said = time.monotonic()

    def ended(self, counts: dict[str, Any]) -> None:
        self.done += 1
        self.pages += counts.get("pages", 0)
        now = time.monotonic()
        if now - self.said >= self.every and self.done < self.missing:
            self.said = now
            self.say(self.line(now))

    def line(self, now: float) -> str:
        passed = now - self.start
        text = f"{self.name}: {self.shards - self.missing + self.done} of {self.shards} shards"
        if self.pages:
            text += f", {self.pages:,} pages, {self.pages / max(passed, 1e-3):,.0f} pages/s"
        if self.done:
            left = passed / self.done * (self.missing - self.done)
            text += f", {left:.0f} s to go" if left < 120 else f", {left / 60:.0f} min to go"
        return text

    def end(self) -> None:
        passed = time.monotonic() - self.start
        if not self.missing:
            self.say(f"{self.name}: {self.shards} shards are done already")
            return
        text = f"{self.name}: {self.missing} shards in {passed:.1f} s"
        if self.pages:
            text += f", {self.pages:,} pages, {self.pages / max(passed, 1e-3):,.0f} pages/s"
        self.say(text)


def input_shards(paths: Sequence[str], key_of: Callable[[str], str]) -> Iterator[Shard]:
    """A shard for each file, named by its number and path."""
    for n, path in enumerate(paths):
        name = pathlib.PurePosixPath(path).name.split(".")[0][:40]
        digest = hashlib.sha256(path.encode()).hexdigest()[:8]
        yield Shard(f"{n:06d}-{name}-{digest}", (path,), key_of(path))


def input_number(shard: Shard) -> int:
    """Which of the inputs a shard of `input_shards` is, or one that has its name."""
    return int(shard.name.split("-", 1)[0])
