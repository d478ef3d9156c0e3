"""safetensors files: read memory-mapped, written as a stream (the library wants all in memory).

A file is the header's length (8 bytes, little-endian), the header (JSON), the tensors' bytes.
"""

from __future__ import annotations

import json
import math
import os
import pathlib
from collections.abc import Iterable
from typing import Any

from dsmath_jax.models.tensor_file import DTYPES, MappedFile, StoredTensor

NAMES = {"bfloat16": "BF16", "float16": "F16", "float32": "F32"}
_DTYPES = {stored: dtype for dtype, stored in NAMES.items()}
_MAX_HEADER = 100_000_000  # the library's own limit


def read_safetensors(path: pathlib.Path) -> dict[str, StoredTensor]:
    """The tensors of a file, by name; none is read yet.

    Raises:
      ValueError: the file is truncated or not safetensors.
    """
    file = MappedFile(path)
    length = int.from_bytes(file.read(0, 8), "little")
    if file.size < 8 or (length <= _MAX_HEADER and file.size < 8 + length):
        expected = 8 + length if file.size >= 8 else 8
        raise ValueError(
            f"{path} is truncated: {file.size} bytes, expected at least {expected}; get it again"
        )
    try:
        if length > _MAX_HEADER:
            raise ValueError("header too long")
        header = json.loads(file.read(8, length))
        header.pop("__metadata__", None)
        tensors = {name: _tensor(name, entry, file, 8 + length) for name, entry in header.items()}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise ValueError(f"{path} is not a safetensors file: its header is damaged") from None
    end = max((t[1] for t in tensors.values()), default=8 + length)
    if file.size != end:
        problem = "truncated" if file.size < end else "longer than its header says"
        raise ValueError(f"{path} is {problem}: {file.size} bytes, expected {end}; get it again")
    return {name: tensor for name, (tensor, _) in tensors.items()}


def _tensor(name: str, entry: dict, file: MappedFile, data: int) -> tuple[StoredTensor, int]:
    """The tensor and where it ends in the file."""
    shape, (begin, end) = tuple(entry["shape"]), entry["data_offsets"]
    if not all(type(n) is int and n >= 0 for n in (*shape, begin, end)):
        raise ValueError("negative or fractional size")
    dtype = _DTYPES.get(entry["dtype"], str(entry["dtype"]))
    strides: tuple[int, ...] = ()
    if dtype in DTYPES:
        itemsize = DTYPES[dtype].itemsize
        strides = tuple(itemsize * math.prod(shape[i + 1 :]) for i in range(len(shape)))
        if end - begin != itemsize * math.prod(shape):
            raise ValueError("shape and size disagree")
    return StoredTensor(name, file, dtype, shape, data + begin, strides), data + end


class SafetensorsWriter:
    """Writes a file of tensors known beforehand, their bytes one after the other, in a `with`.

    Args:
      path: of a new file.
      entries: (name, dtype, shape) of each tensor, in the order in which they will be written.
    """

    def __init__(
        self, path: pathlib.Path, entries: Iterable[tuple[str, str, tuple[int, ...]]]
    ) -> None:
        header: dict[str, dict] = {"__metadata__": {"format": "pt"}}
        end = 0
        for name, dtype, shape in entries:
            begin, end = end, end + math.prod(shape) * DTYPES[dtype].itemsize
            header[name] = {
                "dtype": NAMES[dtype],
                "shape": list(shape),
                "data_offsets": [begin, end],
            }
        text = json.dumps(header, separators=(",", ":")).encode()
        text += b" " * (-len(text) % 8)
        self._end = 8 + len(text) + end
        self._file = open(path, "wb")  # noqa: SIM115
        self._file.write(len(text).to_bytes(8, "little") + text)

    def write(self, data: memoryview) -> None:
        self._file.write(data)

    def __enter__(self) -> SafetensorsWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: Any) -> None:
        """
        Raises:
          ValueError: not as many bytes were written as the entries have.
        """
        with self._file as f:
            if kind is not None:
                return
            if f.tell() != self._end:
                raise ValueError(f"{f.name}: wrote {f.tell()} bytes of {self._end}")
            f.flush()
            os.fsync(f.fileno())
