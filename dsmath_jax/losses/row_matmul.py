"""The product of activations and a matrix, in the form that XLA differentiates best."""

from __future__ import annotations

import itertools
from typing import Any

import jax
import jax.numpy as jnp

TOGETHER = 512  # rows from which copying the matrices side by side costs nothing beside the product


def row_matmul(x: jax.Array, w: jax.Array, dtype: Any = None) -> jax.Array:
    """x [..., n] @ w [n, m] -> [..., m], accumulated in `dtype` (by default x's).

    On one device x's leading dimensions become one: the gradient for w is then a plain matrix
    product, for which XLA would else first write a transposed copy of the gradient coming in
    (docs/speed.md). Over a mesh they stay apart, for they may be split over different axes.
    """
    if x.ndim == 2 or not _on_one_device():
        return jnp.matmul(x, w, preferred_element_type=dtype)
    rows = jnp.matmul(x.reshape(-1, x.shape[-1]), w, preferred_element_type=dtype)
    return rows.reshape(*x.shape[:-1], w.shape[1])


def row_matmuls(x: jax.Array, matrices: list[jax.Array]) -> list[jax.Array]:
    """[row_matmul(x, w) for w in matrices], x [..., n] with each w [n, m_i]; many rows on one
    device go through one product, for separate ones run at a time there and share the caches."""
    if not _on_one_device() or x.size // x.shape[-1] < TOGETHER:
        return [row_matmul(x, w) for w in matrices]
    together = row_matmul(x, jnp.concatenate(matrices, axis=1))
    ends = list(itertools.accumulate(w.shape[1] for w in matrices))
    return jnp.split(together, ends[:-1], axis=-1)


def _on_one_device() -> bool:
    mesh = jax.sharding.get_abstract_mesh()
    return mesh.empty or mesh.size == 1
