"""The largest size that fits, when each try costs a compilation."""

from __future__ import annotations

from collections.abc import Callable

MOST = 64  # times the size that is tried first
TRIES = 8


def largest_that_fits(needs: Callable[[int], float], limit: float, start: int) -> int:
    """The largest number whose need is within the limit, to a sixteenth; 0 when 1 is too many.

    Needs grow about as a straight line; where they do, three or four tries are enough: `start`,
    twice as many (or half), and where the line meets the limit. Looks no further than 64 x `start`.
    """
    known = {start: needs(start)}
    while len(known) < TRIES:
        low = max((n for n in known if known[n] <= limit), default=0)
        high = min((n for n in known if known[n] > limit), default=MOST * start + 1)
        if high - low <= max(1, low // 16):
            break
        n = _next(known, limit, low, high, start)
        if n in known:
            break
        known[n] = needs(n)
    return max((n for n in known if known[n] <= limit), default=0)


def _next(known: dict[int, float], limit: float, low: int, high: int, start: int) -> int:
    if len(known) == 1:
        return 2 * start if low else max(1, start // 2)
    bracketed = low in known and high in known
    a, b = (low, high) if bracketed else sorted(known)[:2] if not low else sorted(known)[-2:]
    slope = (known[b] - known[a]) / (b - a)
    n = int(a + (limit - known[a]) / slope) if slope > 0 else high - 1
    if n <= low and bracketed:  # it is no line: halve what is left
        return (low + high) // 2
    return min(max(n, low, 1), high - 1)
