"""The product of activations and a matrix, in the form that XLA differentiates best."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp


def row_matmul(x: jax.Array, w: jax.Array, dtype: Any = None) -> jax.Array:
    """x [..., n] @ w [n, m] -> [..., m], accumulated in `dtype` (by default x's).

    On one device x's leading dimensions become one: the gradient for w is then a plain matrix
    product, for which XLA would else first write a transposed copy of the gradient coming in
    (docs/speed.md). Over a mesh they stay apart, for they may be split over different axes.
    """
    mesh = jax.sharding.get_abstract_mesh()
    if x.ndim == 2 or not (mesh.empty or mesh.size == 1):
        return jnp.matmul(x, w, preferred_element_type=dtype)
    rows = jnp.matmul(x.reshape(-1, x.shape[-1]), w, preferred_element_type=dtype)
    return rows.reshape(*x.shape[:-1], w.shape[1])
