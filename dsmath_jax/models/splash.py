"""Attention on TPU: Pallas' splash kernel, which keeps the scores out of HBM."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
from jax.experimental.pallas.ops.tpu import splash_attention as splash
from jax.sharding import AbstractMesh, NamedSharding, PartitionSpec

LANES = 128  # what a block is a multiple of
DIGITS, BASE = 4, 8  # that tell apart the segments after one prefix: at most 8^4
APART = -32768.0  # score between two of them, exact in bfloat16: their weight is exp of it, 0

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
    dimensions of q and k keep apart what follows it: their products are exactly 0 between tokens
    that see each other, else `APART` or a multiple.
    """
    scaled = (q.astype(jnp.float32) * q.shape[-1] ** -0.5).astype(q.dtype)
    if q_prefixes is not None and prefixes is not None:
        own = _one_hot_digits(segments - prefixes)
        others = own.any(axis=-1, keepdims=True) & (own == 0)
        scaled = _extended(scaled, APART * _one_hot_digits(q_segments - q_prefixes))
        k = _extended(k, others)
        q_segments, segments = q_prefixes, prefixes
    by_head = [x.swapaxes(1, 2) for x in (scaled, k, v)]
    out = jax.vmap(kernel)(*by_head, splash.SegmentIds(q_segments, segments))
    return out.swapaxes(1, 2)


def _one_hot_digits(number: jax.Array) -> jax.Array:
    """[batch, length] int -> [batch, length, DIGITS x BASE]: a 1 for each digit, none for 0."""
    digits = number[..., None] // BASE ** jnp.arange(DIGITS) % BASE
    one_hot = (digits[..., None] == jnp.arange(BASE)) & (number > 0)[..., None, None]
    return one_hot.reshape(*number.shape, DIGITS * BASE).astype(jnp.float32)


def _extended(x: jax.Array, features: jax.Array) -> jax.Array:
    """[batch, length, heads, head_dim] with [batch, length, n] as n further dimensions."""
    features = features[:, :, None].astype(x.dtype)
    return jnp.concatenate(
        [x, jnp.broadcast_to(features, (*x.shape[:3], features.shape[-1]))], axis=-1
    )
