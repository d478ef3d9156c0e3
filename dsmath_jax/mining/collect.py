"""Which pages an iteration takes: each address and each text once, the best by score up to a budget
of tokens for each language (DeepSeekMath 2.1)."""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from dsmath_jax.mining import page_rows
from dsmath_jax.mining.language import LANGUAGES
from dsmath_jax.mining.select import boundary_bin, cut, histogram, score_bins, taken

COLUMNS = ("url_hash", "text_hash", "score", "tokens", "language", "date", "source", "offset")


@dataclasses.dataclass(frozen=True)
class Collection:
    """chosen: of each file of rows, which of them are taken. cuts: language -> the least (score,
    -url_hash) that is taken. histograms: language -> [2, BINS] of all pages that are unique."""

    chosen: list[np.ndarray]
    cuts: dict[str, tuple[float, int]]
    histograms: dict[str, np.ndarray]
    counts: dict[str, int]


def collect(
    files: Sequence[pathlib.Path], budgets: Mapping[str, int], min_score: float = 0.0
) -> Collection:
    """Ranks the pages of these rows.

    Of several rows with one address the newest is kept (then the first in the inputs); of several
    pages with one text the one with the lowest url_hash, as an order that says nothing.

    Args:
      budgets: language -> tokens; a language without one takes nothing.
      min_score: pages below it are never taken.
    """
    parts = [page_rows.read(file, COLUMNS) for file in files]
    lengths = [len(part["url_hash"]) for part in parts]

    def column(name: str, dtype: Any) -> np.ndarray:
        empty = np.zeros(0, dtype)
        return np.concatenate([empty, *(np.asarray(part[name], dtype) for part in parts)])

    url_hash, text_hash = column("url_hash", np.uint64), column("text_hash", np.uint64)
    score, tokens = column("score", np.float32), column("tokens", np.int64)
    dates = column("date", np.str_) if parts else np.zeros(0, "U1")
    newest = np.unique(dates, return_inverse=True)[1].reshape(-1)
    language = np.array([LANGUAGES.index(x) for part in parts for x in part["language"]], np.int8)
    place = (column("source", np.int64), column("offset", np.int64))

    order = np.lexsort((place[1], place[0], -newest, url_hash))
    unique = np.zeros(len(order), bool)
    unique[order[_first(url_hash[order])]] = True
    by_url = int(unique.sum())
    left = np.flatnonzero(unique)
    order = left[np.lexsort((url_hash[left], text_hash[left]))]
    unique[:] = False
    unique[order[_first(text_hash[order])]] = True

    chosen = np.zeros(len(unique), bool)
    cuts, histograms = {}, {}
    for number, name in enumerate(LANGUAGES):
        here = np.flatnonzero(unique & (language == number))
        histograms[name] = histogram(score[here], tokens[here])
        if not budgets.get(name):
            continue
        able = here[score[here] >= np.float32(min_score)]
        total = histogram(score[able], tokens[able])
        edge = able[score_bins(score[able]) == boundary_bin(total, budgets[name])]
        pages = zip(
            score[edge].tolist(), url_hash[edge].tolist(), tokens[edge].tolist(), strict=True
        )
        cuts[name] = cut(total, budgets[name], pages)
        if cuts[name][0] < min_score:
            cuts[name] = min_score, 2**64 - 1
        chosen[able[taken(score[able], url_hash[able], cuts[name])]] = True
    counts = {
        "pages": len(unique),
        "same address": len(unique) - by_url,
        "same text": by_url - int(unique.sum()),
        "unique": int(unique.sum()),
        "taken": int(chosen.sum()),
        "tokens": int(tokens[chosen].sum()),
    }
    return Collection(np.split(chosen, np.cumsum(lengths)[:-1]), cuts, histograms, counts)


def _first(ordered: np.ndarray) -> np.ndarray:
    """[n] bool: the first of each run of equal values."""
    first = np.ones(len(ordered), bool)
    first[1:] = ordered[1:] != ordered[:-1]
    return first
