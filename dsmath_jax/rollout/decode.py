"""The compiled programs of generation: reading prompts, and decoding an interval of tokens.

Keys and values lie in blocks of `BLOCK` tokens: a question's prompt once for all of its samples,
and each sample's own tokens. A row that decodes is a slot; which blocks are whose stands in a
`Plan` that the host makes anew for each interval (`slots.py`), so that a sample which ended gives
its slot and its blocks to the next. While an interval decodes, the blocks are only read: its own
tokens go to a small buffer of each slot, written into the blocks at its end.

Over a mesh each device (or group of devices of axis tensor) has slots and blocks of its own, and
its part of the plan counts from zero.
"""

from __future__ import annotations

import functools
import math
import operator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from dsmath_jax.models.config import ModelConfig
from dsmath_jax.models.transformer import Transformer, logits
from dsmath_jax.rollout.block_attention import attend, join, take
from dsmath_jax.rollout.draw import draw
from dsmath_jax.rollout.slots import BLOCK, Plan, Sizes

SHARDS = ("data", "fsdp")  # the mesh axes that slots and blocks are spread over


class Cache(NamedTuple):
    """Keys and values [layers, blocks, kv_heads, BLOCK, head_dim] of prompts and of samples' own
    tokens, and the hidden state of each open prompt's last token [prompts, hidden_size]. The last
    own block of a device is no sample's: slots without one write there."""

    prompt_k: Any
    prompt_v: Any
    own_k: Any
    own_v: Any
    prompt_hidden: Any


class Decoded(NamedTuple):
    """Of each slot: its tokens and their log-probabilities [slots, interval], how many count, and
    whether the last of them ended it."""

    tokens: Any
    logprobs: Any
    counts: Any
    stopped: Any


class Options(NamedTuple):
    """How tokens are drawn, alike for all slots; `key` is of (seed, step)."""

    key: Any
    temperature: Any
    eos_ids: Any


def shards_of(mesh: Mesh | None) -> int:
    """How many devices, or groups of them that share one copy of the weights, have own slots."""
    return 1 if mesh is None else math.prod(mesh.shape[a] for a in SHARDS)


def sharding(mesh: Mesh | None, *parts: Any) -> NamedSharding | None:
    return None if mesh is None else NamedSharding(mesh, PartitionSpec(*parts))


def cache_shapes(config: ModelConfig, dtype: Any, mesh: Mesh | None, sizes: Sizes) -> Cache:
    """The cache of all shards of a mesh, as jax.ShapeDtypeStruct."""
    shards = shards_of(mesh)
    heads = None if mesh is None or config.num_kv_heads % mesh.shape["tensor"] else "tensor"

    def array(shape: tuple[int, ...], *parts: Any):
        return jax.ShapeDtypeStruct(shape, dtype, sharding=sharding(mesh, *parts))

    def blocks(count: int):
        shape = (config.num_layers, shards * count, config.num_kv_heads, BLOCK, config.head_dim)
        return array(shape, None, SHARDS, heads)

    own, prompts = blocks(sizes.own_blocks + 1), blocks(sizes.prompt_blocks)
    hidden = array((shards * sizes.prompts, config.hidden_size), SHARDS)
    return Cache(prompts, prompts, own, own, hidden)


def make_cache(config: ModelConfig, dtype: Any, mesh: Mesh | None, sizes: Sizes) -> Cache:
    shapes = cache_shapes(config, dtype, mesh, sizes)
    return jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype, device=x.sharding), shapes)


def _on_each_shard(function, in_parts, out_parts):
    """`function` as each shard runs it, with its part of arrays that are split over SHARDS; the
    axis tensor is the compiler's."""
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty or mesh.size == 1:
        return function
    return jax.shard_map(
        function, in_specs=in_parts, out_specs=out_parts, axis_names=set(SHARDS), check_vma=False
    )


ROWS = PartitionSpec(SHARDS)
BLOCKS = PartitionSpec(None, SHARDS)
CACHE = Cache(BLOCKS, BLOCKS, BLOCKS, BLOCKS, ROWS)
EVERYWHERE = PartitionSpec()


@functools.partial(jax.jit, static_argnums=(0,), donate_argnums=(2,))
def prefill(graph, params, cache: Cache, tokens, lengths, rows, blocks) -> Cache:
    """Reads prompts into the cache.

    Args:
      tokens: [prompts, length], padded on the right; length is a multiple of BLOCK.
      lengths: [prompts], at least 1.
      rows: [prompts], where each one's hidden state goes; one beyond the end: nowhere.
      blocks: [prompts, length / BLOCK], where its keys and values go, likewise.
    """

    def write(cache, hidden, k, v, rows, blocks):
        def put(to, x):
            layers, prompts, length, heads, head_dim = x.shape
            x = x.reshape(layers, prompts * length // BLOCK, BLOCK, heads, head_dim)
            return to.at[:, blocks.reshape(-1)].set(x.swapaxes(2, 3), mode="drop")

        return cache._replace(
            prompt_k=put(cache.prompt_k, k),
            prompt_v=put(cache.prompt_v, v),
            prompt_hidden=cache.prompt_hidden.at[rows].set(hidden, mode="drop"),
        )

    read = nnx.merge(graph, params).prefill(tokens, lengths)
    each = _on_each_shard(write, (CACHE, ROWS, BLOCKS, BLOCKS, ROWS, ROWS), CACHE)
    return each(cache, *read, rows, blocks)


@functools.partial(jax.jit, static_argnums=(0, 1, 2, 3), donate_argnums=(5,))
def decode(
    graph, interval: int, greedy: bool, unroll: bool, params, cache: Cache, hidden, plan, options
) -> tuple[Cache, jax.Array, Decoded]:
    """Up to `interval` tokens of each active slot.

    Args:
      interval: divides BLOCK.
      greedy: takes the likeliest token.
      unroll: the layers one after another and not in a loop: on a CPU, where a loop copies each
        layer's parameters and blocks out of their stacks at every token.
      hidden: [slots before, hidden_size], which the last interval returned.

    Returns:
      (the cache with the interval's keys and values, hidden [slots, hidden_size], Decoded).
    """

    def one_shard(params, cache, hidden, plan, options):
        model = nnx.merge(graph, params)
        hidden = jnp.concatenate([hidden, cache.prompt_hidden])[plan.source]
        state = _decode(model, interval, greedy, unroll, cache, hidden, plan, options)
        cache = cache._replace(
            own_k=_write(cache.own_k, [k for k, _ in state.recent], plan),
            own_v=_write(cache.own_v, [v for _, v in state.recent], plan),
        )
        return cache, state.hidden, state.decoded

    each = _on_each_shard(
        one_shard, (EVERYWHERE, CACHE, ROWS, ROWS, EVERYWHERE), (CACHE, ROWS, ROWS)
    )
    return each(params, cache, hidden, plan, options)


class _State(NamedTuple):
    step: jax.Array
    hidden: jax.Array
    active: jax.Array
    recent: Any  # (keys, values) [slots, kv_heads, interval, head_dim] by layer
    decoded: Decoded


def _decode(model: Transformer, interval, greedy, unroll, cache, hidden, plan, options) -> _State:
    c = model.config
    slots, own, prompts = (x.shape[0] for x in (plan.source, plan.own_slot, plan.members))
    head = model.output_head()
    blocks = (cache.own_k, cache.own_v, cache.prompt_k, cache.prompt_v)
    layers: Any = model.stacked()
    room = (c.num_layers, slots, c.num_kv_heads, interval, c.head_dim)
    recent: Any = (jnp.zeros(room, cache.own_k.dtype),) * 2
    used = (own, own, prompts, prompts)
    kept: Any = blocks
    if unroll:
        kept = tuple(x[:, :n] for x, n in zip(blocks, used, strict=True))
        layers, recent, kept = (_by_layer(tree, c.num_layers) for tree in (layers, recent, kept))
    in_own = jnp.arange(BLOCK) < plan.own_filled[:, None]
    in_prompt = jnp.arange(BLOCK) < plan.prompt_filled[:, None]
    by_example = jax.vmap(jax.random.fold_in, (None, 0))(options.key, plan.example)
    keys = jax.vmap(jax.random.fold_in)(by_example, plan.sample)

    def next_token(s: _State):
        scores = logits(s.hidden, head) / options.temperature
        total = jax.nn.logsumexp(scores, axis=-1)
        if greedy:
            token = scores.argmax(axis=-1).astype(jnp.int32)
        else:
            token_keys = jax.vmap(jax.random.fold_in)(keys, plan.start + s.step)
            token = draw(jnp.exp(scores - total[:, None]), jax.vmap(jax.random.uniform)(token_keys))
        return token, jnp.take_along_axis(scores, token[:, None], axis=-1)[:, 0] - total

    def body(s: _State) -> _State:
        token, logp = next_token(s)
        in_recent = jnp.broadcast_to(jnp.arange(interval) <= s.step, (slots, interval))

        def attention(q, k, v, of_layer):
            kept, recent = of_layer
            own_k, own_v, prompt_k, prompt_v = (x[:n] for x, n in zip(kept, used, strict=True))
            at = (0, 0, s.step, 0)
            k, v = (
                jax.lax.dynamic_update_slice(to, x[:, :, None], at)
                for to, x in zip(recent, (k, v), strict=True)
            )
            parts = [
                attend(q[:, None], k, v, in_recent),
                take(attend(q[plan.own_slot][:, None], own_k, own_v, in_own), plan.own_table),
                take(attend(q[plan.members], prompt_k, prompt_v, in_prompt), plan.prompt_table),
            ]
            return join(parts).astype(q.dtype), (k, v)

        positions = plan.prompt_length + plan.start + s.step
        inputs = list(zip(kept, s.recent, strict=True)) if unroll else (kept, s.recent)
        hidden, recent = model.decode(token, positions, attention, inputs, layers)
        ends = s.active & jnp.isin(token, options.eos_ids)
        count = s.decoded.counts + s.active
        return _State(
            s.step + 1,
            hidden,
            s.active & ~ends & (plan.start + count < plan.limit),
            recent,
            Decoded(
                s.decoded.tokens.at[:, s.step].set(token),
                s.decoded.logprobs.at[:, s.step].set(logp),
                count,
                s.decoded.stopped | ends,
            ),
        )

    none = Decoded(
        jnp.zeros((slots, interval), jnp.int32),
        jnp.zeros((slots, interval), jnp.float32),
        jnp.zeros(slots, jnp.int32),
        jnp.zeros(slots, bool),
    )
    start = _State(jnp.int32(0), hidden, plan.active, recent, none)
    state = jax.lax.while_loop(lambda s: (s.step < interval) & s.active.any(), body, start)
    if not unroll:
        state = state._replace(recent=list(zip(*state.recent, strict=True)))
    return state


def _by_layer(stacked: Any, count: int) -> list[Any]:
    return [jax.tree.map(operator.itemgetter(i), stacked) for i in range(count)]


def _write(to: jax.Array, recent: list[jax.Array], plan: Plan) -> jax.Array:
    """to [layers, blocks, kv_heads, BLOCK, head_dim] with each slot's part of `recent`."""
    stacked = jnp.stack(recent)

    def one_slot(i, to):
        at = (0, plan.write_block[i], 0, plan.write_offset[i], 0)
        return jax.lax.dynamic_update_slice(to, stacked[:, i][:, None], at)

    return jax.lax.fori_loop(0, stacked.shape[1], one_slot, to)
