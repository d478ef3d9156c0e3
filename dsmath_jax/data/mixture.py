"""Sources mixed by weights, exactly: after any number of rows each has its share to within one row.

Row i of the mixture is row j of source s by a table of one period, so any row is found without the
ones before it. Rows of pretraining are full, so shares of rows are shares of tokens.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import Any

import numpy as np

from dsmath_jax.data.errors import InputError
from dsmath_jax.data.packing import Batch, Rows, empty_batch

LONGEST_PERIOD = 1_000_000  # rows


class Mixture:
    """Rows of several sources.

    Args:
      sources: rows of one length each.
      weights: {source name: weight}; normalised.

    Raises:
      InputError: a weight is not a positive number, or they have too many digits for a period of
        at most a million rows.
    """

    def __init__(self, sources: Sequence[Rows], weights: Mapping[str, float]):
        self.sources = list(sources)
        self.length = self.sources[0].length
        self.shares = _integers(weights, [s.name for s in self.sources])
        self.period = sum(self.shares)
        self.table, self.index = schedule(self.shares)

    @property
    def names(self) -> list[str]:
        return [source.name for source in self.sources]

    def locate(self, row: int) -> tuple[int, int]:
        """(number of the source, its row) of a row of the mixture."""
        rounds, inside = divmod(row, self.period)
        source = int(self.table[inside])
        return source, rounds * self.shares[source] + int(self.index[inside])

    def counts(self, rows: int) -> list[int]:
        """How many of the first `rows` rows are of each source."""
        rounds, inside = divmod(rows, self.period)
        part = np.bincount(self.table[:inside], minlength=len(self.sources))
        return [rounds * s + int(n) for s, n in zip(self.shares, part, strict=True)]

    def tokens(self, rows: int) -> dict[str, int]:
        """Tokens of each source in the first `rows` rows."""
        counts = self.counts(rows)
        return {s.name: s.tokens_before(n) for s, n in zip(self.sources, counts, strict=True)}

    def batch(self, rows: Sequence[int] | np.ndarray) -> Batch:
        """tokens, positions, segment_ids [rows, length] int32, loss_mask float32, and where there
        are several sources `source` [rows] int32, the number of each row's."""
        batch = empty_batch(len(rows), self.length)
        sources = np.zeros(len(rows), np.int32)
        for at, row in enumerate(rows):
            sources[at], inside = self.locate(int(row))
            self.sources[sources[at]].fill(inside, batch, at)
        return batch | ({"source": sources} if len(self.sources) > 1 else {})

    def identity(self) -> dict[str, Any]:
        """What the order of rows depends on, for the state of an iterator."""
        sources = {
            s.name: {"share": [share, self.period], **s.identity()}
            for s, share in zip(self.sources, self.shares, strict=True)
        }
        return {"length": self.length, "sources": sources}


def schedule(shares: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    """One period of rows: the source of each, and how many of that source come before it.

    The j-th row of a source with share s of p may come from row floor((j - 1) p / s) on and must
    come before row ceil(j p / s); always taking the one that must come first meets every such
    window (earliest deadline first, at full load), and thereby keeps each count within one of its
    share: Baruah et al., "Proportionate progress", 1996.
    """
    period = sum(shares)
    table = np.empty(period, np.int16 if len(shares) < 1 << 15 else np.int32)
    index = np.empty(period, np.int64)
    counts = [0] * len(shares)
    deadlines = [-(-period // s) for s in shares]
    releases = [0] * len(shares)
    numbers = range(len(shares))
    for row in range(period):
        chosen = min((deadlines[k], k) for k in numbers if releases[k] <= row)[1]
        table[row], index[row] = chosen, counts[chosen]
        counts[chosen] = count = counts[chosen] + 1
        share = shares[chosen]
        releases[chosen] = count * period // share
        deadlines[chosen] = -(-(count + 1) * period // share)
    return table, index


def _integers(weights: Mapping[str, float], names: Sequence[str]) -> list[int]:
    """The weights as whole numbers without a common factor."""
    fractions = []
    for name in names:
        weight = weights[name]
        if isinstance(weight, bool) or not isinstance(weight, int | float):
            raise InputError(f"config.data.mixture.{name}.weight={weight!r}: must be a number")
        if not (math.isfinite(weight) and weight > 0):
            raise InputError(f"config.data.mixture.{name}.weight={weight}: must be above 0")
        fractions.append(Fraction(repr(weight)))
    scale = math.lcm(*(f.denominator for f in fractions))
    whole = [int(f * scale) for f in fractions]
    divisor = math.gcd(*whole)
    whole = [w // divisor for w in whole]
    if sum(whole) > LONGEST_PERIOD:
        raise InputError(
            f"config.data.mixture: the weights {', '.join(str(weights[n]) for n in names)} only "
            f"come out even after {sum(whole)} rows; give them fewer digits, such as 0.56"
        )
    return whole
