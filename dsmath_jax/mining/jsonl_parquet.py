"""Rows of url and text: JSONL, with or without gzip, and Parquet."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

from dsmath_jax.data.errors import InputError
from dsmath_jax.mining import storage
from dsmath_jax.mining.gzip_members import Members, Plain
from dsmath_jax.mining.pages import Limits, Page, Rejected

BATCH = 64  # rows of Parquet in memory at a time


def read_jsonl(
    file: BinaryIO, source: str, compressed: bool, limits: Limits
) -> Iterator[Page | Rejected]:
    """Yields a page for each line; its offset is the line's number from 0."""
    longest = 2 * limits.max_page_bytes + (64 << 10)  # JSON may need two bytes for one
    for number, line in enumerate(_lines(file, compressed, longest)):
        if isinstance(line, str):
            yield Rejected(source, number, "", line)
        elif line.strip():
            yield _row(_parsed(line), source, number, limits)


def _lines(file: BinaryIO, compressed: bool, longest: int) -> Iterator[bytes | str]:
    """The lines of a file, or in words why one cannot be read."""
    pieces = Members(file) if compressed else Plain(file)
    buffer = bytearray()
    dropping = False
    while (piece := pieces.next()) is not None:
        seen = len(buffer)
        buffer += piece.data
        while (end := buffer.find(b"\n", seen)) >= 0:
            if not dropping:
                yield "too large" if end > longest else bytes(buffer[:end])
            del buffer[: end + 1]
            dropping, seen = False, 0
        if len(buffer) > longest:
            if not dropping:
                yield "too large"
            buffer.clear()
            dropping = True
        if piece.error:
            yield piece.error
            buffer.clear()
            dropping = False
    if buffer and not dropping:
        yield bytes(buffer)


def _parsed(line: bytes) -> Any:
    try:
        return json.loads(line)
    except (ValueError, RecursionError):
        return None


def _row(row: Any, source: str, number: int, limits: Limits) -> Page | Rejected:
    if not isinstance(row, dict):
        return Rejected(source, number, "", "bad row")
    url, text, date = row.get("url"), row.get("text"), row.get("date")
    if not isinstance(url, str) or not isinstance(text, str) or not url:
        return Rejected(source, number, url if isinstance(url, str) else "", "bad row")
    body = text.encode("utf-8", "replace")  # half a surrogate pair becomes "?"
    url = url.encode("utf-8", "replace").decode("utf-8")
    if len(body) > limits.max_page_bytes:
        return Rejected(source, number, url, "too large")
    date = date if isinstance(date, str) else ""
    return Page(url, body, "text", "utf-8", source, number, -1, date)


def read_parquet(
    path: str, limits: Limits, wanted: frozenset[int] | None = None
) -> Iterator[Page | Rejected]:
    """Yields a page for each row; its offset is the row's number from 0.

    Args:
      wanted: numbers of rows; groups of rows that hold none of them are left out.

    Raises:
      InputError: there are no columns "url" and "text".
    """
    with storage.open(path, rate=limits.rate) as file:
        try:
            table = pq.ParquetFile(file, memory_map=False, pre_buffer=False)
        except storage.ReadFailed:
            raise
        except (pa.ArrowException, OSError, ValueError):
            yield Rejected(path, 0, "", "damaged parquet")
            return
        names = table.schema_arrow.names
        if not {"url", "text"} <= set(names):
            raise InputError(
                f'{path} has the columns {", ".join(names) or "none"}: "url" and "text" are needed'
            )
        columns = [name for name in ("url", "text", "date") if name in names]
        first = 0
        for group in range(table.num_row_groups):
            count = table.metadata.row_group(group).num_rows
            if wanted is None or any(first <= n < first + count for n in wanted):
                yield from _group(table, group, columns, first, path, limits)
            first += count


def _group(
    table: Any, group: int, columns: list[str], first: int, path: str, limits: Limits
) -> Iterator[Page | Rejected]:
    number = first
    try:
        batches = table.iter_batches(BATCH, [group], columns, use_threads=False)
        for batch in batches:
            for row in batch.to_pylist():
                yield _row(row, path, number, limits)
                number += 1
    except storage.ReadFailed:
        raise
    except (pa.ArrowException, OSError, ValueError):
        yield Rejected(path, number, "", "damaged parquet")


def read_objects(path: str, field: str) -> Iterator[tuple[int, dict[str, Any]]]:
    """(number from 1, object) of each line of a small local JSONL file.

    Args:
      field: of the configuration that names the file, for messages.

    Raises:
      InputError: the file is missing, or a line is no object.
    """
    try:
        with open(path, encoding="utf-8", newline="\n") as file:
            for number, line in enumerate(file, 1):
                if line.strip():
                    row = _parsed(line.encode("utf-8", "surrogatepass"))
                    if not isinstance(row, dict):
                        raise InputError(f"{path}, line {number}: not a JSON object")
                    yield number, row
    except OSError as e:
        raise InputError(f"{field}={path}: {e.strerror}") from None
    except UnicodeDecodeError:
        raise InputError(f"{field}={path}: not UTF-8") from None


def read_seed_pages(path: str) -> Iterator[tuple[str, str]]:
    """(url, text) of each line of the seed.

    Raises:
      InputError: the file is missing, or a line has no url and text.
    """
    for number, row in read_objects(path, "config.seed"):
        url, text = row.get("url"), row.get("text")
        if not isinstance(url, str) or not isinstance(text, str) or not url:
            raise InputError(f"{path}, line {number}: not an object with url and text")
        yield url, text
