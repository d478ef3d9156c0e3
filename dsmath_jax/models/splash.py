"""Attention on TPU: Pallas' splash kernel, which keeps the scores out of HBM."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
from jax.experimental.pallas.ops.tpu import splash_attention as splash
from jax.sharding import AbstractMesh, NamedSharding, PartitionSpec

from dsmath_jax.models.segment_features import BASE, DIGITS, extended, of_answers

LANES = 128  # what a block is a multiple of

# Largest block. Of those that compile within the 16 MiB of VMEM a kernel gets by default (2048 does
# not), the one with the fewest passes over K and V; head_dim 64 and 128, bfloat16 and float32.
MAX_BLOCK = 1024


def largest_block(q: jax.Array, with_prefixes: bool = False) -> int:
    """MAX_BLOCK, or half of it where a query [..., head_dim] takes more than 512 bytes."""
    size = q.shape[-1] + with_prefixes * DIGITS * BASE
    wide = math.ceil(size / LANES) * LANES * q.dtype.itemsize > 512
    return MAX_BLOCK // 2 if wide else MAX_BLOCK


def block_size(length: int, largest: int) -> int:
    """The block for `length` queries: the multiple of 128 that pads them least in as few blocks as
    `largest` allows."""
    blocks = math.ceil(length / largest)
    return math.ceil(length / blocks / LANES) * LANES


def padded_length(length: int, shards: int, largest: int) -> int:
    """The least length from `length` up that `shards` devices split in whole blocks."""
    part = math.ceil(length / shards)
    block = block_size(part, largest)
    return shards * math.ceil(part / block) * block


def make_kernel(length: int, heads: int, shards: int, largest: int, interpret: bool = False):
    """The causal kernel for rows of `length`, a `padded_length`; `shards` devices split its queries
    (mesh axis "sequence")."""
    block = block_size(length // shards, largest)
    causal = splash.CausalMask((length, length), shard_count=shards)
    return splash.make_splash_mha(
        splash.MultiHeadMask([causal] * heads),
        head_shards=1,
        q_seq_shards=shards,
        block_sizes=splash.BlockSizes(
            block_q=block,
            block_kv=block,
            block_q_dkv=block,
            block_kv_dkv=block,
            use_fused_bwd_kernel=True,
        ),
        residual_checkpoint_name="attention_residuals",
        interpret=interpret,
    )


def kernel_specs(kernel, mesh: AbstractMesh, shards: int):
    """How `jax.shard_map` splits the kernel: each device needs its blocks below the diagonal."""
    axis = "sequence" if shards > 1 else None
    return kernel.manual_sharding_spec(NamedSharding(mesh, PartitionSpec(None, axis)))


def splash_attention(
    kernel,
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    q_segments: jax.Array,
    segments: jax.Array,
    q_prefixes: jax.Array | None = None,
    prefixes: jax.Array | None = None,
) -> jax.Array:
    """One device's part: q [batch, queries, heads, head_dim] against all keys and values
    [batch, length, kv_heads, head_dim]; segments and prefixes [batch, queries], [batch, length].

    The kernel knows one segment for each token. With prefixes that is the prefix's, and further
    dimensions of q and k keep apart what follows it (`segment_features`).
    """
    scaled = (q.astype(jnp.float32) * q.shape[-1] ** -0.5).astype(q.dtype)
    if q_prefixes is not None and prefixes is not None:
        scaled = extended(scaled, of_answers(q_segments, q_prefixes)[0])
        k = extended(k, of_answers(segments, prefixes)[1])
        q_segments, segments = q_prefixes, prefixes
    by_head = [x.swapaxes(1, 2) for x in (scaled, k, v)]
    out = jax.vmap(kernel)(*by_head, splash.SegmentIds(q_segments, segments))
    return out.swapaxes(1, 2)
