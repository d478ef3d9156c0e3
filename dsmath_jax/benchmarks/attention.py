"""Error and speed of the attention backends that run on this machine's device."""

from __future__ import annotations

import statistics
import sys
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from dsmath_jax.data.errors import InputError
from dsmath_jax.models.attention import BACKENDS, causal_attention, reads_prefixes, resolve_backend
from dsmath_jax.models.config import preset
from dsmath_jax.models.flops import causal_pairs
from dsmath_jax.stages import setup

PARITY_ROWS, PARITY_LENGTH = 2, 256
PARTS = ("out", "dq", "dk", "dv")


def run(config: ConfigDict) -> dict[str, Any]:
    """By backend: relative errors on rows of segments, and of segments after prefixes, and the
    time of `config.batch_size` rows of one segment; or why it does not run."""
    if min(config.measure.rounds, config.measure.calls) < 1:
        raise InputError("config.measure.rounds and config.measure.calls must be at least 1")
    mesh = setup.open_mesh(config)
    numbers: dict[str, Any] = {"device": mesh.devices.flat[0].device_kind}
    for backend in BACKENDS[1:]:
        try:
            resolve_backend(backend, mesh.abstract_mesh, config.dtype)
        except ValueError as e:
            print(e, file=sys.stderr)
            continue
        with jax.set_mesh(mesh):
            numbers[backend] = errors(config, backend) | speed(config, backend)
    return numbers


def errors(config: ConfigDict, backend: str) -> dict[str, Any]:
    """|x - reference| / |reference| of the output and the gradients."""
    random = np.random.default_rng(config.seed)
    inputs = _inputs(config, random, PARITY_ROWS, PARITY_LENGTH)
    ids = np.sort(random.integers(0, 12, (PARITY_ROWS, PARITY_LENGTH)), axis=1).astype(np.int32)
    # Every third segment is a prefix that the two after it continue; 0 is padding.
    prefixes = np.where(ids > 0, ids - (ids - 1) % 3, 0)
    found = {}
    for name, rows in {"segments": (ids, None), "prefixes": (ids, prefixes)}.items():
        if rows[1] is not None and not reads_prefixes(backend):
            continue

        def attend(q, k, v, rows=rows):
            return causal_attention(q, k, v, rows[0], backend, prefix_ids=rows[1])

        ours = _with_gradients(attend)
        theirs = _with_gradients(lambda q, k, v, rows=rows: dense(q, k, v, *rows))
        pairs = zip(PARTS, ours(*inputs), theirs(*_in_float32(inputs)), strict=True)
        found[name] = {part: _distance(x, y) for part, x, y in pairs}
    return {"relative_error": found}


def speed(config: ConfigDict, backend: str) -> dict[str, float]:
    """Milliseconds, and FLOP/s that count the causal half of the square (backward: 2.5 times the
    forward's)."""
    random = np.random.default_rng(config.seed)
    *qkv, d_out = _inputs(config, random, config.batch_size, config.length)
    ids = jnp.ones((config.batch_size, config.length), jnp.int32)

    def attend(q, k, v):
        return causal_attention(q, k, v, ids, backend)

    forward = _seconds(jax.jit(attend), config, *qkv)
    both = _seconds(_with_gradients(attend), config, *qkv, d_out)
    heads, head_dim = qkv[0].shape[2:]
    flops = 4 * heads * head_dim * causal_pairs([config.length] * config.batch_size)
    return {
        "forward_ms": 1e3 * forward,
        "backward_ms": 1e3 * (both - forward),
        "forward_flops_per_s": flops / forward,
        "backward_flops_per_s": 2.5 * flops / (both - forward),
    }


def dense(q, k, v, segment_ids, prefix_ids=None):
    """All scores at once, in float32."""
    k, v = (jnp.repeat(x, q.shape[2] // x.shape[2], axis=2) for x in (k, v))
    scores = jnp.einsum("bthd,bshd->bhts", q, k, precision="highest") * q.shape[-1] ** -0.5
    keys = segment_ids[:, None]
    seen = segment_ids[:, :, None] == keys
    if prefix_ids is not None:
        seen |= prefix_ids[:, :, None] == keys
    seen &= np.tri(q.shape[1], dtype=bool)
    weights = jax.nn.softmax(jnp.where(seen[:, None], scores, -jnp.inf))
    return jnp.einsum("bhts,bshd->bthd", weights, v, precision="highest")


def _inputs(config: ConfigDict, random: np.random.Generator, rows: int, length: int):
    """q, k, v and the gradient of the output."""
    c = preset(config.model, **config.model_changes)
    return [
        jnp.array(random.normal(size=(rows, length, heads, c.head_dim)), config.dtype)
        for heads in (c.num_heads, c.num_kv_heads, c.num_kv_heads, c.num_heads)
    ]


def _in_float32(arrays):
    return [x.astype(jnp.float32) for x in arrays]


def _with_gradients(attend):
    def run(q, k, v, d_out):
        out, pull = jax.vjp(attend, q, k, v)
        return out, *pull(d_out)

    return jax.jit(run)


def _distance(x, reference) -> float:
    x, reference = (np.asarray(a, np.float64) for a in (x, reference))
    return float(np.linalg.norm(x - reference) / np.linalg.norm(reference))


def _seconds(call, config: ConfigDict, *args) -> float:
    """Of a call: the median of the rounds, after one that compiles."""
    jax.block_until_ready(call(*args))
    times = []
    for _ in range(config.measure.rounds):
        start = time.perf_counter()
        jax.block_until_ready([call(*args) for _ in range(config.measure.calls)][-1])
        times.append((time.perf_counter() - start) / config.measure.calls)
    return statistics.median(times)
