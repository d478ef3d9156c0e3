"""Where examples come from: JSONL, Parquet, plain text files and TFDS directories of array_record.

A source is cut into chunks that can be read one apart from the other, so that several processes
share the work and no corpus is ever in memory whole.
"""

from __future__ import annotations

import glob
import json
import logging
import os
import pathlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from dsmath_jax.data.errors import InputError
from dsmath_jax.data.parquet_records import read_row_groups, row_groups
from dsmath_jax.data.tfds_records import choose_split, read_records

log = logging.getLogger(__name__)

Example = dict[str, str]
CHUNK_BYTES = 8 << 20


@dataclass(frozen=True)
class Chunk:
    """A part of a file: bytes `start` to `end` (JSONL, text), or those records (TFDS) or row groups
    (Parquet)."""

    path: str
    kind: str  # "jsonl", "text", "parquet" or "tfds"
    start: int
    end: int
    size: int  # bytes, about: for progress
    split: str = ""


@dataclass(frozen=True)
class Source:
    """Files in a fixed order, and which fields of a record are wanted under which names."""

    chunks: tuple[Chunk, ...]
    fields: tuple[tuple[str, str], ...]  # (name, field of the record)
    name: str  # of the configuration's field, for messages
    path: str

    @property
    def files(self) -> list[str]:
        """The files that hold the records, for what depends on their content."""
        found: dict[str, None] = {}
        for chunk in self.chunks:
            if chunk.kind == "tfds":
                found |= dict.fromkeys(sorted(glob.glob(glob.escape(chunk.path) + "/*")))
            else:
                found[chunk.path] = None
        return [path for path in found if os.path.isfile(path)]


@dataclass
class Piece:
    """What a chunk holds."""

    examples: list[Example]
    bad: list[tuple[int, str]]  # (line within the chunk from 1, or record within it; reason)
    lines: int  # all lines, also blank ones
    total: int  # records, bad ones included


def open_source(
    path: str | Sequence[str], fields: dict[str, str], *, name: str = "path", split: str = "train"
) -> Source:
    """Finds the files of a source; reads none.

    Args:
      path: a file, a glob, a directory, a TFDS directory (it holds dataset_info.json), or several.
        `.txt` files are one document each, `.parquet` is Parquet; any other file is JSONL, one
        object a line.
      fields: {name: field of the record}; a text file has the one field "text".
      name: the configuration's field, for messages ("mixture.math.path").
      split: of a TFDS directory: "train", or "heldout", which takes the first of its splits
        "heldout", "validation" and "test", and else its only one.

    Raises:
      InputError: there is no such file, or a TFDS directory cannot be read.
    """
    paths = [path] if isinstance(path, str) else list(path)
    chunks: list[Chunk] = []
    for one in paths:
        chunks += _chunks(one, fields, name, split)
    return Source(tuple(chunks), tuple(fields.items()), name, ", ".join(paths))


def _chunks(path: str, fields: dict[str, str], name: str, split: str) -> list[Chunk]:
    if os.path.isfile(os.path.join(path, "dataset_info.json")):
        return _tfds_chunks(path, name, split)
    if os.path.isdir(path):
        versions = sorted(glob.glob(os.path.join(glob.escape(path), "*", "dataset_info.json")))
        if versions:  # NAME/1.0.0
            return _tfds_chunks(os.path.dirname(versions[-1]), name, split)
        found = sorted(
            p
            for ending in ("jsonl", "parquet", "txt")
            for p in glob.glob(f"{glob.escape(path)}/*.{ending}")
        )
        if not found:
            raise InputError(
                f"{path} holds no .jsonl, no .parquet, no .txt and no dataset_info.json: set "
                f"config.data.{name} to a directory that does"
            )
    else:
        found = [path] if os.path.isfile(path) else sorted(glob.glob(path))
        if not found:
            raise InputError(
                f"{path} does not exist: set config.data.{name} to a JSONL, Parquet or text file, "
                "or a glob or directory of them, or a TFDS directory"
            )
    chunks = []
    for file in found:
        size = os.path.getsize(file)
        if file.endswith(".txt"):
            if list(fields) != ["text"]:
                raise InputError(
                    f"config.data.{name}: {file} is plain text, for pretraining with "
                    "config.data.text_field=text"
                )
            chunks.append(Chunk(file, "text", 0, size, size))
            continue
        if file.endswith(".parquet"):
            chunks += _parquet_chunks(file, fields, name)
            continue
        for start in range(0, max(size, 1), CHUNK_BYTES):
            end = min(start + CHUNK_BYTES, size)
            chunks.append(Chunk(file, "jsonl", start, end, end - start))
    return chunks


def _parquet_chunks(file: str, fields: dict[str, str], name: str) -> Iterator[Chunk]:
    """Row groups, as many together as are a chunk's bytes."""
    sizes = row_groups(file, list(fields.values()), name)
    start = size = 0
    for end, more in enumerate(sizes, 1):
        size += more
        if size >= CHUNK_BYTES or end == len(sizes):
            yield Chunk(file, "parquet", start, end, size)
            start, size = end, 0


def _tfds_chunks(directory: str, name: str, split: str) -> list[Chunk]:
    split, count, size = choose_split(directory, split, name)
    each = max(1, count * CHUNK_BYTES // max(size, 1))
    return [
        Chunk(directory, "tfds", i, end, (end - i) * size // count, split)
        for i in range(0, count, each)
        for end in [min(i + each, count)]
    ]


def read_chunk(chunk: Chunk, fields: Sequence[tuple[str, str]]) -> Piece:
    """The examples of a chunk. A bad record is listed with its reason, in place of an example."""
    if chunk.kind in ("tfds", "parquet"):
        return _read_records(chunk, dict(fields))
    if chunk.kind == "text":
        text = pathlib.Path(chunk.path).read_text(encoding="utf-8", errors="replace")
        return Piece([{"text": text}] if text.strip() else [], [], 1, int(bool(text.strip())))
    piece = Piece([], [], 0, 0)
    with open(chunk.path, "rb") as file:
        if chunk.start:  # a line belongs to the chunk in which it begins
            file.seek(chunk.start - 1)
            file.readline()
        while file.tell() < chunk.end and (raw := file.readline()):
            piece.lines += 1
            line = raw.decode("utf-8", errors="replace")
            if not line.strip():
                continue
            piece.total += 1
            try:
                piece.examples.append(_pick(json.loads(line), dict(fields)))
            except (ValueError, KeyError, TypeError, RecursionError) as e:
                reason = e.msg if isinstance(e, json.JSONDecodeError) else str(e.args[0])
                piece.bad.append((piece.lines, reason))
    return piece


def _read_records(chunk: Chunk, fields: dict[str, str]) -> Piece:
    piece = Piece([], [], 0, 0)
    names = tuple(fields.values())
    if chunk.kind == "parquet":
        records = read_row_groups(chunk.path, names, chunk.start, chunk.end)
    else:
        records = read_records(chunk.path, chunk.split, names, chunk.start, chunk.end)
    for number, record in enumerate(records, 1):
        piece.lines = piece.total = number
        try:
            piece.examples.append(_pick(record, fields))
        except (ValueError, KeyError, TypeError) as e:
            piece.bad.append((number, str(e.args[0])))
    return piece


class Rejected:
    """Counts records and writes the bad ones, with file, line and reason, to a file as they come.

    Args:
      path: of the file; it appears with the first bad record.
    """

    def __init__(self, path: pathlib.Path | None):
        self.path = path
        self.total = self.bad = 0
        self.first = ""
        self._file: Any = None
        self._at: tuple[str, int] = ("", 0)  # file, lines of it before this piece

    def add(self, chunk: Chunk, piece: Piece) -> None:
        name, before = self._at
        before = before if name == chunk.path else 0
        self.total += piece.total
        self.bad += len(piece.bad)
        if piece.bad and not self.first:
            self.first = f"{chunk.path} line {before + piece.bad[0][0]}: {piece.bad[0][1]}"
        if piece.bad and self.path is not None:
            if self._file is None:
                self.path.parent.mkdir(parents=True, exist_ok=True)
                self._file = self.path.open("w", encoding="utf-8")
            for line, reason in piece.bad:
                row = {"file": chunk.path, "line": before + line, "reason": reason}
                self._file.write(json.dumps(row, ensure_ascii=False) + "\n")
        self._at = (chunk.path, before + piece.lines)

    def close(self) -> None:
        if self._file is not None:
            self._file.close()


def check_rejected(
    path: str, total: int, bad: int, first: str, allowed: float, rejected: pathlib.Path | None
) -> None:
    """Says how many records of a source are bad.

    Raises:
      InputError: there are none at all, or more than the share `allowed` are bad.
    """
    if bad:
        log.warning("%s: %d of %d lines are bad; see %s", path, bad, total, rejected or "them")
    if total == 0:
        raise InputError(f"{path} holds no examples")
    if bad > allowed * total:
        raise InputError(
            f"{first}; {bad} of {total} lines are bad, more than "
            f"config.data.max_rejected_share={allowed:g} allows"
        )


def read_examples(
    source: Source, max_rejected_share: float = 0.0, rejected: pathlib.Path | None = None
) -> Iterator[Example]:
    """Yields the examples of a source in order.

    A record that lacks a field, or is not text or JSON, is counted and written, with its reason, to
    `rejected`; past `max_rejected_share` of all the source is refused, at its end.
    """
    count = Rejected(rejected)
    try:
        for chunk in source.chunks:
            piece = read_chunk(chunk, source.fields)
            count.add(chunk, piece)
            yield from piece.examples
    finally:
        count.close()
    check_rejected(source.path, count.total, count.bad, count.first, max_rejected_share, rejected)


def _pick(record: Any, fields: dict[str, str]) -> Example:
    if not isinstance(record, dict):
        raise TypeError("the line is not a JSON object")
    picked = {}
    for name, field in fields.items():
        if field not in record:
            present = ", ".join(map(str, record)) or "none"
            raise KeyError(f"there is no field {field!r} (fields here: {present})")
        if not isinstance(record[field], str | int | float):
            raise TypeError(f"field {field!r} is not text")
        picked[name] = str(record[field])
        if any("\ud800" <= c <= "\udfff" for c in picked[name]):
            raise ValueError(f"field {field!r} holds half of a surrogate pair, which is no text")
    return picked
