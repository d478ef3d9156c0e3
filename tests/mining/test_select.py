"""The ranking's cut: the highest scores that the budget holds, exactly, however pages are split."""

import numpy as np
import pytest

from dsmath_jax.mining.select import BINS, boundary_bin, cut, histogram, score_bins, taken


def ranked(scores, keys, tokens, budget):
    """Which pages a sort takes."""
    order = sorted(range(len(scores)), key=lambda i: (-scores[i], keys[i]))
    total, found = 0, np.zeros(len(scores), bool)
    for i in order:
        total += tokens[i]
        if total > budget:
            break
        found[i] = True
    return found


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("levels", [3, 1000, 10**9])
def test_the_cut_takes_what_a_sort_would(seed, levels):
    random = np.random.default_rng(seed)
    count = 500
    scores = (random.integers(0, levels + 1, count) / levels).astype(np.float32)
    keys = random.permutation(count).astype(np.uint64) + np.uint64(2**63)
    tokens = random.integers(1, 100, count)
    budget = int(random.integers(0, tokens.sum() + 10))
    parts = np.array_split(np.arange(count), 4)
    total = sum(histogram(scores[p], tokens[p]) for p in parts)
    inside = np.flatnonzero(score_bins(scores) == boundary_bin(total, budget))
    last = cut(total, budget, scores[inside], keys[inside], tokens[inside])
    got = taken(scores, keys, last)
    np.testing.assert_array_equal(got, ranked(scores, keys.tolist(), tokens, budget))


def test_histograms_count_pages_and_tokens():
    counts = histogram(np.array([0.0, 1.0, 1.0], np.float32), np.array([5, 7, 9]))
    assert counts.shape == (2, BINS)
    assert counts[:, 0].tolist() == [1, 5] and counts[:, -1].tolist() == [2, 16]
