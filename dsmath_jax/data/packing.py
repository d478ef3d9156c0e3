"""Rows of `length` tokens from documents, each row by its number alone.

Row r of a source is a function of (seed, source name, r): nothing that came before it is needed, so
a run goes on at any step and any process reads just the rows it trains on.
"""

from __future__ import annotations

import collections
import hashlib
import pathlib
import threading
from collections.abc import Callable
from typing import Any, Protocol, TypeVar

import numpy as np

from dsmath_jax.data.documents import Documents
from dsmath_jax.data.errors import InputError
from dsmath_jax.data.tokenizers import Tokenizer
from dsmath_jax.data.too_long import indices_that_fit

T = TypeVar("T")
Batch = dict[str, np.ndarray]
WINDOW = 1024  # examples sorted by length before they are packed


class Rows(Protocol):
    """Rows without end (or `per_epoch` of them where the source does not repeat)."""

    name: str
    length: int
    per_epoch: int
    documents: Documents
    total: int  # tokens of an epoch

    def fill(self, row: int, batch: Batch, at: int) -> None:
        """Writes row `row` into `batch[...][at]`, which holds zeros."""

    def tokens_before(self, row: int) -> int:
        """Tokens in the rows before `row`."""
        ...

    def identity(self) -> dict[str, Any]:
        """What the rows are made of: it must be the same when a run goes on."""
        ...


def empty_batch(rows: int, length: int) -> Batch:
    """The arrays of a batch, [rows, length], all padding."""
    ints = {k: np.zeros((rows, length), np.int32) for k in ("tokens", "positions", "segment_ids")}
    return ints | {"loss_mask": np.zeros((rows, length), np.float32)}


class DocumentRows:
    """Pretraining: documents in a new order each epoch, one after another, cut every `length`.

    Row r holds tokens r * length to (r + 1) * length of the stream, which goes from epoch to epoch
    without a gap, so every position of every row is used. A document that goes on in the next row
    is a segment of its own there, its positions from 0. Keeping an epoch's order takes 12 bytes a
    document, making it 28.

    Args:
      repeat: False for held-out data: one epoch in the order of the source, the last row padded.
    """

    def __init__(
        self, name: str, documents: Documents, *, length: int, seed: int, repeat: bool = True
    ):
        _refuse_empty(name, documents)
        self.name, self.documents, self.length = name, documents, length
        self.seed, self.repeat = seed, repeat
        self.total = int(documents.offsets[-1])
        self.per_epoch = -(-self.total // length)
        self._epochs = _Recent(self._epoch)

    def _epoch(self, epoch: int) -> tuple[np.ndarray | None, np.ndarray]:
        """The order of the documents (None: as they are), and where each begins in the stream."""
        if not self.repeat:
            return None, self.documents.offsets
        order = permutation(len(self.documents), self.seed, self.name, epoch)
        begins = np.zeros(len(order) + 1, np.int64)
        np.cumsum(self.documents.lengths[order], out=begins[1:])
        return order, begins

    def fill(self, row: int, batch: Batch, at: int) -> None:
        tokens, positions = batch["tokens"][at], batch["positions"][at]
        segments, mask = batch["segment_ids"][at], batch["loss_mask"][at]
        filled, segment = 0, 0
        position = row * self.length
        while filled < self.length:
            epoch, inside = divmod(position + filled, self.total)
            if epoch and not self.repeat:
                break
            order, begins = self._epochs(epoch)
            i = int(np.searchsorted(begins, inside, side="right")) - 1
            while filled < self.length and i < len(begins) - 1:
                document = i if order is None else int(order[i])
                skip = inside - int(begins[i])
                first = int(self.documents.offsets[document]) + skip
                count = min(int(begins[i + 1]) - inside, self.length - filled)
                end, segment = filled + count, segment + 1
                tokens[filled:end] = self.documents.tokens[first : first + count]
                positions[filled:end] = _arange(count)
                segments[filled:end] = segment
                filled, inside, i = end, inside + count, i + 1
        mask[:filled] = 1.0

    def tokens_before(self, row: int) -> int:
        return row * self.length if self.repeat else min(row * self.length, self.total)

    def identity(self) -> dict[str, Any]:
        content = self.documents.digest()
        return {"documents": len(self.documents), "tokens": self.total, "content": content}


class ExampleRows:
    """Fine-tuning: whole examples packed into rows; the mask is on each one's trained part.

    Which lengths share a row is planned once: examples in a random order, each window of 1024 from
    long to short, each into the fullest row that it fits in. That uses over 97% of positions unless
    most examples exceed half a row. Each epoch puts other examples of those lengths there and takes
    the rows in another order.

    Args:
      repeat: False for held-out data: one epoch.
      max_rejected_share, rejected: of examples that do not fit in `length`, how many are left out,
        and where they are listed.

    Raises:
      InputError: more do not fit.
    """

    def __init__(
        self,
        name: str,
        documents: Documents,
        tokenizer: Tokenizer,
        *,
        length: int,
        seed: int,
        repeat: bool = True,
        max_rejected_share: float = 0.0,
        rejected: pathlib.Path | None = None,
    ):
        _refuse_empty(name, documents)
        self.name, self.documents, self.length = name, documents, length
        self.seed, self.repeat = seed, repeat
        self._kept = indices_that_fit(
            documents.lengths,
            length,
            lambda i: tokenizer.decode(documents.ids(i)[:200]),
            what="example",
            why=f", more than config.length={length}: raise it, or shorten the example",
            allowed=max_rejected_share,
            rejected=rejected,
        )
        self._lengths = lengths = documents.lengths[self._kept]
        self.total = int(lengths.sum())
        planned = permutation(len(lengths), seed, name, "plan")
        rows = best_fit(lengths[planned], length)
        self.per_epoch = int(rows.max()) + 1
        slots = np.argsort(rows, kind="stable")
        # Slots row by row; the same examples sorted by length find the slots of their length.
        self._row_begins = np.searchsorted(rows[slots], np.arange(self.per_epoch + 1))
        self._slots_by_length = np.argsort(lengths[planned][slots], kind="stable")
        self._epochs = _Recent(self._epoch)

    def _epoch(self, epoch: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The example of each slot, the order of the rows, and tokens before each row."""
        shuffled = permutation(len(self._kept), self.seed, self.name, epoch)
        by_length = shuffled[np.argsort(self._lengths[shuffled], kind="stable")]
        examples = np.empty_like(by_length)
        examples[self._slots_by_length] = by_length
        order = permutation(self.per_epoch, self.seed, self.name, f"rows {epoch}")
        used = np.add.reduceat(self._lengths[examples], self._row_begins[:-1])
        return examples, order, np.concatenate([[0], np.cumsum(used[order])])

    def fill(self, row: int, batch: Batch, at: int) -> None:
        epoch, inside = divmod(row, self.per_epoch)
        if epoch and not self.repeat:
            return
        examples, order, _ = self._epochs(epoch)
        first, last = self._row_begins[order[inside] : order[inside] + 2]
        starts = self.documents.starts
        begin = 0
        for segment, example in enumerate(self._kept[examples[first:last]], 1):
            ids = self.documents.ids(example)
            end = begin + len(ids)
            batch["tokens"][at, begin:end] = ids
            batch["positions"][at, begin:end] = _arange(len(ids))
            batch["segment_ids"][at, begin:end] = segment
            start = 0 if starts is None else int(starts[example])
            batch["loss_mask"][at, begin + start : end] = 1.0
            begin = end

    def tokens_before(self, row: int) -> int:
        epoch, inside = divmod(row, self.per_epoch)
        if epoch and not self.repeat:
            return self.total
        return epoch * self.total + int(self._epochs(epoch)[2][inside])

    def identity(self) -> dict[str, Any]:
        content = self.documents.digest()
        return {"examples": len(self._kept), "tokens": self.total, "content": content}


def best_fit(lengths: np.ndarray, capacity: int) -> np.ndarray:
    """[examples] int64: the row of each, rows numbered as they are opened.

    Args:
      lengths: [examples], in a random order; each at most `capacity`.
    """
    rows = np.empty(len(lengths), np.int64)
    by_room: list[list[int]] = [[] for _ in range(capacity + 1)]
    rooms = 0  # bit n: some row has room for n more
    opened = 0
    for first in range(0, len(lengths), WINDOW):
        window = lengths[first : first + WINDOW]
        for i in np.argsort(-window, kind="stable").tolist():
            size = int(window[i])
            enough = rooms >> size
            if enough:
                room = size + (enough & -enough).bit_length() - 1
                row = by_room[room].pop()
                if not by_room[room]:
                    rooms &= ~(1 << room)
            else:
                room, row, opened = capacity, opened, opened + 1
            rows[first + i] = row
            by_room[room - size].append(row)
            rooms |= 1 << (room - size)
    return rows


def permutation(count: int, *of: Any) -> np.ndarray:
    """A permutation of range(count) that is a function of `of` alone.

    Made from Philox's raw stream, which NumPy keeps as it is (its own shuffles may change between
    versions). A hundred million take 20 s and 2.4 GB; the result has 4 bytes each.
    """
    key = hashlib.sha256(repr(of).encode()).digest()
    bits = np.random.Philox(key=np.frombuffer(key[:16], np.uint64))
    order = np.argsort(bits.random_raw(count), kind="stable")
    return order.astype(np.uint32 if count <= 1 << 32 else np.int64)


class _Recent:
    """A function's last two results: rows around the end of an epoch need both of its sides.

    Threads that ask for one result wait for the first of them to make it.
    """

    def __init__(self, function: Callable[[int], Any]):
        self.function = function
        self.kept: collections.OrderedDict[int, Any] = collections.OrderedDict()
        self.lock = threading.Lock()

    def __call__(self, argument: int) -> Any:
        with self.lock:
            if argument not in self.kept:
                while len(self.kept) > 1:
                    self.kept.popitem(last=False)
                self.kept[argument] = self.function(argument)
            self.kept.move_to_end(argument)
            return self.kept[argument]

    def __reduce__(self) -> Any:
        return _Recent, (self.function,)


_counting = np.arange(1 << 12, dtype=np.int32)


def _arange(count: int) -> np.ndarray:
    return _counting[:count] if count <= len(_counting) else np.arange(count, dtype=np.int32)


def _refuse_empty(name: str, documents: Documents) -> None:
    if not len(documents):
        raise InputError(f"the data set is empty: config.data gives no examples ({name})")
