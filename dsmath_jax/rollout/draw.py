"""Drawing a token from probabilities: the likeliest ones alone, one uniform number."""

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


def keep_likely(probs: jax.Array, top_k: jax.Array, top_p: jax.Array) -> jax.Array:
    """probs [rows, vocab] with 0 for all but the likeliest: the `top_k` likeliest (0: all), and of
    these the fewest, from the likeliest on, that sum to at least `top_p` of their sum. Tokens as
    likely as the last kept one are kept, too.

    Nothing is sorted: each threshold is found by halving the 31 bits of a positive float32, which
    order as the numbers do.
    """
    most = jnp.where(top_k > 0, top_k, probs.shape[-1])
    enough = _largest(lambda kept: (kept > 0).sum(axis=-1) >= most, probs)
    probs = jnp.where(probs >= enough[:, None], probs, 0.0)
    wanted = jnp.where(top_p < 1, top_p * probs.sum(axis=-1), jnp.inf)  # 1: nothing is left out
    enough = _largest(lambda kept: kept.sum(axis=-1) >= wanted, probs)
    return jnp.where(probs >= enough[:, None], probs, 0.0)


def _largest(holds, probs: jax.Array) -> jax.Array:
    """[rows], the largest threshold for which `holds` of those at or above it; 0 if none."""

    def halve(i, bits):
        tried = bits | (jnp.int32(1) << (30 - i))
        threshold = jax.lax.bitcast_convert_type(tried, jnp.float32)
        kept = jnp.where(probs >= threshold[:, None], probs, 0.0)
        return jnp.where(holds(kept), tried, bits)

    bits = jax.lax.fori_loop(0, 31, halve, jnp.zeros(probs.shape[0], jnp.int32))
    return jax.lax.bitcast_convert_type(bits, jnp.float32)
