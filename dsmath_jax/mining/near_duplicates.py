"""Near-duplicate pages: MinHash finds pairs that may be alike, their shingles decide.

A page is the set of its shingles, the runs of 5 tokens (`normalize.tokenize`: words, or characters
in Chinese). Two pages are near-duplicates when the Jaccard similarity of their sets is 0.8 or more.
`signature` and `bands` turn a set into 20 numbers of which alike pages share one: a pair of
similarity s does with probability 1 - (1 - s^6)^20, `shared_band_probability`.

`duplicate_clusters` works on shards of what is here.
"""

from __future__ import annotations

import numpy as np

from dsmath_jax.mining.normalize import mix, ngram_hashes, tokenize

SHINGLE = 5  # tokens
THRESHOLD = 0.8
BANDS, ROWS = 20, 6
# A page of 73 MB shares a shingle with everything; past this a page says nothing new about itself.
MAX_CHARACTERS = 500_000
_AT_ONCE = 1024  # shingles, so that all their hashes stay in the cache


def _constants(seed: int, count: int) -> np.ndarray:
    return mix(np.arange(1, count + 1, dtype=np.uint64) + np.uint64(seed << 32))


_FACTORS = (_constants(1, BANDS * ROWS) >> np.uint64(32)).astype(np.uint32)[:, None] | np.uint32(1)
_OFFSETS = (_constants(2, BANDS * ROWS) >> np.uint64(32)).astype(np.uint32)[:, None]
_BAND_SEEDS = _constants(3, BANDS)


def shingles(text: str) -> np.ndarray:
    """The set of a text's shingles as sorted uint32 hashes; a shorter text is one shingle.

    32 bits are enough to compare two pages: of 1,000 shingles two collide once in 8,000 pages.
    """
    hashes = tokenize(text[:MAX_CHARACTERS]).hashes
    runs = ngram_hashes(hashes, max(1, min(SHINGLE, len(hashes))))
    return np.unique((mix(runs) >> np.uint64(32)).astype(np.uint32))


def signature(found: np.ndarray) -> np.ndarray:
    """MinHash of a set of shingles.

    Args:
      found: [shingles] uint32, not empty.

    Returns:
      [BANDS * ROWS] uint32: the least value that each of so many permutations x -> a x + b of the
      32-bit integers takes on the set.
    """
    least = np.full(BANDS * ROWS, 0xFFFFFFFF, np.uint32)
    for i in range(0, len(found), _AT_ONCE):
        np.minimum(least, (found[i : i + _AT_ONCE] * _FACTORS + _OFFSETS).min(axis=1), out=least)
    return least


def bands(signature: np.ndarray) -> np.ndarray:
    """[BANDS] uint64: the bucket of each band, a hash of its ROWS values and its number."""
    buckets = _BAND_SEEDS.copy()
    for row in signature.reshape(BANDS, ROWS).T.astype(np.uint64):
        buckets = mix(buckets ^ row)
    return buckets


def jaccard(a: np.ndarray, b: np.ndarray) -> float:
    """Size of the intersection over size of the union of two sorted sets of shingles."""
    if len(a) > len(b):
        a, b = b, a
    if not len(a):
        return 0.0
    at = np.searchsorted(b, a)
    at[at == len(b)] = 0
    both = int(np.count_nonzero(b[at] == a))
    return both / (len(a) + len(b) - both)


def shared_band_probability(similarity: float | np.ndarray) -> float | np.ndarray:
    """The probability that two sets of this similarity share a band."""
    return 1 - (1 - similarity**ROWS) ** BANDS
