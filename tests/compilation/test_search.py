"""The search for the largest size, and how many compilations it takes."""

import pytest

from dsmath_jax.compilation.search import largest_that_fits


@pytest.mark.parametrize(
    ("needs", "start", "found", "tries"),
    [
        (lambda n: 10 + 3 * n, 4, 30, 3),  # a line: start, twice as many, where it meets 100
        (lambda n: 10 + 3 * n, 64, 30, 4),
        (lambda n: 95 + 10 * n, 4, 0, 3),
        (lambda n: 99 + n, 1, 1, 2),
        (lambda n: 10 + 0.001 * n, 2, 128, 3),  # no further than 64 times as many
    ],
)
def test_on_a_line(needs, start, found, tries):
    asked = []
    assert largest_that_fits(lambda n: asked.append(n) or needs(n), 100.0, start) == found
    assert len(asked) <= tries and len(set(asked)) == len(asked)


@pytest.mark.parametrize("start", [1, 3, 20, 50])
def test_where_small_sizes_stay_on_the_chip(start):
    # Nothing up to 16, then twice as much as the line through it says: 40 are the most.
    def needs(n):
        return 20.0 if n <= 16 else 2.0 * n + 20

    asked = []
    found = largest_that_fits(lambda n: asked.append(n) or needs(n), 100.0, start)
    assert 40 - 40 // 16 <= found <= 40
    assert len(asked) <= 8
