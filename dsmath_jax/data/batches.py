"""Batches by their number: the batch of a step is a function of (seed, step) alone.

Grain reads ahead, in threads or worker processes; however many there are, and whatever part of a
batch a process wants, the batches are the same.
"""

from __future__ import annotations

import hashlib
import json
import pathlib
from collections.abc import Iterator, Sequence
from typing import Any, Protocol, SupportsIndex

import grain
import numpy as np
from absl import flags

from dsmath_jax.data.documents import Encoding
from dsmath_jax.data.errors import InputError
from dsmath_jax.data.mixture import Mixture
from dsmath_jax.data.packing import Batch, Rows
from dsmath_jax.data.prompts import encode_prompt
from dsmath_jax.data.sources import Example
from dsmath_jax.data.tokenizers import Tokenizer
from dsmath_jax.data.too_long import indices_that_fit

READ_AHEAD = 2  # batches, in each thread or worker process


class RowSource(Protocol):
    """Rows without end, by number: a `mixture.Mixture`, or `Questions`."""

    def batch(self, rows: Sequence[int] | np.ndarray) -> Any: ...

    def identity(self) -> dict[str, Any]: ...


class Batches:
    """Iterator of batches: batch k is rows k * batch_size to (k + 1) * batch_size of a source.

    Its state is the number of rows given so far, so one that starts there goes on exactly, with any
    number of workers and hosts.

    Args:
      local: the rows of each batch that this process wants, as numbers below `batch_size`; None:
        all. The others are never read.
      workers: processes that make batches; 0: threads of this one, which is enough for most.
    """

    def __init__(
        self,
        source: RowSource,
        batch_size: int,
        *,
        seed: int = 0,
        local: np.ndarray | None = None,
        workers: int = 0,
    ):
        self.source, self.batch_size, self.workers = source, batch_size, workers
        self.local = np.arange(batch_size) if local is None else local
        self.identity = {"seed": seed, **source.identity()}
        self.rows = 0
        self._ahead: grain.DatasetIterator | None = None

    def __iter__(self) -> Batches:
        return self

    def __next__(self) -> Any:
        if self._ahead is None:
            self._ahead = self._read_ahead()
        batch = next(self._ahead)
        self.rows += self.batch_size
        return batch

    def _read_ahead(self) -> grain.DatasetIterator:
        numbered = _Numbered(self.source, self.rows, self.batch_size, self.local)
        dataset = grain.MapDataset.source(numbered)
        if not self.workers:
            options = grain.ReadOptions(num_threads=2, prefetch_buffer_size=READ_AHEAD)
            return iter(dataset.to_iter_dataset(options))
        if not flags.FLAGS.is_parsed():  # Grain's workers read its flags: outside of launch/, too
            flags.FLAGS.mark_as_parsed()
        options = grain.ReadOptions(num_threads=1, prefetch_buffer_size=READ_AHEAD)
        processes = grain.MultiprocessingOptions(self.workers, per_worker_buffer_size=READ_AHEAD)
        return iter(dataset.to_iter_dataset(options).mp_prefetch(processes))

    def get_state(self) -> dict[str, Any]:
        return {"rows": self.rows, **self.identity}

    def set_state(self, state: dict[str, Any]) -> None:
        """Goes on where the iterator was that gave `state`.

        Raises:
          ValueError: that one had other data: says what differs.
        """
        here = {k: v for k, v in state.items() if k != "rows"}
        if difference := _difference(here, self.identity):
            raise ValueError(difference)
        self.rows = int(state["rows"])
        self.close()

    def close(self) -> None:
        """Ends the threads or processes that read ahead; the next batch starts them again."""
        close = getattr(self._ahead, "close", None)  # older Grain's threads end by themselves
        if close is not None:
            close()
        self._ahead = None


class _Numbered:
    """Grain's view: element i is batch i after the first `first` rows."""

    def __init__(self, source: RowSource, first: int, batch_size: int, local: np.ndarray):
        self.source, self.first, self.batch_size, self.local = source, first, batch_size, local

    def __len__(self) -> int:
        return 1 << 60

    def __getitem__(self, index: SupportsIndex) -> Any:
        return self.source.batch(self.first + int(index) * self.batch_size + self.local)


def _difference(old: Any, new: Any, name: str = "") -> str:
    if isinstance(old, dict) and isinstance(new, dict):
        found = (_difference(old.get(k), new.get(k), f"{name} {k}") for k in [*old, *new])
        return next(filter(None, found), "")
    return "" if old == new else f"{name.strip()} was {old} there and is {new} here"


def heldout_batches(
    rows: Rows, batch_size: int, local: np.ndarray | None = None
) -> Iterator[Batch]:
    """The rows of one epoch once, the last batch filled up with empty rows."""
    one = Mixture([rows], {rows.name: 1})
    local = np.arange(batch_size) if local is None else local
    for first in range(0, rows.per_epoch, batch_size):
        yield one.batch(first + local)


def encode_questions(
    examples: Sequence[Example],
    tokenizer: Tokenizer,
    *,
    prompt: str,
    max_tokens: int,
    max_rejected_share: float = 0.0,
    rejected: pathlib.Path | None = None,
) -> list[dict[str, Any]]:
    """{"index", "ids" of the prompt, and the example's fields} each, for RL.

    Args:
      max_rejected_share, rejected: of questions with more than `max_tokens`, how many are left out,
        and where they are listed.

    Raises:
      InputError: more have, or there is no such prompt.
    """
    Encoding(prompt)
    ids = [encode_prompt(tokenizer, example["question"], prompt) for example in examples]
    kept = indices_that_fit(
        np.array([len(i) for i in ids], np.int64),
        max_tokens,
        lambda i: examples[i]["question"],
        what="question",
        why=f" with its prompt; config.length less config.rl.max_new_tokens leaves {max_tokens}",
        allowed=max_rejected_share,
        rejected=rejected,
    )
    return [{"index": i, "ids": ids[i], **examples[i]} for i in kept.tolist()]


class Questions:
    """Encoded questions, shuffled anew each epoch, as a source of `Batches` (lists of them)."""

    def __init__(self, rows: list[dict[str, Any]], seed: int):
        if not rows:
            raise InputError("the data set is empty: config.data gives no examples")
        content = hashlib.sha256(json.dumps(rows).encode()).hexdigest()[:16]
        self._identity = {"questions": len(rows), "content": content}
        self.shuffled = grain.MapDataset.source(rows).seed(seed).shuffle().repeat()

    def batch(self, rows: Sequence[int] | np.ndarray) -> list[dict[str, Any]]:
        return [self.shuffled[int(row)] for row in rows]

    def identity(self) -> dict[str, Any]:
        return self._identity


def question_batches(rows: list[dict[str, Any]], *, batch_size: int, seed: int) -> Batches:
    """Lists of `batch_size` encoded questions, shuffled anew each epoch."""
    return Batches(Questions(rows, seed), batch_size, seed=seed)
