"""Pages of WARC, WET, JSONL and Parquet files, and the metadata of WAT files.

A page carries the place of its record, by which `read_pages_at` reads it again without the rest of
the file.
"""

from __future__ import annotations

import io
import re
import zlib
from collections.abc import Iterable, Iterator
from typing import BinaryIO, TypeVar

from dsmath_jax.data.errors import InputError
from dsmath_jax.mining import jsonl_parquet, storage
from dsmath_jax.mining.pages import Counts, Limits, Page, Rejected
from dsmath_jax.mining.responses import page_of
from dsmath_jax.mining.warc import MAX_HEADER, Record, read_records
from dsmath_jax.mining.wat import Metadata, metadata_of

T = TypeVar("T", Page, Metadata)
DEFAULTS = Limits()
GAP = 512 << 10  # two records so near to each other in a file are read in one request


# ---- From front to back ------------------------------------------------------------------------


def read_pages(
    path: str, limits: Limits = DEFAULTS, counts: Counts | None = None
) -> Iterator[Page | Rejected]:
    """Yields the pages of an archive in order, and what had to be rejected.

    Of WARC files these are responses with status 200 that are HTML, XHTML or plain text, decoded as
    their HTTP headers say; of WET files the texts; of JSONL and Parquet the rows, by their fields
    "url" and "text" (and "date" where there is one). The kind of a file is told by its first bytes,
    and by its name where these are damaged.

    Args:
      path: a local path or any fsspec URL.
      counts: is added to, also for records that are no pages.

    Raises:
      InputError: the file is missing, of no known kind, or without these fields.
      storage.ReadFailed: it is remote, and reading failed in every attempt.
    """
    found = (
        page_of(item, path, limits) if isinstance(item, Record) else item
        for item in _items(path, limits)
    )
    return _counted(found, Counts() if counts is None else counts)


def _counted(found: Iterable[T | Rejected | str], counts: Counts) -> Iterator[T | Rejected]:
    """Counts them, and leaves out those that are words for what is no page."""
    for item in found:
        counts.records += 1
        if isinstance(item, str):
            counts.skipped[item] += 1
            continue
        if isinstance(item, Rejected):
            counts.rejected[item.reason] += 1
        else:
            counts.pages += 1
        yield item


def _items(
    path: str, limits: Limits, wanted: frozenset[int] | None = None
) -> Iterator[Record | Page | Rejected]:
    with storage.open(path, rate=limits.rate) as file:
        head = _peek(file)
        kind = _kind(path, head)
        if kind == "empty":
            yield Rejected(path, 0, "", "empty file")
        elif kind == "parquet":
            yield from jsonl_parquet.read_parquet(path, limits, wanted)
        elif kind == "jsonl":
            yield from jsonl_parquet.read_jsonl(file, path, head[:2] == b"\x1f\x8b", limits)
        else:
            yield from _records(file, head, limits)


def _records(file: BinaryIO, head: bytes, limits: Limits) -> Iterator[Record]:
    return read_records(
        file,
        compressed=head[:2] == b"\x1f\x8b",
        max_bytes=limits.max_page_bytes + MAX_HEADER,
        max_skipped_bytes=limits.max_skipped_bytes,
    )


def _peek(file: BinaryIO) -> bytes:
    head = file.read(4096)
    file.seek(0)
    return head


def _kind(path: str, head: bytes) -> str:
    if not head:
        return "empty"
    if head.startswith(b"PAR1"):
        return "parquet"
    if head[:2] == b"\x1f\x8b":
        try:
            head = zlib.decompressobj(31).decompress(head, 64)
        except zlib.error:
            head = b""
    if head.startswith(b"WARC/"):
        return "warc"
    if head.lstrip()[:1] == b"{":
        return "jsonl"
    name = re.sub(r"\.gz$", "", path.rsplit("/", 1)[-1].split("?")[0])
    for ending, kind in (
        (".warc", "warc"),
        (".wet", "warc"),
        (".wat", "warc"),
        (".jsonl", "jsonl"),
        (".json", "jsonl"),
        (".parquet", "parquet"),
    ):
        if name.endswith(ending):
            return kind
    raise InputError(f"{path} is no WARC, WET, JSONL or Parquet file, by its first bytes and name")


# ---- By place ----------------------------------------------------------------------------------


def read_page_at(path: str, offset: int, length: int, limits: Limits = DEFAULTS) -> Page | Rejected:
    """Reads one page again by the `offset` and `length` that it had; see `read_pages_at`."""
    return next(read_pages_at(path, [(offset, length)], limits))


def read_pages_at(
    path: str, places: Iterable[tuple[int, int]], limits: Limits = DEFAULTS
) -> Iterator[Page | Rejected]:
    """Reads pages of one file again, in the order of their places in it.

    Records that have bytes of their own are read by ranges; where `length` is -1 the file is read
    up to the last of them.

    Args:
      places: (offset, length) of pages that `read_pages` gave for this file.

    Yields:
      For each place its page, or `Rejected`: "not a page" where the file holds none there.
    """
    chosen = sorted(set(places))
    counted = {offset for offset, length in chosen if length < 0}
    ranges = [place for place in chosen if place[1] >= 0]
    for start, end, inside in _neighbours(ranges):
        data = storage.read_range(path, start, end - start, rate=limits.rate)
        for offset, length in inside:
            yield _page_in(
                data[offset - start : offset - start + length], path, offset, length, limits
            )
    if counted:
        yield from _pages_by_number(path, counted, limits)


def _neighbours(
    places: Iterable[tuple[int, int]],
) -> Iterator[tuple[int, int, list[tuple[int, int]]]]:
    """Joins places to ranges (start, end, places) with small gaps and of bounded size."""
    start = end = 0
    inside: list[tuple[int, int]] = []
    for offset, length in places:
        if inside and (offset > end + GAP or offset + length > start + storage.RANGE):
            yield start, end, inside
            inside = []
        if not inside:
            start = end = offset
        end = max(end, offset + length)
        inside.append((offset, length))
    if inside:
        yield start, end, inside


def _page_in(data: bytes, path: str, offset: int, length: int, limits: Limits) -> Page | Rejected:
    found: Page | Rejected | str = "not a page"
    for record in _records(io.BytesIO(data), data, limits):
        record.offset, record.length = offset, length
        found = page_of(record, path, limits)
        break
    return Rejected(path, offset, "", "not a page") if isinstance(found, str) else found


def _pages_by_number(path: str, numbers: set[int], limits: Limits) -> Iterator[Page | Rejected]:
    missing = set(numbers)
    for item in _items(path, limits, frozenset(numbers)):
        if item.offset not in missing:
            continue
        if isinstance(item, Record):
            if item.length >= 0 or item.error or not item.whole:
                continue  # its offset counts bytes
            found = page_of(item, path, limits)
            item = (
                Rejected(path, item.offset, "", "not a page") if isinstance(found, str) else found
            )
        missing.remove(item.offset)
        yield item
        if not missing:
            return
    for number in sorted(missing):
        yield Rejected(path, number, "", "not a page")


# ---- Metadata ----------------------------------------------------------------------------------


def read_metadata(
    path: str, limits: Limits = DEFAULTS, counts: Counts | None = None
) -> Iterator[Metadata | Rejected]:
    """Yields the metadata of each response that a WAT file lists.

    Raises:
      InputError: the file is missing or no WARC.
    """
    with storage.open(path, rate=limits.rate) as file:
        head = _peek(file)
        if _kind(path, head) != "warc":
            raise InputError(f"{path} is no WAT file, by its first bytes and name")
        found = (metadata_of(record, path) for record in _records(file, head, limits))
        yield from _counted(found, Counts() if counts is None else counts)
