"""Which pages an iteration takes: each address and each text once, the best by score up to a budget
of tokens for each language (DeepSeekMath 2.1).

Rows are sorted out on disk, first by address and then by text, so that what must be compared is in
one part: memory is that of a part however many pages there are, and time grows as their number.
"""

from __future__ import annotations

import dataclasses
import pathlib
import shutil
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from dsmath_jax.mining.language import LANGUAGES
from dsmath_jax.mining.row_parts import RowParts
from dsmath_jax.mining.select import BINS, boundary_bin, cut, histogram, score_bins, taken

PART = 1 << 22  # rows of a part, about
COLUMNS = ("url_hash", "text_hash", "date", "score", "tokens", "language")
ROW = np.dtype(
    [
        ("url_hash", np.uint64),
        ("text_hash", np.uint64),
        ("date", np.int64),  # seconds since 1970; 0 if unknown
        ("score", np.float32),
        ("tokens", np.int32),
        ("file", np.int32),
        ("row", np.int32),  # its number in the file
        ("language", np.int8),  # its number in LANGUAGES
    ]
)


@dataclasses.dataclass(frozen=True)
class Collection:
    """chosen: of each file of rows, which are taken, [rows] bool; it comes from disk, and once.
    cuts: language -> the least (score, -url_hash) that is taken. histograms: language -> [2, BINS]
    of all pages that are unique."""

    chosen: Iterator[np.ndarray]
    cuts: dict[str, tuple[float, int]]
    histograms: dict[str, np.ndarray]
    counts: dict[str, int]


def collect(
    files: Sequence[pathlib.Path],
    budgets: Mapping[str, int],
    scratch: pathlib.Path,
    min_score: float = 0.0,
) -> Collection:
    """Ranks the pages of these rows.

    Of several rows with one address the newest is kept (then the first in the inputs); of several
    pages with one text the one with the lowest url_hash, as an order that says nothing.

    Args:
      budgets: language -> tokens; a language without one takes nothing.
      scratch: a folder for up to 90 bytes a row, which is gone when `chosen` has been read.
      min_score: pages below it are never taken.
    """
    shutil.rmtree(scratch, ignore_errors=True)
    lengths = [pq.read_metadata(file).num_rows for file in files]
    counts = Counter({"pages": sum(lengths)})
    parts = max(1, -(-counts["pages"] // PART))

    # ---- Each address and each text once --------------------------------------------------------
    urls = RowParts(scratch / "urls", parts, ROW)
    for number, file in enumerate(files):
        rows = _read(file, number)
        urls.add(rows, rows["url_hash"] % np.uint64(parts))
    texts = RowParts(scratch / "texts", parts, ROW)
    for rows in urls:
        rows = _newest(rows)
        counts["same address"] -= len(rows)
        texts.add(rows, rows["text_hash"] % np.uint64(parts))
    shutil.rmtree(scratch / "urls")

    # ---- The cuts: by histograms, and exactly within the bin where the budget ends --------------
    histograms = {name: np.zeros((2, BINS), np.int64) for name in LANGUAGES}
    totals = {name: np.zeros((2, BINS), np.int64) for name in LANGUAGES if budgets.get(name)}
    ranked = RowParts(scratch / "ranked", parts, ROW)
    for rows in texts:
        rows = rows[np.lexsort((rows["url_hash"], rows["text_hash"]))]
        rows = rows[_first(rows["text_hash"])]
        counts["unique"] += len(rows)
        for name in LANGUAGES:
            here = rows[rows["language"] == LANGUAGES.index(name)]
            histograms[name] += histogram(here["score"], here["tokens"])
            if name in totals:
                here = here[here["score"] >= np.float32(min_score)]
                totals[name] += histogram(here["score"], here["tokens"])
                ranked.add(here, here["url_hash"] % np.uint64(parts))
    shutil.rmtree(scratch / "texts")
    cuts = {}
    for name, total in totals.items():
        edge = boundary_bin(total, budgets[name])
        rows = np.concatenate([_in_bin(rows, name, edge) for rows in ranked])
        cuts[name] = cut(total, budgets[name], rows["score"], rows["url_hash"], rows["tokens"])
        if cuts[name][0] < min_score:
            cuts[name] = min_score, 2**64 - 1

    # ---- What is taken, by files ----------------------------------------------------------------
    chosen = RowParts(scratch / "chosen", parts, ROW)
    for rows in ranked:
        for name, last in cuts.items():
            here = rows[rows["language"] == LANGUAGES.index(name)]
            here = here[taken(here["score"], here["url_hash"], last)]
            counts["taken"] += len(here)
            counts["tokens"] += int(here["tokens"].sum())
            chosen.add(here, _part_of_file(here["file"], parts, len(files)))
    shutil.rmtree(scratch / "ranked")
    counts["same address"] += counts["pages"]
    counts["same text"] = counts["pages"] - counts["same address"] - counts["unique"]
    names = ("pages", "same address", "same text", "unique", "taken", "tokens")
    return Collection(
        _by_file(chosen, lengths, scratch), cuts, histograms, {name: counts[name] for name in names}
    )


def _read(file: pathlib.Path, number: int) -> np.ndarray:
    table = pq.read_table(file, columns=list(COLUMNS), use_threads=False)
    rows = np.empty(table.num_rows, ROW)
    for name in ("url_hash", "text_hash", "score", "tokens"):
        rows[name] = table[name].to_numpy()
    days = pc.strptime(pc.utf8_slice_codeunits(table["date"], 0, 10), "%Y-%m-%d", "s", True)
    seconds = pc.strptime(
        pc.utf8_slice_codeunits(table["date"], 0, 19), "%Y-%m-%dT%H:%M:%S", "s", True
    )
    dates = pc.coalesce(seconds, days).cast(pa.int64())
    rows["date"] = pc.fill_null(dates, 0).to_numpy()
    codes = pc.index_in(table["language"].cast(pa.string()), pa.array(LANGUAGES))
    rows["language"] = codes.to_numpy()
    rows["file"], rows["row"] = number, np.arange(len(rows))
    return rows


def _newest(rows: np.ndarray) -> np.ndarray:
    """Of rows with one url_hash, in the order of the inputs, the first of the newest."""
    rows = rows[np.argsort(rows["url_hash"], kind="stable")]
    is_first = _first(rows["url_hash"])
    run = np.cumsum(is_first) - 1
    newest = np.maximum.reduceat(rows["date"], np.flatnonzero(is_first)) if len(rows) else run
    rows = rows[rows["date"] == newest[run]]
    return rows[_first(rows["url_hash"])]


def _first(ordered: np.ndarray) -> np.ndarray:
    """[n] bool: the first of each run of equal values."""
    first = np.ones(len(ordered), bool)
    first[1:] = ordered[1:] != ordered[:-1]
    return first


def _in_bin(rows: np.ndarray, language: str, number: int) -> np.ndarray:
    here = rows[rows["language"] == LANGUAGES.index(language)]
    return here[score_bins(here["score"]) == number]


def _part_of_file(numbers: np.ndarray, parts: int, files: int) -> np.ndarray:
    return numbers.astype(np.int64) * parts // max(1, files)


def _by_file(chosen: RowParts, lengths: list[int], scratch: pathlib.Path) -> Iterator[np.ndarray]:
    parts = _part_of_file(np.arange(len(lengths)), chosen.count, len(lengths))
    for number, rows in enumerate(chosen):
        rows = rows[np.argsort(rows["file"], kind="stable")]
        for file in np.flatnonzero(parts == number).tolist():
            start, end = np.searchsorted(rows["file"], [file, file + 1])
            which = np.zeros(lengths[file], bool)
            which[rows["row"][start:end]] = True
            yield which
    shutil.rmtree(scratch)
