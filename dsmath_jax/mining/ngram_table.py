"""A table of n-gram hashes that tells quickly which of a page's n-grams are in it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

_BIT = np.uint8(1) << np.arange(8, dtype=np.uint8)


@dataclass(frozen=True)
class NgramTable:
    """Sorted n-gram hashes with where each comes from, and a bit for most that are not there.

    hashes: [entries] uint64, sorted; texts, places: [entries] uint32, which text of the index, and
    at which of its tokens; filter: of the hashes, to pass over most that are not there.
    """

    hashes: np.ndarray
    texts: np.ndarray
    places: np.ndarray
    filter: np.ndarray

    @classmethod
    def build(cls, hashes: np.ndarray, texts: np.ndarray, places: np.ndarray) -> NgramTable:
        order = np.argsort(hashes, kind="stable")
        hashes = hashes[order]
        return cls(hashes, texts[order], places[order], bit_filter(hashes))

    def find(self, ngrams: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(place in `ngrams`, entry) of each that is in the table, for all its entries."""
        maybe = passing(self.filter, ngrams)
        if not len(maybe):
            return maybe, maybe
        first = np.searchsorted(self.hashes, ngrams[maybe])
        first[first == len(self.hashes)] = 0
        found = self.hashes[first] == ngrams[maybe]
        maybe, first = maybe[found], first[found]
        count = np.searchsorted(self.hashes, ngrams[maybe], side="right") - first
        before = np.cumsum(count) - count
        return np.repeat(maybe, count), np.repeat(first - before, count) + np.arange(count.sum())


def bit_filter(hashes: np.ndarray) -> np.ndarray:
    """Bits as uint8, at the upper bits of these hashes: at most one in 16 is set."""
    bits = np.zeros(1 << max(18, (16 * len(hashes)).bit_length()), bool)
    bits[hashes >> _shift(len(bits))] = True
    return np.packbits(bits, bitorder="little")


def passing(filter: np.ndarray, hashes: np.ndarray) -> np.ndarray:
    """Places of all hashes that the filter is of, and of some others."""
    at = hashes >> _shift(8 * len(filter))
    return np.flatnonzero(filter[at >> np.uint64(3)] & _BIT[at & np.uint64(7)])


def _shift(bits: int) -> np.uint64:
    return np.uint64(64 - (bits.bit_length() - 1))
