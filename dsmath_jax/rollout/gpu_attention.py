"""Attention of new tokens to keys and values in blocks on a GPU: two kernels in Pallas' Triton, in
place of `block_attention`'s many, which also read whatever blocks the cache has room for."""

from __future__ import annotations

import functools
import warnings
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.sharding import AbstractMesh, Mesh

with warnings.catch_warnings():  # JAX 0.12 calls it deprecated in favour of a package of its own
    warnings.simplefilter("ignore", DeprecationWarning)
    from jax.experimental.pallas import triton

from dsmath_jax.models.attention import platform
from dsmath_jax.models.chunked_attention import MASKED
from dsmath_jax.models.config import ModelConfig
from dsmath_jax.rollout.block_attention import Partial
from dsmath_jax.rollout.cache import Stored
from dsmath_jax.rollout.slots import BLOCK

ROWS = 16  # queries of one product, the least that tensor cores take
PROMPT_WARPS, ALL_WARPS = 4, 1  # of a program: the fastest of 1, 2 and 4 on an H200
ANYWHERE = pl.BlockSpec(memory_space=pl.ANY)


def suits(config: ModelConfig, mesh: Mesh | AbstractMesh | None) -> bool:
    """Whether the kernels run on a mesh: on GPUs that each have all heads, whose size they take."""
    if mesh is None or mesh.empty:
        on_gpu, parts = jax.default_backend() == "gpu", 1
    else:
        abstract = mesh.abstract_mesh if isinstance(mesh, Mesh) else mesh
        on_gpu, parts = platform(abstract) == "gpu", mesh.shape["tensor"]
    return on_gpu and parts == 1 and config.head_dim in (16, 32, 64, 128, 256)


class Own(NamedTuple):
    """What slots have decoded: keys and values of a layer, of their last tokens, of which the first
    `step` count, [slots, kv_heads, interval, head_dim], and in blocks [blocks, kv_heads, BLOCK,
    head_dim]; each slot's blocks in order [slots, n], which hold `filled` [slots] tokens."""

    recent_k: jax.Array
    recent_v: jax.Array
    step: jax.Array
    k: Stored
    v: Stored
    table: jax.Array
    filled: jax.Array


def attend_prompts(
    q: jax.Array,
    k: Stored,
    v: Stored,
    members: jax.Array,
    filled: jax.Array,
    interpret: bool = False,
) -> Partial:
    """Attention of the slots that share each block of a prompt, parts [blocks, rows, heads, ..] of
    which those of blocks without tokens are undefined. `rows`: those of members, up to a multiple
    of ROWS.

    Args:
      q: [slots, heads, head_dim].
      k, v: of one layer, [blocks, kv_heads, BLOCK, head_dim].
      members: [blocks, rows] slots.
      filled: [blocks] tokens in each.
    """
    heads, head_dim = q.shape[1:]
    blocks, rows = members.shape
    rows = pl.cdiv(rows, ROWS) * ROWS
    members = jnp.pad(members, ((0, 0), (0, rows - members.shape[1])))
    numbers: Any = jax.ShapeDtypeStruct((blocks, rows, heads), jnp.float32)
    vectors: Any = jax.ShapeDtypeStruct((blocks, rows, heads, head_dim), jnp.float32)
    results = Partial(vectors, numbers, numbers)
    kernel = functools.partial(_prompts, heads // k.values.shape[1])
    return _call(
        kernel,
        (heads, rows // ROWS, blocks),
        (q, k, v, members, filled),
        results,
        PROMPT_WARPS,
        interpret,
    )


def attend_all(
    q: jax.Array,
    new_k: jax.Array,
    new_v: jax.Array,
    own: Own,
    of_prompts: Partial,
    seats: jax.Array,
    members: int,
    interpret: bool = False,
) -> jax.Array:
    """Attention [slots, heads, head_dim] of each slot's new token to itself, to what the slot has
    decoded, and to its prompt.

    Args:
      q: [slots, heads, head_dim]; new_k, new_v: [slots, kv_heads, head_dim].
      of_prompts: from `attend_prompts`.
      seats: [slots, n], where the slot is in `members` numbers of each block; beyond: nowhere.
    """
    slots, heads, _ = q.shape
    kernel = functools.partial(_all, heads // new_k.shape[1], members)
    own = own._replace(step=own.step.reshape(1))
    parts = (seats < of_prompts.peak.shape[0] * members).sum(axis=1, dtype=jnp.int32)
    arguments = (q, new_k, new_v, own, of_prompts, seats, parts)
    out = jax.ShapeDtypeStruct(q.shape, q.dtype)
    return _call(kernel, (heads, slots), arguments, out, ALL_WARPS, interpret)


def _call(kernel, grid, arguments, results, warps: int, interpret: bool):
    """`kernel` gets trees of references to whole arrays, structured as arguments and results."""
    given, structure = jax.tree.flatten(arguments)
    wanted, of_results = jax.tree.flatten(results)

    def flat(*refs):
        taken = jax.tree.unflatten(structure, refs[: len(given)])
        kernel(*taken, jax.tree.unflatten(of_results, refs[len(given) :]))

    out = pl.pallas_call(
        flat,
        out_shape=wanted,
        grid=grid,
        in_specs=[ANYWHERE] * len(given),
        out_specs=[ANYWHERE] * len(wanted),
        compiler_params=triton.CompilerParams(num_warps=warps, num_stages=2),
        interpret=interpret,
        name=kernel.func.__name__.strip("_"),
    )(*given)
    return jax.tree.unflatten(of_results, out)


_dot = functools.partial(triton.dot, allow_tf32=False)


def _prompts(group, q, k, v, members, filled, results):
    """ROWS queries of one head and one block."""
    head, chunk, block = (pl.program_id(i) for i in range(3))
    kv_head, at = head // group, pl.ds(chunk * ROWS, ROWS)

    @pl.when(filled[block] > 0)
    def _():
        queries = q[members[block, at], head, :]
        keys, values = k.values[block, kv_head, :, :], v.values[block, kv_head, :, :]
        scores = _dot(queries, keys.astype(queries.dtype).T) * q.shape[-1] ** -0.5
        if k.scale is not None:
            scores *= k.scale[block, kv_head, :][None]
        allowed = (jnp.arange(BLOCK) < filled[block])[None]
        scores = jnp.where(allowed, scores, MASKED)
        peak = scores.max(axis=1)
        weights = jnp.where(allowed, jnp.exp(scores - peak[:, None]), 0.0)
        results.peak[block, at, head] = peak
        results.total[block, at, head] = weights.sum(axis=1)
        if v.scale is not None:
            weights *= v.scale[block, kv_head, :][None]
        weights = weights.astype(queries.dtype)
        results.out[block, at, head, :] = _dot(weights, values.astype(queries.dtype))


def _all(group, members, q, new_k, new_v, own, of_prompts, seats, parts, result):
    """One head of one slot: its new token, its last ones, its blocks, its prompt's parts."""
    head, slot = pl.program_id(0), pl.program_id(1)
    kv_head = head // group
    query = q[slot, head, :].astype(jnp.float32) * q.shape[-1] ** -0.5

    def add(part: Partial, state: Partial) -> Partial:
        peak = jnp.maximum(part.peak, state.peak)
        a, b = jnp.exp(part.peak - peak), jnp.exp(state.peak - peak)
        return Partial(a * part.out + b * state.out, peak, a * part.total + b * state.total)

    def read(keys, values, scales, allowed, state: Partial) -> Partial:
        scores = (keys.astype(jnp.float32) * query[None]).sum(axis=1)
        if scales is not None:
            scores *= scales[0]
        scores = jnp.where(allowed, scores, MASKED)
        peak = scores.max()
        weights = jnp.where(allowed, jnp.exp(scores - peak), 0.0)
        total = weights.sum()
        if scales is not None:
            weights *= scales[1]
        out = (weights[:, None] * values.astype(jnp.float32)).sum(axis=0)
        return add(Partial(out, peak, total), state)

    def of_block(i, state):
        at = own.table[slot, i], kv_head
        scales = None
        if own.k.scale is not None:
            scales = own.k.scale[*at, :], own.v.scale[*at, :]
        allowed = i * BLOCK + jnp.arange(BLOCK) < own.filled[slot]
        return read(own.k.values[*at, :, :], own.v.values[*at, :, :], scales, allowed, state)

    def of_prompt(i, state):
        seat = seats[slot, i]
        at = seat // members, seat % members, head
        out, peak, total = of_prompts
        return add(Partial(out[*at, :], peak[at], total[at]), state)

    score = (query * new_k[slot, kv_head, :].astype(jnp.float32)).sum()
    state = Partial(new_v[slot, kv_head, :].astype(jnp.float32), score, jnp.float32(1))
    before = jnp.arange(own.recent_k.shape[2]) < own.step[0]
    recent = own.recent_k[slot, kv_head, :, :], own.recent_v[slot, kv_head, :, :]
    state = read(*recent, None, before, state)
    state = jax.lax.fori_loop(0, pl.cdiv(own.filled[slot], BLOCK), of_block, state)
    state = jax.lax.fori_loop(0, parts[slot], of_prompt, state)
    result[slot, head, :] = (state.out / state.total).astype(result.dtype)
