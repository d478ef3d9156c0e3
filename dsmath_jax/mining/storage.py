"""Files on local disks, web servers and object stores (fsspec), with retries and one rate limit.

Remote files are read in ranges, one request each, so that a stream that breaks is taken up where it
broke. Web servers need nothing but Python; other protocols need their fsspec package (s3fs, gcsfs).
"""

from __future__ import annotations

import builtins
import email.message
import functools
import glob as local_glob
import http.client
import io
import logging
import os
import pathlib
import random
import re
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from typing import Any, BinaryIO, TypeVar, cast

from dsmath_jax.data.errors import InputError
from dsmath_jax.mining.rate_limit import RateLimit

log = logging.getLogger(__name__)

T = TypeVar("T")
RANGE = 16 << 20  # bytes of one request
ATTEMPTS = 8
FIRST_WAIT = 1.0  # seconds, doubled with each attempt
LONGEST_WAIT = 120.0
TIMEOUT = 60.0  # seconds without a byte
TRANSIENT = frozenset({408, 425, 429, 500, 502, 503, 504, 509})
SLOW_DOWN = frozenset({429, 503, 509})
_SLOW_WORDS = ("slowdown", "slow down", "throttl", "toomanyrequests", "rate exceeded")


# ---- Retries -----------------------------------------------------------------------------------


class ReadFailed(OSError):
    """A remote file could not be read in any attempt."""


class ShortRead(OSError):
    """A connection ended before all bytes had come."""


def with_retries(
    request: Callable[[], T], name: str, *, size: int = 0, rate: RateLimit | None = None
) -> T:
    """What `request` gives; after a transient error it is sent again, eight times in all.

    Waits 1, 2, 4, ... seconds in between, at most 120, each times a random number from 0.5 to 1.5,
    or as long as the server's Retry-After says. Where the server asks to slow down, all processes
    that share the rate limit wait.

    Raises:
      InputError: the file is missing or forbidden.
      ReadFailed: it failed each time.
    """
    for attempt in range(ATTEMPTS):
        if rate is not None:
            rate.wait(size)
        try:
            return request()
        except InputError:
            raise
        except Exception as e:
            if _is_missing(e):
                raise InputError(
                    f"{name} cannot be read ({_short(e)}): check path and access"
                ) from e
            if not _is_transient(e) or attempt == ATTEMPTS - 1:
                raise ReadFailed(f"{name}: {_short(e)}, in attempt {attempt + 1}") from e
            wait = min(FIRST_WAIT * 2**attempt, LONGEST_WAIT) * random.uniform(0.5, 1.5)
            wait = max(wait, _retry_after(e))
            log.warning("%s: %s; again in %.1f s", name, _short(e), wait)
            if rate is not None and _asks_to_slow_down(e):
                rate.pause(wait)
            time.sleep(wait)
    raise AssertionError("unreachable")


def _status(e: BaseException) -> int:
    for field in ("code", "status", "status_code"):
        value = getattr(e, field, None)
        if isinstance(value, int):
            return value
    response = getattr(e, "response", None)  # botocore
    if isinstance(response, dict):
        return int(response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
    return 0


def _asks_to_slow_down(e: BaseException) -> bool:
    return _status(e) in SLOW_DOWN or any(w in str(e).lower() for w in _SLOW_WORDS)


def _is_missing(e: BaseException) -> bool:
    if isinstance(e, FileNotFoundError | PermissionError | IsADirectoryError):
        return not _asks_to_slow_down(e)
    return _status(e) in (401, 403, 404, 410) and not _asks_to_slow_down(e)


def _is_transient(e: BaseException) -> bool:
    status = _status(e)
    if status:
        return status in TRANSIENT or _asks_to_slow_down(e)
    # Client libraries have their own classes for broken connections; most are no OSError.
    return not isinstance(e, ValueError | TypeError | AttributeError | ImportError | MemoryError)


def _retry_after(e: BaseException) -> float:
    headers = getattr(e, "headers", None)
    value = headers.get("Retry-After", "") if isinstance(headers, email.message.Message) else ""
    return min(float(value), LONGEST_WAIT) if re.fullmatch(r"\d{1,6}", value) else 0.0


def _short(e: BaseException) -> str:
    return f"{type(e).__name__}: {e}".splitlines()[0][:200]


# ---- Ranges of remote files --------------------------------------------------------------------


def is_remote(path: str) -> bool:
    return "://" in path and not path.startswith(("file://", "local://"))


def _local(path: str) -> str:
    return re.sub(r"^(file|local)://", "", path)


def read_range(path: str, start: int, length: int, *, rate: RateLimit | None = None) -> bytes:
    """Bytes of a file from `start` on: `length` of them, or fewer where the file ends.

    Raises:
      InputError: the file is missing, or its server serves no ranges.
      ReadFailed: it failed in every attempt.
    """
    if not is_remote(path):
        with open(path) as file:
            file.seek(start)
            return file.read(length)
    if length <= 0:
        return b""
    fetch = _http_range if path.startswith(("http://", "https://")) else _fsspec_range
    return with_retries(lambda: fetch(path, start, length), path, size=length, rate=rate)


def size(path: str, *, rate: RateLimit | None = None) -> int:
    """Bytes of a file, local or remote.

    Raises:
      InputError, ReadFailed: as for `read_range`.
    """
    if not is_remote(path):
        return os.path.getsize(_local(path))
    fetch = _http_size if path.startswith(("http://", "https://")) else _size
    return with_retries(lambda: fetch(path), path, rate=rate)


def _http_request(url: str, start: int, length: int) -> urllib.request.Request:
    headers = {
        "Range": f"bytes={start}-{start + length - 1}",
        "Accept-Encoding": "identity",  # offsets are of the file as stored
        "User-Agent": "dsmath-jax",
    }
    return urllib.request.Request(url, headers=headers)


def _http_size(url: str) -> int:
    try:
        with urllib.request.urlopen(_http_request(url, 0, 1), timeout=TIMEOUT) as reply:
            total = re.fullmatch(r"bytes \d+-\d+/(\d+)", reply.headers.get("Content-Range", ""))
            return int(total.group(1) if total else reply.headers["Content-Length"])
    except urllib.error.HTTPError as e:
        if e.code == 416:  # an empty file has no first byte
            return 0
        raise


def _http_range(url: str, start: int, length: int) -> bytes:
    try:
        with urllib.request.urlopen(_http_request(url, start, length), timeout=TIMEOUT) as reply:
            wanted = int(reply.headers.get("Content-Length", -1))
            if reply.status != 206 and (start or wanted > length or wanted < 0):
                raise InputError(
                    f"{url}: the server serves no ranges of bytes; download the file and give its "
                    "local path"
                )
            try:
                data = reply.read()
            except http.client.IncompleteRead as e:
                raise ShortRead(f"{len(e.partial)} of {wanted} bytes came") from e
            if 0 <= len(data) < wanted:
                raise ShortRead(f"{len(data)} of {wanted} bytes came")
            return cast(bytes, data)
    except urllib.error.HTTPError as e:
        if e.code == 416:  # the range begins at the end of the file, or after it
            return b""
        raise


def _fsspec_range(path: str, start: int, length: int) -> bytes:
    system, inner = _file_system(path)
    wanted = min(length, _size(path) - start)
    if wanted <= 0:
        return b""
    data = system.cat_file(inner, start=start, end=start + wanted)
    if len(data) < wanted:
        raise ShortRead(f"{len(data)} of {wanted} bytes came")
    return cast(bytes, data)


@functools.lru_cache(maxsize=1024)
def _size(path: str) -> int:
    system, inner = _file_system(path)
    return int(system.size(inner))


def _file_system(path: str) -> tuple[Any, str]:
    import fsspec

    try:
        return cast(tuple[Any, str], fsspec.core.url_to_fs(path))
    except (ImportError, ValueError) as e:
        raise InputError(f"{path} cannot be opened: {e}") from None


class RemoteFile(io.RawIOBase):
    """A remote file, read in ranges; see `open`."""

    def __init__(self, path: str, rate: RateLimit | None):
        super().__init__()
        self.path, self.rate = path, rate
        self.position = 0
        self.end: int | None = None  # of the file, once a range was short
        self.data = b""
        self.data_at = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        if whence == io.SEEK_END:
            offset += size(self.path, rate=self.rate)
        self.position = offset + (self.position if whence == io.SEEK_CUR else 0)
        return self.position

    def tell(self) -> int:
        return self.position

    def readinto(self, target: Any) -> int:
        skip = self.position - self.data_at
        if not 0 <= skip < len(self.data):
            if self.end is not None and self.position >= self.end:
                return 0
            self.data = read_range(self.path, self.position, RANGE, rate=self.rate)
            self.data_at, skip = self.position, 0
            if 0 < len(self.data) < RANGE:
                self.end = self.position + len(self.data)
        count = min(len(target), len(self.data) - skip)
        target[:count] = self.data[skip : skip + count]
        self.position += count
        return count


def open(path: str, *, rate: RateLimit | None = None) -> BinaryIO:
    """Opens a local file, or one of any fsspec protocol, for reading from front to back.

    Args:
      rate: of the requests; local files have no limit.

    Raises:
      InputError: there is no such local file. Of a remote one it is raised by the first read.
    """
    if is_remote(path):
        return cast(BinaryIO, io.BufferedReader(RemoteFile(path, rate), 1 << 20))
    local = _local(path)
    try:
        return builtins.open(local, "rb")
    except OSError as e:
        raise InputError(f"{local} cannot be opened: {e.strerror or e}") from None


# ---- Lists of files ----------------------------------------------------------------------------

ENDINGS = tuple(
    f".{kind}{packed}"
    for kind in ("warc", "wet", "wat", "jsonl", "parquet")
    for packed in ("", ".gz")
)


def list(paths: str | Sequence[str], *, rate: RateLimit | None = None) -> Sequence[str]:
    """The files that paths name, in order of their names, each once.

    Args:
      paths: one or several; each is a file, a glob, a directory (its archives, by their endings) or
        a listing, whose name ends in `.paths`, `.paths.gz` or `.txt`, with one path a line. Any of
        them may be remote, but web servers have no globs and no directories.

    Raises:
      InputError: a path names nothing.
    """
    found: dict[str, None] = {}
    for path in [paths] if isinstance(paths, str) else paths:
        one = _expand(str(path), rate)
        if not one:
            raise InputError(f"{path} names no file: give a file, a glob, a directory or a listing")
        found |= dict.fromkeys(one)
    return sorted(found)


def _expand(path: str, rate: RateLimit | None) -> Sequence[str]:
    if path.endswith((".paths", ".paths.gz", ".txt")):
        from dsmath_jax.mining.common_crawl import paths as read_listing

        return read_listing(path, rate=rate)
    if path.startswith(("http://", "https://")):
        return [path]
    if is_remote(path):
        return with_retries(lambda: _expand_remote(path), path, rate=rate)
    local = _local(path)
    if os.path.isdir(local):
        return [str(p) for p in pathlib.Path(local).rglob("*") if p.name.endswith(ENDINGS)]
    if os.path.exists(local):
        return [local]
    return [p for p in local_glob.glob(local, recursive=True) if os.path.isfile(p)]


def _expand_remote(path: str) -> Sequence[str]:
    system, inner = _file_system(path)
    if any(c in inner for c in "*?["):
        found = system.glob(inner)
    elif system.isdir(inner):
        found = [p for p in system.find(inner) if p.endswith(ENDINGS)]
    else:
        found = [inner] if system.exists(inner) else []
    return [system.unstrip_protocol(p) for p in found]
