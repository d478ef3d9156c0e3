"""Tensors in files, memory-mapped: what safetensors and torch shards have in common."""

from __future__ import annotations

import dataclasses
import mmap
import pathlib
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np

DTYPES = {name: jnp.dtype(name) for name in ("bfloat16", "float16", "float32")}

CHUNK_BYTES = 64 << 20
_BITS: dict[int, Any] = {2: np.uint16, 4: np.uint32}


class MappedFile:
    """A file mapped read-only. Pages are read when touched; `drop` takes them off this process."""

    def __init__(self, path: pathlib.Path):
        self.path = path
        with open(path, "rb") as f:
            self.size = path.stat().st_size
            self.map = mmap.mmap(f.fileno(), 0, access=mmap.ACCESS_READ) if self.size else b""

    def read(self, start: int, length: int) -> bytes:
        return bytes(self.map[start : start + length])

    def drop(self, start: int, end: int) -> None:
        """Touched pages would count as this process's memory, and a checkpoint is all of it."""
        if isinstance(self.map, mmap.mmap) and hasattr(mmap, "MADV_DONTNEED"):
            start -= start % mmap.PAGESIZE
            self.map.madvise(mmap.MADV_DONTNEED, start, end - start)


@dataclasses.dataclass(frozen=True)
class StoredTensor:
    """A tensor in a mapped file. `dtype` is a key of DTYPES, or what the file calls another type;
    offset and strides are in bytes."""

    name: str
    file: MappedFile
    dtype: str
    shape: tuple[int, ...]
    offset: int
    strides: tuple[int, ...]

    @property
    def numpy_dtype(self) -> np.dtype:
        """
        Raises:
          ValueError: not a floating-point type that models are made of.
        """
        if self.dtype not in DTYPES:
            raise ValueError(
                f"tensor {self.name} in {self.file.path} has dtype {self.dtype}; "
                f"save it as one of {', '.join(DTYPES)}"
            )
        return DTYPES[self.dtype]

    def array(self) -> np.ndarray:
        """A view of the file, read when touched."""
        return np.ndarray(self.shape, self.numpy_dtype, self.file.map, self.offset, self.strides)

    def read(
        self,
        out: np.ndarray,
        index: tuple[slice, ...],
        progress: Callable[[int], None] | None = None,
    ) -> None:
        """Copies the sub-block at `index` into `out` (any strides), casting to its dtype.

        `progress` is called with the number of bytes read.
        """
        block = self.array()[index]
        starts = [s.indices(n)[0] for s, n in zip(index, self.shape, strict=True)]
        first = self.offset + sum(a * b for a, b in zip(starts, self.strides, strict=True))
        rows = max(1, CHUNK_BYTES // max(1, self.strides[0]))
        for row in range(0, block.shape[0], rows):
            chunk = block[row : row + rows]
            copy_block(out[row : row + rows], chunk)
            start = first + row * self.strides[0]
            span = sum((n - 1) * s for n, s in zip(chunk.shape, self.strides, strict=True))
            self.file.drop(start, start + span + chunk.itemsize)
            if progress is not None:
                progress(chunk.nbytes)


def empty(shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    """np.empty at a 64-byte boundary: JAX on CPU then takes the memory over without a copy."""
    size = int(np.prod(shape)) * dtype.itemsize
    memory = np.empty(size + 64, np.uint8)
    start = -memory.ctypes.data % 64
    return np.ndarray(shape, dtype, memory, start)


def copy_block(out: np.ndarray, source: np.ndarray) -> None:
    """out[...] = source, of any strides, casting to out's dtype."""
    if source.dtype == out.dtype:  # NumPy copies integers faster than it does bfloat16
        bits = _BITS[out.itemsize]
        out, source = out.view(bits), source.view(bits)
    if source.ndim < 2 or out.strides[-1] == out.itemsize:
        out[...] = source
        return
    # A transpose in tiles that fit the cache: three times the speed of one assignment.
    for i in range(0, source.shape[0], 32):
        for j in range(0, source.shape[1], 256):
            out[i : i + 32, j : j + 256] = source[i : i + 32, j : j + 256]
