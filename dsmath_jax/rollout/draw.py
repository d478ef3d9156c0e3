"""Choosing a token from scores: temperature, the most probable ones alone, one uniform number."""

from __future__ import annotations

import jax
import jax.numpy as jnp

CHUNK = 128


def draw(probs: jax.Array, uniform: jax.Array) -> jax.Array:
    """[rows] int32: the token at which the running sum of probs [rows, vocab] (they need not sum
    to 1) passes uniform [rows], in [0, 1), of the whole. Tokens of probability 0 never come."""
    rows, vocab = probs.shape
    chunks = -(-vocab // CHUNK)
    probs = jnp.pad(probs, ((0, 0), (0, chunks * CHUNK - vocab))).reshape(rows, chunks, CHUNK)
    sums = probs.sum(axis=-1)
    chunk, rest = _passes(sums, uniform * sums.sum(axis=-1))
    inner = jnp.take_along_axis(probs, chunk[:, None, None], axis=1)[:, 0]
    token, _ = _passes(inner, rest)
    return chunk * CHUNK + token


def _passes(x: jax.Array, target: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Where the running sum of x [rows, n] passes target [rows], and what of target is left."""
    ends = jnp.cumsum(x, axis=-1)
    index = jnp.arange(x.shape[1])
    last = jnp.max(jnp.where(x > 0, index, 0), axis=-1)  # where rounding leads past the end
    at = jnp.minimum((ends <= target[:, None]).sum(axis=-1), last).astype(jnp.int32)
    before = jnp.take_along_axis(ends - x, at[:, None], axis=-1)[:, 0]
    return at, target - before
