"""Rows of numbers sorted out into parts on disk, each of which fits into memory."""

from __future__ import annotations

import pathlib
from collections.abc import Iterator

import numpy as np

BUFFER = 1 << 21  # rows in memory until they are written


class RowParts:
    """Files of rows, one for each part.

    Args:
      folder: is made.
      count: of parts.
      row: the type of the rows.
    """

    def __init__(self, folder: pathlib.Path, count: int, row: np.dtype):
        self.folder, self.count, self.row = folder, count, row
        self.waiting: list[tuple[np.ndarray, np.ndarray]] = []
        self.waiting_rows = 0
        folder.mkdir(parents=True)

    def add(self, rows: np.ndarray, parts: np.ndarray) -> None:
        """Adds rows, each to the part of its number; within a part they stay in order."""
        self.waiting.append((rows, parts.astype(np.int64)))
        self.waiting_rows += len(rows)
        if self.waiting_rows >= BUFFER:
            self._write()

    def __iter__(self) -> Iterator[np.ndarray]:
        """The parts by their numbers."""
        self._write()
        for number in range(self.count):
            path = self._path(number)
            yield np.fromfile(path, self.row) if path.exists() else np.zeros(0, self.row)

    def _write(self) -> None:
        if not self.waiting:
            return
        rows = np.concatenate([some for some, _ in self.waiting])
        parts = np.concatenate([some for _, some in self.waiting])
        self.waiting.clear()
        self.waiting_rows = 0
        order = np.argsort(parts, kind="stable")
        ends = np.cumsum(np.bincount(parts, minlength=self.count))
        for number, some in enumerate(np.split(rows[order], ends[:-1])):
            if len(some):
                with self._path(number).open("ab") as file:
                    file.write(some.tobytes())

    def _path(self, number: int) -> pathlib.Path:
        return self.folder / f"{number:06d}"
