"""Log-probabilities of given completions after prompts that they share."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from dsmath_jax.losses import token_logprobs
from dsmath_jax.models.chunked_attention import chunked_attention
from dsmath_jax.rollout.cache import inside, shards_of, whole_rows
from dsmath_jax.rollout.call import Engine
from dsmath_jax.rollout.host_arrays import agreed, get, hosts_of, put
from dsmath_jax.rollout.slots import BLOCK, power_of_two


def scores(
    engine: Engine,
    params: Any,
    prompts: Sequence[Sequence[int]],
    completions: Sequence[Sequence[Sequence[int]]],
    shape: tuple[int, int],
    each: int,
    temperature: float,
) -> np.ndarray:
    """[prompts, *shape] of up to shape[0] completions of shape[1] tokens of each: `Sampler.score`.
    No host has more than `each` prompts. Questions are taken together up to `max_rows`
    completions."""
    group, longest = shape
    out = np.zeros((len(prompts), *shape), np.float32)
    hosts = hosts_of(engine.mesh)
    if not out.size and hosts == 1:
        return out
    shards = shards_of(engine.mesh) // hosts
    count = min(-(-each // shards), max(1, engine.max_rows // (group * shards))) * shards
    length = _bucket(longest)
    (width,) = agreed(engine.mesh, [_bucket(max(map(len, prompts), default=1))])
    for first in range(0, each, count):
        tokens = np.full((count, width), engine.pad_id, np.int32)
        lengths = np.ones(count, np.int32)
        given = np.full((count, group, length), engine.pad_id, np.int32)
        given_lengths = np.zeros((count, group), np.int32)
        for n, (p, of_prompt) in enumerate(
            zip(prompts[first : first + count], completions[first : first + count], strict=True)
        ):
            tokens[n, : len(p)], lengths[n] = p, len(p)
            for g, c in enumerate(of_prompt):
                given[n, g, : len(c)], given_lengths[n, g] = c, len(c)
        arrays = put(engine.mesh, (tokens, lengths, given, given_lengths))
        with inside(engine.mesh):
            some = _score(engine.graph, params, *arrays, np.float32(temperature))
        out[first : first + count] = get(some)[: max(0, len(prompts) - first), :, :longest]
    return out


@functools.partial(jax.jit, static_argnums=(0,))
def _score(graph, params, prompts, lengths, completions, completion_lengths, temperature):
    """[questions, group, length] float32 of prompts [questions, prompt_length] and completions
    [questions, group, length], padded on the right."""
    model = nnx.merge(graph, params)
    questions, group, length = completions.shape
    width = prompts.shape[1]

    def of_group(x):
        return jnp.repeat(x, group, axis=0)

    last, k, v = model.prefill(prompts, lengths)
    tokens = completions.reshape(-1, length)
    segments = (jnp.arange(length) < completion_lengths.reshape(-1, 1)).astype(jnp.int32)
    in_prompt = (jnp.arange(width) < lengths[:, None]).astype(jnp.int32)
    all_segments = jnp.concatenate([of_group(in_prompt), segments], axis=1)

    def attention(q, k, v, of_prompt):
        keys, values = (
            jnp.concatenate([of_group(x), y], axis=1)
            for x, y in zip(of_prompt, (k, v), strict=True)
        )
        return chunked_attention(q, keys, values, segments, all_segments, first=width), None

    positions = of_group(lengths)[:, None] + jnp.arange(length)
    hidden, _ = model.read(tokens, positions, attention, [(k, v)], [model.stacked()])
    hidden = jnp.concatenate([of_group(last)[:, None], hidden[:, :-1]], axis=1)
    logp = token_logprobs(hidden, model.output_head(), tokens, temperature)
    return whole_rows((logp * segments).reshape(questions, group, length))


def _bucket(longest: int) -> int:
    return power_of_two(-(-longest // BLOCK)) * BLOCK
