"""Attention in plain XLA, a block of scores at a time."""

from __future__ import annotations

import functools
import math

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

MASKED = -1e30  # finite, so that a row with nothing to attend to stays finite

# Scores of [batch, heads, 128, 128] stay in the cache of a CPU core: at batch 4, 8 heads of 64 and
# length 512, forward and backward took 0.65 of the CPU time of blocks of 256, and 0.3 of one block.
BLOCK = 128


def chunked_attention(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    q_segments: jax.Array,
    segments: jax.Array,
    first: jax.Array | int = 0,
    block: int | None = None,
    q_prefixes: jax.Array | None = None,
) -> jax.Array:
    """Blocks of queries one after another against blocks of keys up to the diagonal.

    Online softmax forward; backward computes the scores again from the saved logsumexp
    (FlashAttention-2, arXiv 2307.08691). Blocks above the diagonal cost nothing.

    Args:
      q: [batch, queries, heads, head_dim].
      k, v: [batch, length, kv_heads, head_dim]; kv_heads divides heads.
      q_segments, segments: [batch, queries] and [batch, length] int.
      first: which of the keys is the first query's own.
      block: queries and keys at a time; by default at most `BLOCK`, in equal parts.
      q_prefixes: [batch, queries] int, a second segment that each query attends to.

    Returns:
      [batch, queries, heads, head_dim], of q's dtype.
    """
    batch, queries, heads, head_dim = q.shape
    length, kv_heads = k.shape[1:3]
    block = block or math.ceil(length / math.ceil(length / BLOCK))
    rows, columns = (math.ceil(n / block) * block for n in (queries, length))
    q = pad_length(q, rows).reshape(batch, rows, kv_heads, heads // kv_heads, head_dim)
    q = q.transpose(0, 2, 3, 1, 4)
    k, v = (pad_length(x, columns).swapaxes(1, 2) for x in (k, v))
    seen = [q_segments] if q_prefixes is None else [q_segments, q_prefixes]
    seen = [pad_length(x, rows) for x in seen]
    out = _attend(q, k, v, seen, pad_length(segments, columns), jnp.int32(first), block)
    out = out.transpose(0, 3, 1, 2, 4).reshape(batch, rows, heads, head_dim)
    return out[:, :queries]


def pad_length(x: jax.Array, length: int, value: int = 0) -> jax.Array:
    """[batch, length, ...] padded at the end of its second dimension."""
    if x.shape[1] == length:
        return x
    widths = [(0, 0)] * x.ndim
    widths[1] = (0, length - x.shape[1])
    return jnp.pad(x, widths, constant_values=value)


def _cut(x, i, block, axis):
    return jax.lax.dynamic_slice_in_dim(x, i * block, block, axis)


def _last(i, first, block, num_blocks):
    """One past the last block of keys that the i-th block of queries sees."""
    return jnp.minimum((first + (i + 1) * block - 1) // block + 1, num_blocks)


def _scores(q, k, seen, segments, i, j, first):
    # q [batch, kv_heads, group, block, head_dim], k [batch, kv_heads, block, head_dim]; seen: lists
    # of the segments that queries attend to
    scores = jnp.einsum("bkgtd,bksd->bkgts", q, k, preferred_element_type=jnp.float32)
    t, s = q.shape[3], k.shape[2]
    q_index = first + i * t + jnp.arange(t)
    inside = [x[:, :, None] == segments[:, None, :] for x in seen]
    allowed = functools.reduce(jnp.logical_or, inside) & (
        q_index[:, None] >= j * s + jnp.arange(s)[None, :]
    )
    return jnp.where(allowed[:, None, None], scores * q.shape[-1] ** -0.5, MASKED)


@functools.partial(jax.custom_vjp, nondiff_argnums=(6,))
def _attend(q, k, v, seen, segments, first, block):
    return _forward(q, k, v, seen, segments, first, block)[0]


def _forward(q, k, v, seen, segments, first, block):
    def one_block(_, i):
        q_i, seen_i = _cut(q, i, block, 3), [_cut(x, i, block, 1) for x in seen]

        def body(j, carry):
            out, peak, total = carry
            k_j, v_j, seg_j = (
                _cut(k, j, block, 2),
                _cut(v, j, block, 2),
                _cut(segments, j, block, 1),
            )
            scores = _scores(q_i, k_j, seen_i, seg_j, i, j, first)
            new_peak = jnp.maximum(peak, scores.max(axis=-1))
            weights = jnp.exp(scores - new_peak[..., None])
            shrink = jnp.exp(peak - new_peak)
            total = total * shrink + weights.sum(axis=-1)
            update = jnp.einsum(
                "bkgts,bksd->bkgtd",
                weights.astype(v.dtype),
                v_j,
                preferred_element_type=jnp.float32,
            )
            return out * shrink[..., None] + update, new_peak, total

        rows = q_i.shape[:4]
        carry = (
            jnp.zeros(q_i.shape, jnp.float32),
            jnp.full(rows, MASKED, jnp.float32),
            jnp.zeros(rows, jnp.float32),
        )
        end = _last(i, first, block, k.shape[2] // block)
        out, peak, total = jax.lax.fori_loop(0, end, body, carry)
        return None, ((out / total[..., None]).astype(q.dtype), peak + jnp.log(total))

    blocks = q.shape[3] // block
    _, (out, logsumexp) = jax.lax.scan(one_block, None, jnp.arange(blocks))
    return _join(out), _join(logsumexp)


def _join(x):
    """[blocks, batch, kv_heads, group, block, ...] -> [batch, kv_heads, group, queries, ...]"""
    x = jnp.moveaxis(x, 0, 3)
    return x.reshape(*x.shape[:3], -1, *x.shape[5:])


def _attend_fwd(q, k, v, seen, segments, first, block):
    out, logsumexp = _forward(q, k, v, seen, segments, first, block)
    out = checkpoint_name(out, "attention_residuals")
    logsumexp = checkpoint_name(logsumexp, "attention_residuals")
    return out, (q, k, v, seen, segments, first, out, logsumexp)


def _attend_bwd(block, kept, d_out):
    q, k, v, seen, segments, first, out, logsumexp = kept
    scale = q.shape[-1] ** -0.5
    delta = jnp.einsum("bkgtd,bkgtd->bkgt", out, d_out, preferred_element_type=jnp.float32)
    dot = functools.partial(jnp.einsum, preferred_element_type=jnp.float32)

    def one_block(carry, i):
        q_i, d_i = _cut(q, i, block, 3), _cut(d_out, i, block, 3)
        seen_i = [_cut(x, i, block, 1) for x in seen]
        lse_i, delta_i = _cut(logsumexp, i, block, 3), _cut(delta, i, block, 3)

        def body(j, carry):
            dq, dk, dv = carry
            k_j, v_j, seg_j = (
                _cut(k, j, block, 2),
                _cut(v, j, block, 2),
                _cut(segments, j, block, 1),
            )
            weights = jnp.exp(_scores(q_i, k_j, seen_i, seg_j, i, j, first) - lse_i[..., None])
            d_weights = dot("bkgtd,bksd->bkgts", d_i, v_j)
            d_scores = (weights * (d_weights - delta_i[..., None])).astype(q.dtype)
            dv_j = dot("bkgts,bkgtd->bksd", weights.astype(q.dtype), d_i)
            dk_j = dot("bkgts,bkgtd->bksd", d_scores, q_i)
            dq += dot("bkgts,bksd->bkgtd", d_scores, k_j)

            def add(to, x):
                x += _cut(to, j, block, 2)
                return jax.lax.dynamic_update_slice_in_dim(to, x, j * block, 2)

            return dq, add(dk, dk_j), add(dv, dv_j)

        end = _last(i, first, block, k.shape[2] // block)
        dq, dk, dv = jax.lax.fori_loop(0, end, body, (jnp.zeros(q_i.shape, jnp.float32), *carry))
        return (dk, dv), (dq * scale).astype(q.dtype)

    zeros = jnp.zeros(k.shape, jnp.float32)
    (dk, dv), dq = jax.lax.scan(one_block, (zeros, zeros), jnp.arange(q.shape[3] // block))
    return _join(dq), (dk * scale).astype(k.dtype), dv.astype(v.dtype), None, None, None


_attend.defvjp(_attend_fwd, _attend_bwd)
