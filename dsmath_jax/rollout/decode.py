"""The compiled programs of generation: reading prompts, and decoding an interval of tokens.

A row that decodes is a slot; which blocks of the cache are whose stands in a `Plan` that the host
makes anew for each interval (`slots.py`), so that a sample which ended gives its slot and its
blocks to the next. While an interval decodes, the blocks are only read: its own tokens go to a
small buffer of each slot, written into the blocks at its end.

Over a mesh each device (or group of devices of axis tensor) has slots and blocks of its own, and
its part of the plan counts from zero.
"""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from dsmath_jax.models.transformer import Transformer, logits
from dsmath_jax.rollout import gpu_attention
from dsmath_jax.rollout.block_attention import attend, join, take
from dsmath_jax.rollout.cache import (
    BLOCKS,
    CACHE,
    EVERYWHERE,
    ROWS,
    Cache,
    on_each_shard,
    store,
    whole_rows,
)
from dsmath_jax.rollout.draw import draw, keep_likely
from dsmath_jax.rollout.slots import BLOCK, Plan


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
    top_k: Any
    top_p: Any


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
        def put(parts, x):
            layers, prompts, length, heads, head_dim = x.shape
            x = x.reshape(layers, prompts * length // BLOCK, BLOCK, heads, head_dim).swapaxes(2, 3)
            each = layers // len(parts)
            new = []
            for i, part in enumerate(parts):
                kept = store(x[i * each : (i + 1) * each], part.values.dtype)
                new.append(
                    jax.tree.map(
                        lambda to, x: to.at[:, blocks.reshape(-1)].set(x, mode="drop"), part, kept
                    )
                )
            return new

        return cache._replace(
            prompt_k=put(cache.prompt_k, k),
            prompt_v=put(cache.prompt_v, v),
            prompt_hidden=cache.prompt_hidden.at[rows].set(hidden, mode="drop"),
        )

    read = nnx.merge(graph, params).prefill(tokens, lengths)
    each = on_each_shard(write, (CACHE, ROWS, BLOCKS, BLOCKS, ROWS, ROWS), CACHE)
    return each(cache, *read, rows, blocks)


@functools.partial(jax.jit, static_argnums=(0, 1, 2), donate_argnums=(5,))
def decode(
    graph, interval: int, draws: str, params, layers, cache: Cache, hidden, plan, options
) -> tuple[Cache, jax.Array, Decoded]:
    """Up to `interval` tokens of each active slot.

    Args:
      interval: divides BLOCK.
      draws: of "all" tokens, of the "likely" ones by top_k and top_p, or the "likeliest" one.
      layers: the layers' parameters, in parts like those of the cache.
      hidden: [slots before, hidden_size], which the last interval returned.
      plan: reads the first blocks of each shard, as many as its arrays have.

    Returns:
      (the cache with the interval's keys and values, hidden [slots, hidden_size], Decoded).
    """

    def one_shard(params, layers, cache, hidden, plan, options):
        model = nnx.merge(graph, params)
        hidden = jnp.concatenate([hidden, cache.prompt_hidden])[plan.source]
        state = _decode(model, interval, draws, layers, cache, hidden, plan, options, in_step)
        keys, values = zip(*state.recent, strict=True)
        at_once = gpu_attention.suits(model.config, jax.sharding.get_abstract_mesh())
        cache = cache._replace(
            own_k=_write(cache.own_k, keys, plan, at_once),
            own_v=_write(cache.own_v, values, plan, at_once),
        )
        return cache, state.hidden, state.decoded

    # Where weights are split, turns exchange activations: all shards must take as many.
    mesh = jax.sharding.get_abstract_mesh()
    in_step = not mesh.empty and 1 < mesh.shape["tensor"] < mesh.size
    each = on_each_shard(
        one_shard, (EVERYWHERE, EVERYWHERE, CACHE, ROWS, ROWS, EVERYWHERE), (CACHE, ROWS, ROWS)
    )
    cache, hidden, decoded = each(params, layers, cache, hidden, plan, options)
    return cache, hidden, jax.tree.map(whole_rows, decoded)


class _State(NamedTuple):
    step: jax.Array
    hidden: jax.Array
    active: jax.Array
    recent: Any  # of each part (keys, values) [layers, slots, kv_heads, interval, head_dim]
    decoded: Decoded


def _decode(
    model: Transformer, interval, draws, layers, cache, hidden, plan, options, in_step: bool
) -> _State:
    c = model.config
    slots, own, prompts = (x.shape[0] for x in (plan.source, plan.own_slot, plan.members))
    head = model.output_head()
    kept = list(zip(cache.own_k, cache.own_v, cache.prompt_k, cache.prompt_v, strict=True))
    used = (own, own, prompts, prompts)
    room = (c.num_layers // len(kept), slots, c.num_kv_heads, interval, c.head_dim)
    recent = [(jnp.zeros(room, model.dtype),) * 2 for _ in kept]
    in_own = jnp.arange(BLOCK) < plan.own_filled[:, None]
    in_prompt = jnp.arange(BLOCK) < plan.prompt_filled[:, None]
    by_example = jax.vmap(jax.random.fold_in, (None, 0))(options.key, plan.example)
    keys = jax.vmap(jax.random.fold_in)(by_example, plan.sample)

    on_gpu = gpu_attention.suits(c, jax.sharding.get_abstract_mesh())

    def in_kernels(step, q, k, v, of_layer):
        (own_k, own_v, prompt_k, prompt_v), recent = of_layer
        filled = plan.prompt_filled
        of_prompts = gpu_attention.attend_prompts(q, prompt_k, prompt_v, plan.members, filled)
        own = gpu_attention.Own(*recent, step, own_k, own_v, plan.own_table, plan.start)
        seats, members = plan.prompt_table, plan.members.shape[1]
        out = gpu_attention.attend_all(q, k, v, own, of_prompts, seats, members)
        return out[:, None], (k[:, :, None], v[:, :, None])

    def next_token(s: _State):
        scores = logits(s.hidden, head) / options.temperature
        total = jax.nn.logsumexp(scores, axis=-1)
        if draws == "likeliest":
            token = scores.argmax(axis=-1).astype(jnp.int32)
        else:
            token_keys = jax.vmap(jax.random.fold_in)(keys, plan.start + s.step)
            probs = jnp.exp(scores - total[:, None])
            if draws == "likely":
                probs = keep_likely(probs, options.top_k, options.top_p)
            token = draw(probs, jax.vmap(jax.random.uniform)(token_keys))
        return token, jnp.take_along_axis(scores, token[:, None], axis=-1)[:, 0] - total

    def body(s: _State) -> _State:
        token, logp = next_token(s)
        in_recent = jnp.broadcast_to(jnp.arange(interval) <= s.step, (slots, interval))

        def attention(q, k, v, of_layer):
            if on_gpu:
                return in_kernels(s.step, q[:, 0], k[:, 0], v[:, 0], of_layer)
            kept, recent = of_layer
            own_k, own_v, prompt_k, prompt_v = (
                jax.tree.map(lambda x, n=n: x[:n], x) for x, n in zip(kept, used, strict=True)
            )
            at = (0, 0, s.step, 0)
            k, v = (
                jax.lax.dynamic_update_slice(to, x.swapaxes(1, 2), at)
                for to, x in zip(recent, (k, v), strict=True)
            )
            parts = [
                attend(q, store(k, k.dtype), store(v, v.dtype), in_recent),
                take(attend(q[plan.own_slot], own_k, own_v, in_own), plan.own_table),
                take(attend(q[plan.members, 0], prompt_k, prompt_v, in_prompt), plan.prompt_table),
            ]
            return join(parts).astype(q.dtype)[:, None], (k, v)

        positions = plan.prompt_length + plan.start + s.step
        inputs = list(zip(kept, s.recent, strict=True))
        hidden, recent = model.read(token[:, None], positions[:, None], attention, inputs, layers)
        if on_gpu:  # in place, after the layers
            at = (0, 0, 0, s.step, 0)
            recent = jax.tree.map(
                lambda to, x: jax.lax.dynamic_update_slice(to, x, at), s.recent, recent
            )
        ends = s.active & jnp.isin(token, options.eos_ids)
        count = s.decoded.counts + s.active
        return _State(
            s.step + 1,
            hidden[:, 0],
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
    return jax.lax.while_loop(
        lambda s: (s.step < interval) & (in_step | s.active.any()), body, start
    )


def _write(parts: list[Any], recent: tuple[jax.Array, ...], plan: Plan, at_once: bool) -> list[Any]:
    """Each part's blocks with what each slot has in `recent`, as in _State; `at_once`: not in a
    loop over slots, of which a GPU's host starts each turn."""

    def one_part(to, recent):
        new = store(recent, to.values.dtype)
        if at_once:
            return jax.tree.map(lambda to, x: _scatter(to, x, plan), to, new)

        def one_slot(i, to):
            at = (0, plan.write_block[i], 0, plan.write_offset[i], 0)
            return jax.tree.map(
                lambda to, x: jax.lax.dynamic_update_slice(to, x[:, i][:, None], at[: to.ndim]),
                to,
                new,
            )

        return jax.lax.fori_loop(0, recent.shape[1], one_slot, to)

    return [one_part(to, x) for to, x in zip(parts, recent, strict=True)]


def _scatter(to: jax.Array, new: jax.Array, plan: Plan) -> jax.Array:
    """to [layers, blocks, kv_heads, BLOCK, ..] with new [layers, slots, kv_heads, interval, ..]."""
    layers, blocks, heads, _, *rest = to.shape
    interval = new.shape[3]
    parts = to.reshape(layers, blocks, heads, BLOCK // interval, interval, *rest)
    # Slots without a sample write nowhere, so that no two write to one place.
    block = jnp.where(plan.active, plan.write_block, blocks)
    at = parts.at[:, block, :, plan.write_offset // interval]
    return at.set(jnp.moveaxis(new, 1, 0), mode="drop", unique_indices=True).reshape(to.shape)
