"""Attention in plain XLA: causal within segments, and for decoding against a key-value cache."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp

MASKED = -1e30  # finite, so that a row with nothing to attend to stays finite


def causal_attention(
    q: jax.Array, k: jax.Array, v: jax.Array, segment_ids: jax.Array, chunk: int = 512
) -> jax.Array:
    """Each token attends to itself and earlier tokens of its own segment.

    Queries go chunk by chunk against the keys up to the chunk's end, and the backward pass computes
    the scores again: no array is [length, length], and blocks above the diagonal cost nothing. A
    compiler may still hold several chunks' scores at once.

    Args:
      q: [batch, length, heads, head_dim].
      k, v: [batch, length, kv_heads, head_dim]; kv_heads divides heads.
      segment_ids: [batch, length] int; a segment's tokens lie together.

    Returns:
      [batch, length, heads, head_dim], of q's dtype.
    """
    batch, length, heads, head_dim = q.shape
    kv_heads = k.shape[2]
    q = q.reshape(batch, length, kv_heads, heads // kv_heads, head_dim)
    one_chunk = _attend if length <= chunk else jax.checkpoint(_attend, static_argnums=(5,))
    outs = []
    for start in range(0, length, chunk):
        end = min(start + chunk, length)
        outs.append(
            one_chunk(
                q[:, start:end],
                k[:, :end],
                v[:, :end],
                segment_ids[:, start:end],
                segment_ids[:, :end],
                start,
            )
        )
    out = outs[0] if len(outs) == 1 else jnp.concatenate(outs, axis=1)
    return out.reshape(batch, length, heads, head_dim)


def _attend(q, k, v, q_segments, k_segments, start):
    # q [b, t, kv_heads, group, d], k and v [b, s, kv_heads, d]
    scores = jnp.einsum("btkgd,bskd->bkgts", q, k, preferred_element_type=jnp.float32)
    scores *= q.shape[-1] ** -0.5
    q_index = start + jnp.arange(q.shape[1])
    allowed = (q_segments[:, :, None] == k_segments[:, None, :]) & (
        q_index[:, None] >= jnp.arange(k.shape[1])[None, :]
    )
    scores = jnp.where(allowed[:, None, None], scores, MASKED)
    weights = jax.nn.softmax(scores, axis=-1).astype(v.dtype)
    return jnp.einsum("bkgts,bskd->btkgd", weights, v)


def decode_attention(
    q: jax.Array,
    prompt_k: jax.Array,
    prompt_v: jax.Array,
    prompt_lengths: jax.Array,
    new_k: jax.Array,
    new_v: jax.Array,
    num_new: jax.Array,
) -> jax.Array:
    """One new token of each sample against its question's prompt, stored once, and its own tokens.

    Args:
      q: [questions, group, heads, head_dim].
      prompt_k, prompt_v: [questions, prompt_length, kv_heads, head_dim], padded on the right.
      prompt_lengths: [questions].
      new_k, new_v: [questions, group, new_length, kv_heads, head_dim].
      num_new: scalar, how many of `new_length` are filled.

    Returns:
      [questions, group, heads, head_dim], of q's dtype.
    """
    questions, group, heads, head_dim = q.shape
    kv_heads = prompt_k.shape[2]
    q = q.reshape(questions, group, kv_heads, heads // kv_heads, head_dim)
    dot = functools.partial(jnp.einsum, preferred_element_type=jnp.float32)
    scale = head_dim**-0.5
    on_prompt = dot("qgkhd,qskd->qgkhs", q, prompt_k) * scale
    on_new = dot("qgkhd,qgskd->qgkhs", q, new_k) * scale
    in_prompt = jnp.arange(prompt_k.shape[1])[None, :] < prompt_lengths[:, None]
    on_prompt = jnp.where(in_prompt[:, None, None, None], on_prompt, MASKED)
    on_new = jnp.where(jnp.arange(new_k.shape[2]) < num_new, on_new, MASKED)
    weights = jax.nn.softmax(jnp.concatenate([on_prompt, on_new], axis=-1), axis=-1)
    on_prompt, on_new = jnp.split(weights.astype(q.dtype), [prompt_k.shape[1]], axis=-1)
    out = jnp.einsum("qgkhs,qskd->qgkhd", on_prompt, prompt_v)
    out += jnp.einsum("qgkhs,qgskd->qgkhd", on_new, new_v)
    return out.reshape(questions, group, heads, head_dim)
