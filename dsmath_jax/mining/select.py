"""Ranking by score: which pages are the best that a budget of tokens holds (DeepSeekMath 2.1: the
top 40B, 80B, 120B and 160B were compared, and 40B kept at first)."""

from __future__ import annotations

import numpy as np

BINS = 65536


def score_bins(scores: np.ndarray) -> np.ndarray:
    """[pages] int: of equal width from 0 to 1."""
    return np.minimum((scores.astype(np.float64) * BINS).astype(np.int64), BINS - 1)


def histogram(scores: np.ndarray, tokens: np.ndarray) -> np.ndarray:
    """[2, BINS] int64: pages and tokens by score. Histograms of shards add up."""
    bins = score_bins(scores)
    pages = np.bincount(bins, minlength=BINS)
    return np.stack([pages, np.bincount(bins, tokens, minlength=BINS).astype(np.int64)])


def boundary_bin(total: np.ndarray, budget: int) -> int:
    """The bin in which the budget of tokens ends when bins are taken from the highest score down;
    -1 where all fit.

    Args:
      total: [2, BINS] of all pages.
    """
    above = np.cumsum(total[1, ::-1])[::-1]  # tokens of this bin and those above
    over = np.flatnonzero(above > budget)
    return int(over[-1]) if len(over) else -1


def cut(
    total: np.ndarray, budget: int, scores: np.ndarray, keys: np.ndarray, tokens: np.ndarray
) -> tuple[float, int]:
    """The exact end of the ranking: pages are taken whose (score, -key) is at least this
    (score, -key), by falling score and then rising key.

    Args:
      scores, keys, tokens: [pages] of the pages in `boundary_bin`; keys are unique.

    Returns:
      (score, key) of the last page that is taken; (0, the largest key) where all are; where none
      of the bin is, a score that is just above it.
    """
    bin_number = boundary_bin(total, budget)
    if bin_number < 0:
        return 0.0, 2**64 - 1
    left = budget - int(total[1, bin_number + 1 :].sum())
    order = np.lexsort((keys, -scores))
    count = int(np.searchsorted(np.cumsum(tokens[order], dtype=np.int64), left, side="right"))
    if not count:
        return (bin_number + 1) / BINS, -1
    last = order[count - 1]
    return float(scores[last]), int(keys[last])


def taken(scores: np.ndarray, keys: np.ndarray, last: tuple[float, int]) -> np.ndarray:
    """[pages] bool: whether the ranking takes each, up to `last` of `cut`."""
    score, key = last
    equal = scores == np.float32(score)
    within = np.zeros(len(keys), bool) if key < 0 else keys <= np.uint64(key)
    return (scores > np.float32(score)) | (equal & within)
