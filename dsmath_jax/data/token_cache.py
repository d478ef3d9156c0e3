"""Texts as token ids: encoded once, kept on disk, read by memory map.

A cache is a directory NAME-KEY with
    tokens.bin    all ids in one row, uint16 or (vocabularies above 65536) uint32
    offsets.npy   [documents + 1] int64: where each document begins
    starts.npy    [documents] int32: where each document's trained part begins (fine-tuning)
    rejected.jsonl, if records were bad
    meta.json     what it was made from, sizes and checksums
KEY is a hash of the tokenizer's content, of the files (name, size, time and samples of the content:
all of it up to 1 MiB), of the fields and of the prompt's text: when one changes, another cache is
made. The directory appears whole or not at all.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import itertools
import json
import logging
import multiprocessing
import os
import pathlib
import shutil
import signal
import socket
import sys
import threading
import time
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from typing import Any

import numpy as np

from dsmath_jax.data.damage import Checksums, checksum, find_damage
from dsmath_jax.data.documents import Documents, Encoding, encode, token_dtype
from dsmath_jax.data.sources import Chunk, Piece, Rejected, Source, check_rejected, read_chunk
from dsmath_jax.data.tokenizers import Tokenizer

log = logging.getLogger(__name__)

VERSION = 1  # of the format and of how documents are encoded
SAMPLE, SAMPLES = 64 << 10, 16  # bytes of a file in its key
SEVERAL_PROCESSES_FROM = 64 << 20  # bytes of text: below, starting them takes longer than the work


def open_documents(
    source: Source,
    tokenizer: Tokenizer,
    encoding: Encoding,
    cache: pathlib.Path,
    *,
    name: str,
    max_rejected_share: float = 0.0,
    rejected: pathlib.Path | None = None,
    processes: int | None = None,
) -> Documents:
    """The documents of a source as token ids, from the cache, which is made if it is not there.

    Several processes may ask for one cache, also on several hosts: one makes it, the others wait.
    One that is damaged is made again.

    Args:
      cache: directory of the caches.
      name: for people to recognise it by, among them those who read messages.
      max_rejected_share, rejected: as in `sources.read_examples`.
      processes: that tokenise; by default one a core, when the source is large.

    Raises:
      InputError: the source holds no examples, or too many bad ones.
    """
    described = _describe(source, tokenizer, encoding)
    key = hashlib.sha256(json.dumps(described, sort_keys=True).encode()).hexdigest()[:16]
    directory = cache / f"{name}-{key}"
    cache.mkdir(parents=True, exist_ok=True)
    if find_damage(directory):  # first without the lock, which a read-only cache cannot give
        with _lock(cache / f".{name}-{key}.lock", directory):
            problem = find_damage(directory)
            if problem and directory.exists():
                log.warning("%s is damaged (%s): it is made again", directory, problem)
                shutil.rmtree(directory)
            if problem:
                _build(directory, described, source, tokenizer, encoding, processes)
    meta = json.loads((directory / "meta.json").read_text())
    if rejected is not None and meta["bad"]:
        rejected.parent.mkdir(parents=True, exist_ok=True)
        beside = rejected.with_name(f"{rejected.name}.{socket.gethostname()}.{os.getpid()}")
        shutil.copyfile(directory / "rejected.jsonl", beside)
        beside.replace(rejected)
    check_rejected(
        source.path, meta["total"], meta["bad"], meta["first_bad"], max_rejected_share, rejected
    )
    return Documents.open(directory, np.dtype(meta["dtype"]))


def _describe(source: Source, tokenizer: Tokenizer, encoding: Encoding) -> dict[str, Any]:
    return {
        "version": VERSION,
        "tokenizer": tokenizer.fingerprint(),
        "encoding": encoding.describe(),
        "fields": source.fields,
        "splits": sorted({c.split for c in source.chunks}),
        "files": [_file_identity(path) for path in source.files],
    }


def _file_identity(path: str) -> list[Any]:
    """Name, size, time of change and a hash of 16 pieces of the content, evenly spaced."""
    status = os.stat(path)
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        last = max(status.st_size - SAMPLE, 0)
        for i in range(SAMPLES):
            file.seek(
                last * i // (SAMPLES - 1) if status.st_size > SAMPLE * SAMPLES else i * SAMPLE
            )
            digest.update(file.read(SAMPLE))
    return [os.path.basename(path), status.st_size, status.st_mtime_ns, digest.hexdigest()]


# ---- Making one -------------------------------------------------------------------------------


def _build(
    directory: pathlib.Path,
    described: dict[str, Any],
    source: Source,
    tokenizer: Tokenizer,
    encoding: Encoding,
    processes: int | None,
) -> None:
    host = socket.gethostname()
    for left in directory.parent.glob(f".{directory.name}.{host}.*.partial"):
        if not _alive(int(left.name.split(".")[-2])):  # of a process that was killed
            shutil.rmtree(left, ignore_errors=True)
    partial = directory.with_name(f".{directory.name}.{host}.{os.getpid()}.partial")
    partial.mkdir()
    try:
        meta = _write(partial, source, tokenizer, encoding, processes)
        (partial / "meta.json").write_text(json.dumps(meta | {"made_from": described}) + "\n")
        with contextlib.suppress(OSError):  # where locks do not reach: another host was faster
            partial.rename(directory)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _alive(pid: int) -> bool:
    """Whether a process of this host runs: without locks another may be making the same cache."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # another user's
        return True
    return pid != os.getpid()  # its number may have been that of one that was killed


def _write(
    partial: pathlib.Path,
    source: Source,
    tokenizer: Tokenizer,
    encoding: Encoding,
    processes: int | None,
) -> dict[str, Any]:
    dtype = token_dtype(tokenizer)
    lengths, starts = [np.zeros(0, np.int64)], [np.zeros(0, np.int32)]
    rejected = Rejected(partial / "rejected.jsonl")
    blocks = Checksums()
    progress = _Progress(partial.name.split(".")[1], sum(c.size for c in source.chunks))
    with (partial / "tokens.bin").open("wb") as file:
        for chunk, piece, encoded in _encoded(source, tokenizer, encoding, processes):
            rejected.add(chunk, piece)
            data = encoded.tokens.tobytes()
            file.write(data)
            blocks.add(data)
            lengths.append(np.diff(encoded.offsets))
            if encoded.starts is not None:
                starts.append(encoded.starts)
            progress.add(chunk.size, len(encoded.tokens))
    rejected.close()
    progress.close()
    offsets = np.concatenate([[0], np.cumsum(np.concatenate(lengths))]).astype(np.int64)
    np.save(partial / "offsets.npy", offsets)
    if encoding.prompt is not None:
        np.save(partial / "starts.npy", np.concatenate(starts))
    arrays = [p for p in (partial / "offsets.npy", partial / "starts.npy") if p.exists()]
    return {
        "documents": len(offsets) - 1,
        "tokens": int(offsets[-1]),
        "dtype": str(dtype),
        "total": rejected.total,
        "bad": rejected.bad,
        "first_bad": rejected.first,
        "sizes": {p.name: p.stat().st_size for p in sorted(partial.iterdir())},
        "checksums": {p.name: checksum(p) for p in arrays},
        "blocks": blocks.finish(),
    }


Result = tuple[Piece, Documents]
_shared: dict[str, Any] = {}


def _encoded(
    source: Source, tokenizer: Tokenizer, encoding: Encoding, processes: int | None
) -> Iterator[tuple[Chunk, Piece, Documents]]:
    """Chunks in order; with several processes no more than a few wait to be written."""
    if processes is None:
        large = sum(c.size for c in source.chunks) >= SEVERAL_PROCESSES_FROM
        processes = (os.cpu_count() or 1) if large else 1
    if processes == 1:
        for chunk in source.chunks:
            yield chunk, *_encode_chunk(chunk, source.fields, tokenizer, encoding)
        return
    with ProcessPoolExecutor(
        processes,
        multiprocessing.get_context("spawn"),  # a fork would copy JAX's threads in any state
        _start_worker,
        (source.fields, tokenizer, encoding),
    ) as pool:
        waiting: deque[tuple[Chunk, Future[Result]]] = deque()
        chunks = iter(source.chunks)
        try:
            while True:
                for chunk in itertools.islice(chunks, 3 * processes - len(waiting)):
                    waiting.append((chunk, pool.submit(_work, chunk)))
                if not waiting:
                    return
                chunk, future = waiting.popleft()
                yield chunk, *future.result()
        finally:
            pool.shutdown(cancel_futures=True)


def _start_worker(fields: Any, tokenizer: Tokenizer, encoding: Encoding) -> None:
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # a process each is enough
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all; the parent decides
    threading.Thread(target=_end_with_parent, daemon=True).start()
    _shared["arguments"] = fields, tokenizer, encoding


def _end_with_parent() -> None:
    """A parent that was killed cannot tell its workers to end: they would wait for ever."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _work(chunk: Chunk) -> Result:
    return _encode_chunk(chunk, *_shared["arguments"])


def _encode_chunk(chunk: Chunk, fields: Any, tokenizer: Tokenizer, encoding: Encoding) -> Result:
    piece = read_chunk(chunk, fields)
    documents = encode(piece.examples, tokenizer, encoding)
    piece.examples = []  # not to be sent between processes
    return piece, documents


class _Progress:
    """A line every ten seconds on stderr."""

    def __init__(self, name: str, total: int):
        self.name, self.total, self.done, self.tokens = name, max(total, 1), 0, 0
        self.start = self.last = time.monotonic()

    def add(self, size: int, tokens: int) -> None:
        self.done += size
        self.tokens += tokens
        now = time.monotonic()
        if now - self.last >= 10 and self.done < self.total:
            self.last = now
            left = (now - self.start) * (self.total - self.done) / self.done if self.done else 0
            self._print(f"{self.done / self.total:.0%}, {left:.0f}s to go")

    def close(self) -> None:
        if time.monotonic() - self.start >= 10:
            self._print("done")

    def _print(self, state: str) -> None:
        rate = self.tokens / (time.monotonic() - self.start)
        print(
            f"tokenising {self.name}: {state}, {self.tokens:.3g} tokens, {rate:.3g}/s",
            file=sys.stderr,
            flush=True,
        )


@contextlib.contextmanager
def _lock(path: pathlib.Path, directory: pathlib.Path) -> Iterator[None]:
    """Held by one process at a time; it ends with the process that holds it."""
    with path.open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print(f"another process makes {directory}: waiting", file=sys.stderr, flush=True)
            fcntl.flock(file, fcntl.LOCK_EX)
        except OSError as e:
            log.warning("%s cannot be locked (%s): every process makes its own", directory, e)
        yield
