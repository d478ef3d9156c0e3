"""Where generation keeps keys and values: blocks of `BLOCK` tokens, a question's prompt once for
all of its samples, and each sample's own tokens.

The layers lie in parts: one part with all of them, that programs scan; or, on a CPU, where a loop
would copy each layer's arrays out of their stack at every token, a part for each layer.
"""

from __future__ import annotations

import contextlib
import functools
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from dsmath_jax.models.config import ModelConfig
from dsmath_jax.rollout.slots import BLOCK, Sizes

SHARDS = ("data", "fsdp")  # the mesh axes that slots and blocks are spread over


class Cache(NamedTuple):
    """Lists of a part's keys or values, `Stored`, of prompts and of samples' own tokens, and the
    hidden state of each open prompt's last token [prompts, hidden_size]. The first own block of a
    device is no sample's: slots without one write there."""

    prompt_k: Any
    prompt_v: Any
    own_k: Any
    own_v: Any
    prompt_hidden: Any


class Stored(NamedTuple):
    """values [layers, blocks, kv_heads, BLOCK, head_dim]; where they are int8, to be multiplied by
    scale [layers, blocks, kv_heads, BLOCK] float32, else None."""

    values: Any
    scale: Any


def store(x: jax.Array, dtype: Any) -> Stored:
    """x [.., head_dim] as it is kept: cast, or as int8 with the largest of each token's numbers as
    127."""
    if dtype != jnp.int8:
        return Stored(x.astype(dtype), None)
    x = x.astype(jnp.float32)
    scale = jnp.maximum(jnp.abs(x).max(axis=-1), 1e-30) / 127
    return Stored(jnp.round(x / scale[..., None]).astype(jnp.int8), scale)


def shards_of(mesh: Mesh | None) -> int:
    """How many devices, or groups of them that share one copy of the weights, have own slots."""
    return 1 if mesh is None else math.prod(mesh.shape[a] for a in SHARDS)


def sharding(mesh: Mesh | None, *parts: Any) -> NamedSharding | None:
    return None if mesh is None else NamedSharding(mesh, PartitionSpec(*parts))


def inside(mesh: Mesh | None) -> Any:
    """A context in which arrays are made on this mesh, whatever one the caller is in."""
    return contextlib.nullcontext() if mesh is None else jax.set_mesh(mesh)


def cache_shapes(
    config: ModelConfig,
    mesh: Mesh | None,
    sizes: Sizes,
    *,
    own: int,
    by_layer: bool,
    dtype: Any,
    kv_dtype: Any,
) -> Cache:
    """The cache of all shards of a mesh, as jax.ShapeDtypeStruct.

    Args:
      own: blocks of samples' own tokens on each shard.
      by_layer: a part for each layer.
      dtype, kv_dtype: of the hidden states, and of keys and values.
    """
    shards = shards_of(mesh)
    heads = None if mesh is None or config.num_kv_heads % mesh.shape["tensor"] else "tensor"
    parts, layers = (config.num_layers, 1) if by_layer else (1, config.num_layers)

    def array(shape: tuple[int, ...], dtype: Any, *parts: Any):
        return jax.ShapeDtypeStruct(shape, dtype, sharding=sharding(mesh, *parts))

    def blocks(count: int):
        shape = (layers, shards * count, config.num_kv_heads, BLOCK)
        values = array((*shape, config.head_dim), kv_dtype, None, SHARDS, heads)
        scale = array(shape, jnp.float32, None, SHARDS, heads)
        return [Stored(values, scale if kv_dtype == jnp.int8 else None)] * parts

    prompts = blocks(sizes.prompt_blocks)
    hidden = array((shards * sizes.prompts, config.hidden_size), dtype, SHARDS)
    return Cache(prompts, prompts, blocks(own), blocks(own), hidden)


def make_cache(*args: Any, **options: Any) -> Cache:
    """Zeros of `cache_shapes`."""
    shapes = cache_shapes(*args, **options)
    return jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype, device=x.sharding), shapes)


ROWS = PartitionSpec(SHARDS)
BLOCKS = PartitionSpec(None, SHARDS)
EVERYWHERE = PartitionSpec()
CACHE = Cache(BLOCKS, BLOCKS, BLOCKS, BLOCKS, ROWS)


def on_each_shard(function: Any, in_parts: Any, out_parts: Any) -> Any:
    """`function` as each shard runs it, with its part of arrays that are split over SHARDS; the
    axis tensor is the compiler's."""
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty or mesh.size == 1:
        return function
    return jax.shard_map(
        function, in_specs=in_parts, out_specs=out_parts, axis_names=set(SHARDS), check_vma=False
    )


def whole_rows(x: jax.Array) -> jax.Array:
    """x [rows, ...], split over SHARDS by its rows and by nothing else: hosts read their own."""
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty or mesh.size == 1:
        return x
    return jax.lax.with_sharding_constraint(x, ROWS)


class Moves(NamedTuple):
    """From which block to which of its shard, [shards x moves] int32; 0 to 0 moves nothing for
    own blocks, past the end to past the end for those of prompts."""

    own_from: Any
    own_to: Any
    prompt_from: Any
    prompt_to: Any


@functools.partial(jax.jit, donate_argnums=(0,))
def move(cache: Cache, moves: Moves) -> Cache:
    """Moves blocks, so that those in use lie together."""

    def one_shard(cache, moves):
        def moved(arrays, source, target):
            return jax.tree.map(
                lambda x: x.at[:, target].set(x.at[:, source].get(mode="clip"), mode="drop"), arrays
            )

        own, prompt = (moves.own_from, moves.own_to), (moves.prompt_from, moves.prompt_to)
        return cache._replace(
            own_k=moved(cache.own_k, *own),
            own_v=moved(cache.own_v, *own),
            prompt_k=moved(cache.prompt_k, *prompt),
            prompt_v=moved(cache.prompt_v, *prompt),
        )

    return on_each_shard(one_shard, (CACHE, ROWS), CACHE)(cache, moves)


@functools.partial(jax.jit, static_argnums=(1, 2))
def resize(cache: Cache, own: int, prompts: int) -> Cache:
    """The cache with the first `own` and `prompts` blocks of each shard, or with more, empty."""

    def one_shard(cache):
        def resized(arrays, count):
            def one(x):
                room = [(0, 0)] * x.ndim
                room[1] = (0, max(0, count - x.shape[1]))
                return jnp.pad(x, room)[:, :count]

            return jax.tree.map(one, arrays)

        return cache._replace(
            own_k=resized(cache.own_k, own),
            own_v=resized(cache.own_v, own),
            prompt_k=resized(cache.prompt_k, prompts),
            prompt_v=resized(cache.prompt_v, prompts),
        )

    return on_each_shard(one_shard, (CACHE,), CACHE)(cache)
