"""Looking values up in sorted arrays."""

import numpy as np
import pytest

from dsmath_jax.mining.sorted_arrays import find_sorted, is_in_sorted


def test_by_hand():
    ordered = np.array([3, 5, 2**64 - 1], np.uint64)
    values = np.array([5, 0, 2**64 - 1, 4, 3, 2**64 - 2, 5], np.uint64)
    assert find_sorted(values, ordered).tolist() == [1, -1, 2, -1, 0, -1, 1]


@pytest.mark.parametrize(("values", "ordered"), [(0, 0), (0, 50), (50, 0), (300, 100), (9, 5000)])
def test_against_numpy(tmp_path, values, ordered):
    rng = np.random.default_rng(0)
    of = rng.integers(0, 2**64, 200, np.uint64)
    values, ordered = rng.choice(of, values), np.unique(rng.choice(of, ordered))
    assert np.array_equal(is_in_sorted(values, ordered), np.isin(values, ordered))
    np.save(tmp_path / "ordered.npy", ordered)
    on_disk = np.load(tmp_path / "ordered.npy", mmap_mode="r")
    assert np.array_equal(is_in_sorted(values, on_disk), np.isin(values, ordered))
