"""Whether a cache of tokens on disk is what was written: sizes, and CRC-32 checksums."""

from __future__ import annotations

import json
import pathlib
import zlib
from collections.abc import Iterable

BLOCK = 4 << 20  # bytes of tokens.bin under one checksum
CHECKED_BLOCKS = 256  # of a large cache, when it is opened


def checksum(path: pathlib.Path) -> int:
    return zlib.crc32(path.read_bytes())


class Checksums:
    """CRC-32 of each block of a stream."""

    def __init__(self) -> None:
        self.done: list[int] = []
        self.value = self.filled = 0

    def add(self, data: bytes) -> None:
        view = memoryview(data)
        while view:
            part = view[: BLOCK - self.filled]
            self.value = zlib.crc32(part, self.value)
            self.filled += len(part)
            view = view[len(part) :]
            if self.filled == BLOCK:
                self.done.append(self.value)
                self.value = self.filled = 0

    def finish(self) -> list[int]:
        return [*self.done, self.value] if self.filled else self.done


def find_damage(directory: pathlib.Path) -> str:
    """What is wrong with a cache, or nothing. Of a large one, 256 blocks (1 GiB) are read."""
    try:
        meta = json.loads((directory / "meta.json").read_text())
        for name, size in meta["sizes"].items():
            found = (directory / name).stat().st_size
            if found != size:
                return f"{name} has {found} bytes in place of {size}"
        for name, wanted in meta["checksums"].items():
            if checksum(directory / name) != wanted:
                return f"{name} has another checksum"
        return _wrong_block(directory / "tokens.bin", meta["blocks"])
    except FileNotFoundError as e:
        return f"{e.filename} is missing"
    except (ValueError, KeyError, TypeError, AttributeError) as e:
        return f"meta.json cannot be read: {e!r}"


def _wrong_block(path: pathlib.Path, checksums: list[int]) -> str:
    with path.open("rb") as file:
        for i in _spread(len(checksums), CHECKED_BLOCKS):
            file.seek(i * BLOCK)
            if zlib.crc32(file.read(BLOCK)) != checksums[i]:
                return f"{path.name} has another checksum at byte {i * BLOCK}"
    return ""


def _spread(count: int, most: int) -> Iterable[int]:
    return range(count) if count <= most else (i * (count - 1) // (most - 1) for i in range(most))
