"""Products of rows and matrices: one by one, together, and in plain numpy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dsmath_jax.losses.row_matmul import TOGETHER, row_matmul, row_matmuls


@pytest.mark.parametrize("shape", [(2, 3), (4, 200), (700,)])
def test_products_together_equal_each_alone_in_value_and_gradient(shape):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(*shape, 16)).astype(np.float32)
    matrices = [rng.normal(size=(16, n)).astype(np.float32) for n in (8, 24, 8)]

    def together(x, matrices):
        return row_matmuls(x, matrices)

    def alone(x, matrices):
        return [row_matmul(x, w) for w in matrices]

    (ours, pull), (theirs, their_pull) = (jax.vjp(f, x, matrices) for f in (together, alone))
    for got, w in zip(ours, matrices, strict=True):
        np.testing.assert_allclose(got, x.astype(np.float64) @ w, atol=1e-5)
    gradients = [jnp.cos(y) for y in theirs]
    for got, expected in zip(
        jax.tree.leaves(pull(gradients)), jax.tree.leaves(their_pull(gradients)), strict=True
    ):
        np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-4)


def products(rows):
    x, matrices = jnp.ones((rows, 16)), [jnp.ones((16, 8))] * 3
    return str(jax.make_jaxpr(row_matmuls)(x, matrices)).count("dot_general")


def test_many_rows_take_one_product_and_few_read_each_matrix_where_it_lies():
    assert products(TOGETHER) == 1
    assert products(TOGETHER - 1) == 3
