"""Attention on NVIDIA GPUs from Hopper on: cuDNN's kernel, which keeps the scores on the chip."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from dsmath_jax.models.segment_features import extended, of_answers, of_segments

HEAD_DIM = 128  # of values; queries and keys have 64 more, a shape that cuDNN is made for
POLICY_NAMES = ("dot_product_attention_fwd", "dot_product_attention_fwd_wrapper")


def refusal(dtype: Any, head_dim: int) -> str:
    """Why this machine's GPU and libraries do not have the kernel for a dtype and size of heads; ""
    if they do."""
    if head_dim > HEAD_DIM:
        return f"takes heads of at most {HEAD_DIM} dimensions, not {head_dim}"
    if jnp.dtype(dtype) not in (jnp.bfloat16, jnp.float16):
        return f"computes in bfloat16 or float16, not {jnp.dtype(dtype)}"
    try:
        from jax._src.cudnn import fused_attention_stablehlo as cudnn

        version = cudnn.check_cudnn_version()
    except (ImportError, AttributeError, RuntimeError):
        return "needs cuDNN, which this JAX does not have: pip install -e '.[cuda]'"
    if version < 91000 or not cudnn.check_compute_capability("9.0"):
        return "needs cuDNN 9.10 and a GPU from Hopper on (H100, H200, B200)"
    return ""


def kept_for_backward(primitive, *_, **__) -> bool:
    """A policy of `jax.checkpoint`: what the kernel leaves for its backward pass is kept."""
    return primitive.name in POLICY_NAMES


def cudnn_attention(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    segment_ids: jax.Array,
    prefix_ids: jax.Array | None = None,
) -> jax.Array:
    """As `attention.causal_attention`, of one device's rows and heads.

    The kernel knows no segments: they are further dimensions of q and k (`segment_features`).
    """
    # Public jax.nn.dot_product_attention wants as many dimensions of values as of queries.
    from jax._src.cudnn.fused_attention_stablehlo import MaskType, dot_product_attention

    head_dim = q.shape[-1]
    q, k, v = (_widened(x) for x in (q, k, v))
    groups = of_segments(segment_ids if prefix_ids is None else prefix_ids)
    if prefix_ids is None:
        answers = (jnp.zeros_like(groups[0]),) * 2
    else:
        answers = of_answers(segment_ids, prefix_ids)
    q, k = (extended(x, *f) for x, f in zip((q, k), zip(groups, answers, strict=True), strict=True))
    out = dot_product_attention(q, k, v, scale=head_dim**-0.5, mask_type=MaskType.CAUSAL)
    return out[..., :head_dim]


def _widened(x: jax.Array) -> jax.Array:
    """With zeros up to HEAD_DIM, which change no product."""
    return jnp.pad(x, [(0, 0)] * 3 + [(0, HEAD_DIM - x.shape[-1])])
