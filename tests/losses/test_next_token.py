"""Maximum likelihood."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from finite_differences import numerical_gradient

from dsmath_jax.losses import next_token_loss
from dsmath_jax.losses.aggregation import AGGREGATIONS


def reference(logp, mask, aggregation):
    if aggregation == "token_mean":
        return -np.asarray(logp, np.float64)[mask].mean()
    return np.mean([-np.asarray(x, np.float64)[m].mean() for x, m in zip(logp, mask, strict=True)])


def random_batch():
    random = np.random.RandomState(0)
    logp = -random.exponential(1.0, (4, 6)).astype(np.float32)
    return logp, np.arange(6)[None, :] < np.array([[6], [1], [3], [4]])


def test_by_hand():
    logp = jnp.log(jnp.array([[0.5, 0.25], [0.125, 1.0]]))
    mask = jnp.array([[1, 1], [1, 0]])
    # (1 + 2 + 3) / 3 bits a token; (1.5 + 3) / 2 bits a sequence
    assert float(next_token_loss(logp, mask)[0]) == pytest.approx(2 * np.log(2))
    by_sequence, _ = next_token_loss(logp, mask, aggregation="sequence_mean")
    assert float(by_sequence) == pytest.approx(2.25 * np.log(2))


@pytest.mark.parametrize("aggregation", AGGREGATIONS)
def test_equals_float64_numpy_in_value_and_gradient(aggregation):
    logp, mask = random_batch()

    def loss(x):
        return next_token_loss(x, mask, aggregation=aggregation)[0]

    value, gradient = jax.value_and_grad(loss)(jnp.array(logp))
    np.testing.assert_allclose(value, reference(logp, mask, aggregation), rtol=1e-6)
    expected = numerical_gradient(lambda x: reference(x, mask, aggregation), logp)
    np.testing.assert_allclose(gradient, expected, atol=1e-7)
    np.testing.assert_allclose(jax.jit(loss)(logp), value, rtol=1e-6)


@pytest.mark.parametrize("aggregation", AGGREGATIONS)
@pytest.mark.parametrize("splits", [1, 2, 4])
def test_micro_batches_add_up_in_value_and_gradient(aggregation, splits):
    logp, mask = random_batch()

    def total(x, m):
        return next_token_loss(x, m, aggregation=aggregation)[1]["loss"]

    def loss(x):
        return next_token_loss(x, mask, aggregation=aggregation)[0]

    pairs, gradients = [], []
    for x, m in zip(np.split(logp, splits), np.split(mask, splits), strict=True):
        pairs.append(total(x, m))
        gradients.append(jax.grad(lambda x, m=m: total(x, m)[0])(x))
    count = sum(p[1] for p in pairs)
    np.testing.assert_allclose(sum(p[0] for p in pairs) / count, loss(logp), rtol=1e-6)
    np.testing.assert_allclose(
        np.concatenate(gradients) / count, jax.grad(loss)(logp), rtol=1e-6, atol=1e-8
    )


@pytest.mark.parametrize("garbage", [np.nan, np.inf, -np.inf, -3e38])
def test_masked_garbage_reaches_neither_value_nor_gradient(garbage):
    logp, mask = random_batch()
    spoiled = np.where(mask, logp, np.float32(garbage))
    loss = jax.value_and_grad(lambda x: next_token_loss(x, mask)[0])
    value, gradient = loss(spoiled)
    clean_value, clean_gradient = loss(logp)
    assert float(value) == float(clean_value)
    assert np.array_equal(gradient, clean_gradient)
