"""The mixture: every prefix has each source's share to within one row; rows are found by number."""

import random

import numpy as np
import pytest

from dsmath_jax.data.documents import Documents
from dsmath_jax.data.errors import InputError
from dsmath_jax.data.mixture import Mixture, schedule
from dsmath_jax.data.packing import DocumentRows

PAPER = {"math": 0.56, "stack": 0.04, "arxiv": 0.1, "code": 0.2, "language": 0.1}


def mixture(weights, length=8):
    sources = []
    for number, name in enumerate(weights, 1):
        documents = Documents(np.full(100, number, np.uint16), np.array([0, 30, 100]))
        sources.append(DocumentRows(name, documents, length=length, seed=0))
    return Mixture(sources, weights)


def test_the_papers_mixture_is_exact_after_every_row():
    mix = mixture(PAPER)
    located = [mix.locate(i)[0] for i in range(1000)]
    counts = np.cumsum(np.array(located)[:, None] == np.arange(5), axis=0)
    wanted = np.arange(1, 1001)[:, None] * np.array(list(PAPER.values()))
    assert np.abs(counts - wanted).max() < 1
    assert mix.period == 50 and mix.counts(50) == [28, 2, 5, 10, 5]


@pytest.mark.parametrize("seed", range(20))
def test_any_weights_stay_within_one_row_of_their_share(seed):
    rng = random.Random(seed)
    shares = [rng.choice([1, rng.randint(1, 9), rng.randint(1, 400)]) for _ in range(seed % 9 + 1)]
    table, index = schedule(shares)
    counts = np.cumsum(table[:, None] == np.arange(len(shares)), axis=0)
    exact = np.arange(1, len(table) + 1)[:, None] * np.array(shares) / sum(shares)
    assert np.abs(counts - exact).max() < 1
    assert counts[-1].tolist() == shares
    np.testing.assert_array_equal(index, counts[np.arange(len(table)), table] - 1)


def test_each_source_gives_its_rows_in_order_also_past_a_period():
    mix = mixture({"a": 3, "b": 1.5, "c": 0.25})
    following = [0, 0, 0]
    for row in range(3 * mix.period + 5):
        source, inside = mix.locate(row)
        assert inside == following[source]
        following[source] += 1
        assert mix.counts(row + 1) == following


def test_a_batch_says_where_each_row_is_from():
    mix = mixture(PAPER)
    batch = mix.batch(range(37, 87))
    for row, source in zip(batch["tokens"], batch["source"], strict=True):
        assert set(row) == {source + 1}
    assert mix.tokens(150) == {"math": 672, "stack": 48, "arxiv": 120, "code": 240, "language": 120}


def test_thirds_written_as_floats_come_out_even():
    assert mixture({"a": 1 / 3, "b": 2 / 3}).shares == [1, 2]


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ({"math": 0.5, "code": -1.0}, r"config.data.mixture.code.weight=-1.0: must be above 0"),
        ({"math": 0.5, "code": float("nan")}, r"mixture.code.weight=nan: must be above 0"),
        ({"math": "much"}, r"mixture.math.weight='much': must be a number"),
        ({"math": 0.1234567, "code": 1.0}, r"only come out even after 11234567 rows"),
    ],
)
def test_bad_weights_are_named(weights, message):
    with pytest.raises(InputError, match=message):
        mixture(weights)
