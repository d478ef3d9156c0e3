"""Attention of new tokens to keys and values that lie in blocks, own ones and shared ones."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from dsmath_jax.models.chunked_attention import MASKED
from dsmath_jax.rollout.cache import Stored


class Partial(NamedTuple):
    """Attention to a part of the keys: `out` [.., heads, head_dim] float32, not yet divided by
    `total` [.., heads]; both are to be multiplied by exp(peak)."""

    out: jax.Array
    peak: jax.Array
    total: jax.Array


def attend(q: jax.Array, k: Stored, v: Stored, allowed: jax.Array) -> Partial:
    """Each of `rows` queries to its block's keys.

    Args:
      q: [blocks, rows, heads, head_dim].
      k, v: of one layer, [blocks, kv_heads, block, head_dim].
      allowed: [blocks, block] bool.
    """
    blocks, rows, heads, head_dim = q.shape
    kv_heads = k.values.shape[1]
    q = q.reshape(blocks, rows, kv_heads, heads // kv_heads, head_dim).swapaxes(1, 2)
    q = q.reshape(blocks, kv_heads, -1, head_dim)
    scores = jnp.einsum(
        "bkrd,bksd->bkrs", q, k.values.astype(q.dtype), preferred_element_type=jnp.float32
    )
    scores *= head_dim**-0.5
    if k.scale is not None:
        scores *= k.scale[:, :, None]
    scores = jnp.where(allowed[:, None, None], scores, MASKED)
    peak = scores.max(axis=-1)
    weights = jnp.where(allowed[:, None, None], jnp.exp(scores - peak[..., None]), 0.0)
    total = weights.sum(axis=-1)
    if v.scale is not None:
        weights *= v.scale[:, :, None]
    out = jnp.einsum(
        "bkrs,bksd->bkrd",
        weights.astype(q.dtype),
        v.values.astype(q.dtype),
        preferred_element_type=jnp.float32,
    )

    def back(x):
        x = x.reshape(blocks, kv_heads, rows, heads // kv_heads, *x.shape[3:]).swapaxes(1, 2)
        return x.reshape(blocks, rows, heads, *x.shape[4:])

    return Partial(back(out), back(peak), back(total))


def join(parts: list[Partial]) -> jax.Array:
    """[slots, heads, head_dim] float32 of parts [slots, n_i, heads, ...], n_i blocks of each."""
    out, peak, total = (jnp.concatenate(x, axis=1) for x in zip(*parts, strict=True))
    shrink = jnp.exp(peak - peak.max(axis=1, keepdims=True))
    return (out * shrink[..., None]).sum(axis=1) / (total * shrink).sum(axis=1)[..., None]


def take(part: Partial, table: jax.Array) -> Partial:
    """part [blocks, rows, ..] at table [slots, n] of indices into blocks x rows; an index past
    the end stands for nothing."""
    size = part.peak.shape[0] * part.peak.shape[1]
    out, peak, total = (x.reshape(size, *x.shape[2:]) for x in part)
    none = (table >= size)[..., None]
    at = jnp.minimum(table, size - 1)
    return Partial(out[at], jnp.where(none, MASKED, peak[at]), jnp.where(none, 0.0, total[at]))
