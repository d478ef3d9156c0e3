"""Attention on GPU: Pallas' Triton kernel, which keeps the scores out of device memory."""

from __future__ import annotations

import warnings

import jax

with warnings.catch_warnings():  # JAX 0.12 calls it deprecated in favour of a package of its own
    warnings.simplefilter("ignore", DeprecationWarning)
    from jax.experimental.pallas.ops.gpu import attention as pallas

FORWARD_BLOCK, BACKWARD_BLOCK = 128, 64


def padded_length(length: int) -> int:
    """The least length from `length` up that the kernel's blocks divide."""
    return -(-length // FORWARD_BLOCK) * FORWARD_BLOCK


def flash_attention(
    q: jax.Array, k: jax.Array, v: jax.Array, segment_ids: jax.Array, interpret: bool = False
) -> jax.Array:
    """As `attention.causal_attention`, of one device's rows and heads; length is a
    `padded_length`. The backward pass computes the scores again from q, k, v and the logsumexp."""
    batch, length, heads, head_dim = q.shape
    kv_heads = k.shape[2]
    blocks = pallas.BlockSizes(
        block_q=FORWARD_BLOCK,
        block_k=FORWARD_BLOCK,
        block_q_dkv=BACKWARD_BLOCK,
        block_kv_dkv=BACKWARD_BLOCK,
        block_q_dq=BACKWARD_BLOCK,
        block_kv_dq=BACKWARD_BLOCK,
    )

    def attend(q):
        return pallas.mha(
            q,
            k,
            v,
            segment_ids,
            sm_scale=head_dim**-0.5,
            causal=True,
            block_sizes=blocks,
            interpret=interpret,
        )

    # The kernel wants as many heads of k and v as of q: it runs once more for each of a group,
    # against the same k and v.
    q = q.reshape(batch, length, kv_heads, heads // kv_heads, head_dim)
    return jax.vmap(attend, in_axes=3, out_axes=3)(q).reshape(batch, length, heads, head_dim)
