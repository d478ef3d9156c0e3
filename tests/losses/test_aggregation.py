"""Sums and counts under a mask."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dsmath_jax.losses import sum_and_count
from dsmath_jax.losses.aggregation import AGGREGATIONS, mean

VALUES = np.array([[1.0, 3.0, 100.0], [7.0, 100.0, 100.0], [100.0, 100.0, 100.0]], np.float32)
MASK = np.array([[1, 1, 0], [1, 0, 0], [0, 0, 0]], np.float32)


def test_sequence_mean_by_hand():
    # (1 + 3) / 2 + 7, over the two sequences that have tokens
    total, count = sum_and_count(VALUES, MASK, "sequence_mean")
    assert (float(total), int(count)) == (9.0, 2)
    assert float(mean((total, count))) == 4.5


def test_token_mean_by_hand():
    total, count = sum_and_count(VALUES, MASK, "token_mean")
    assert (float(total), int(count)) == (11.0, 3)


def test_sequence_mean_is_the_default():
    assert float(sum_and_count(VALUES, MASK)[0]) == 9.0


@pytest.mark.parametrize("aggregation", AGGREGATIONS)
@pytest.mark.parametrize("garbage", [np.nan, np.inf, -np.inf, 3e38])
def test_masked_garbage_reaches_neither_value_nor_gradient(aggregation, garbage):
    values = np.where(MASK > 0, VALUES, np.float32(garbage))

    def f(x):
        return mean(sum_and_count(x, MASK, aggregation))

    value, gradient = jax.value_and_grad(f)(jnp.array(values))
    clean_value, clean_gradient = jax.value_and_grad(f)(jnp.array(VALUES))
    assert float(value) == float(clean_value)
    assert np.array_equal(gradient, clean_gradient)
    assert not np.any(np.asarray(gradient)[MASK == 0])


@pytest.mark.parametrize("aggregation", AGGREGATIONS)
def test_nothing_to_count_gives_zero(aggregation):
    pair = sum_and_count(VALUES, np.zeros_like(MASK), aggregation)
    assert float(mean(pair)) == 0.0
    gradient = jax.grad(lambda x: mean(sum_and_count(x, np.zeros_like(MASK), aggregation)))(VALUES)
    assert not np.any(gradient)


@pytest.mark.parametrize("aggregation", AGGREGATIONS)
@pytest.mark.parametrize("dtype", [bool, np.int32, np.float32])
def test_masks_of_any_dtype(aggregation, dtype):
    assert float(mean(sum_and_count(VALUES, MASK.astype(dtype), aggregation))) == float(
        mean(sum_and_count(VALUES, MASK, aggregation))
    )


@pytest.mark.parametrize("aggregation", AGGREGATIONS)
@pytest.mark.parametrize("splits", [1, 2, 3, 6])
def test_micro_batches_add_up(aggregation, splits):
    random = np.random.RandomState(0)
    values = random.normal(size=(6, 9)).astype(np.float32)
    mask = random.rand(6, 9) < random.rand(6, 1)
    whole = sum_and_count(values, mask, aggregation)
    parts = [
        sum_and_count(v, m, aggregation)
        for v, m in zip(np.split(values, splits), np.split(mask, splits), strict=True)
    ]
    np.testing.assert_allclose(sum(p[0] for p in parts), whole[0], rtol=1e-5)
    assert sum(p[1] for p in parts) == whole[1]


def test_an_unknown_aggregation_is_named():
    with pytest.raises(ValueError, match=r"'median'.*sequence_mean.*token_mean"):
        sum_and_count(VALUES, MASK, "median")
