"""Segments and prefixes as further dimensions of queries and keys, for kernels that know neither.

Their products are exactly 0 between tokens that see each other, also in bfloat16, and `APART` or a
multiple of it elsewhere, whose exponential is 0.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

DIGITS, BASE = 4, 8  # of a number that tells segments apart: at most 8^4
APART = -32768.0  # exact in bfloat16


def of_segments(ids: jax.Array) -> tuple[jax.Array, jax.Array]:
    """[batch, length] int -> what queries and keys [batch, length, DIGITS x BASE] get so that
    tokens see those of the same number."""
    digits = _one_hot_digits(ids)
    return APART * digits, 1 - digits


def of_answers(segment_ids: jax.Array, prefix_ids: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Likewise, so that of the tokens with one prefix, those which continue it in different
    segments are apart, and the prefix's own are with all."""
    number = segment_ids - prefix_ids
    digits = _one_hot_digits(number) * (number > 0)[..., None]
    others = (number > 0)[..., None] * (1 - digits)
    return APART * digits, others


def extended(x: jax.Array, *features: jax.Array) -> jax.Array:
    """[batch, length, heads, head_dim] with [batch, length, n_i] as further dimensions."""
    added = [
        jnp.broadcast_to(f[:, :, None].astype(x.dtype), (*x.shape[:3], f.shape[-1]))
        for f in features
    ]
    return jnp.concatenate([x, *added], axis=-1)


def _one_hot_digits(number: jax.Array) -> jax.Array:
    """[batch, length] int -> [batch, length, DIGITS x BASE]: a 1 for each digit."""
    digits = number[..., None] // BASE ** jnp.arange(DIGITS) % BASE
    one_hot = digits[..., None] == jnp.arange(BASE)
    return one_hot.reshape(*number.shape, DIGITS * BASE).astype(jnp.float32)
