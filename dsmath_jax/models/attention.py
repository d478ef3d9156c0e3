"""Attention: causal within segments, by the kernel that suits the device, over a sharded mesh; and
for decoding against a key-value cache."""

from __future__ import annotations

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name
from jax.sharding import AbstractMesh

from dsmath_jax.models import cudnn_attention, flash_gpu, splash
from dsmath_jax.models.chunked_attention import chunked_attention, pad_length
from dsmath_jax.models.sharding import partition_spec

BACKENDS = ("auto", "splash", "cudnn", "flash", "chunked")
# What runs on a platform's devices beside "chunked"; "auto" is the first that can.
FOR_PLATFORM = {"tpu": ("splash",), "gpu": ("cudnn", "flash")}


def causal_attention(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    segment_ids: jax.Array,
    backend: str = "auto",
    interpret: bool = False,
    prefix_ids: jax.Array | None = None,
) -> jax.Array:
    """Each token attends to itself and earlier tokens of its own segment, and of its prefix.

    Inside `jax.set_mesh` every device computes its part: rows by mesh axes data and fsdp, heads by
    tensor, queries by sequence (its keys and values are gathered, its gradients scattered back). No
    backend makes an array [queries, length]. Names for rematerialisation policies:
    "attention_residuals" is all that the backward pass needs beside q, k and v (the output and the
    logsumexp of the scores), "attention_out" what this function returns.

    Args:
      q: [batch, length, heads, head_dim].
      k, v: [batch, length, kv_heads, head_dim]; kv_heads divides heads.
      segment_ids: [batch, length] int; a segment's tokens lie together.
      backend: "splash" (Pallas, TPU), "cudnn" (GPU from Hopper on, 16 bits), "flash" (Pallas, any
        GPU), "chunked" (plain XLA, any device), or "auto": what suits the devices of the mesh in
        `jax.set_mesh`, else of this machine.
      interpret: run a Pallas kernel without its device, to test it.
      prefix_ids: [batch, length] int, which segment of the row each token's own segment continues:
        several may continue one. Its own id where it continues none. A prefix comes before what
        continues it, and that is numbered from 1 + its id on. Not for "flash".

    Returns:
      [batch, length, heads, head_dim], of q's dtype.

    Raises:
      ValueError: the backend is unknown, or does not run on the mesh.
    """
    mesh = jax.sharding.get_abstract_mesh()
    backend = resolve_backend(backend, mesh, q.dtype, q.shape[-1], interpret)
    if prefix_ids is not None and not reads_prefixes(backend):
        raise ValueError("attention='flash' knows no prefixes; choose 'cudnn' or 'chunked'")
    split = not mesh.empty and mesh.size > 1
    length, heads = q.shape[1:3]
    shards = mesh.shape["sequence"] if split else 1
    kernel = None
    if backend == "splash":
        largest = splash.largest_block(q, prefix_ids is not None)
        padded = splash.padded_length(length, shards, largest)
        local_heads = heads // _ways(heads, "tensor", mesh) if split else heads
        kernel = splash.make_kernel(padded, local_heads, shards, largest, interpret)
    elif backend == "flash":
        padded = flash_gpu.padded_length(length)
    else:
        padded = math.ceil(length / shards) * shards
    ids = [segment_ids] if prefix_ids is None else [segment_ids, prefix_ids]
    q, k, v, *ids = (pad_length(x, padded) for x in (q, k, v, *ids))

    def attend(kernel, q, k, v, *ids):
        q_ids, first = ids, 0
        if shards > 1:
            first = jax.lax.axis_index("sequence") * q.shape[1]
            k, v, *ids = (
                jax.lax.all_gather(x, "sequence", axis=1, tiled=True) for x in (k, v, *ids)
            )
        if kernel is not None:
            return splash.splash_attention(kernel, q, k, v, q_ids[0], ids[0], *q_ids[1:], *ids[1:])
        if backend == "cudnn":
            return cudnn_attention.cudnn_attention(q, k, v, *ids)
        if backend == "flash":
            return flash_gpu.flash_attention(q, k, v, *ids, interpret)
        q_prefixes = q_ids[1] if len(q_ids) > 1 else None
        return chunked_attention(q, k, v, q_ids[0], ids[0], first, q_prefixes=q_prefixes)

    if split:
        k, v = (_split_heads(x, heads, mesh) for x in (k, v))
        spec = functools.partial(partition_spec, mesh=mesh)
        q_spec = spec(("batch", "length", "heads", "hidden"), q.shape)
        kv_spec = spec(("batch", "length", "kv_heads", "hidden"), k.shape)
        id_specs = (spec(("batch", "length"), ids[0].shape),) * len(ids)
        kernel_spec = kernel and splash.kernel_specs(kernel, mesh, shards)
        attend = jax.shard_map(
            attend,
            in_specs=(kernel_spec, q_spec, kv_spec, kv_spec, *id_specs),
            out_specs=q_spec,
            check_vma=False,  # kernels do not say over which axes their results vary
        )
    return checkpoint_name(attend(kernel, q, k, v, *ids)[:, :length], "attention_out")


def resolve_backend(
    backend: str, mesh: AbstractMesh, dtype: Any, head_dim: int = 0, interpret: bool = False
) -> str:
    """What "auto" is for the mesh's devices: a program may be compiled for a TPU without having
    one, so the machine's own do not count where a mesh is set. `dtype`, `head_dim` (0: any): of the
    computation and its heads.

    Raises:
      ValueError: the backend is unknown, or does not run on the mesh.
    """
    if backend not in BACKENDS:
        raise ValueError(f"attention={backend!r} is unknown; choose one of {', '.join(BACKENDS)}")
    runs_on = platform(mesh)
    possible = (*FOR_PLATFORM.get(runs_on, ()), "chunked")
    if backend == "auto":
        no_cudnn = possible[0] == "cudnn" and cudnn_attention.refusal(dtype, head_dim)
        backend = possible[1] if no_cudnn else possible[0]
    if backend not in possible and not interpret:
        raise ValueError(f"attention={backend!r} does not run on {runs_on}; choose 'auto'")
    if backend == "cudnn" and (reason := cudnn_attention.refusal(dtype, head_dim)):
        raise ValueError(f"attention='cudnn' {reason}; choose 'auto'")
    if backend in ("cudnn", "flash") and not mesh.empty and mesh.shape["sequence"] > 1:
        raise ValueError(
            f"attention={backend!r} does not split queries; set mesh size sequence=1 or "
            "attention='chunked'"
        )
    return backend


def platform(mesh: AbstractMesh) -> str:
    """Of the mesh's devices, or without one of the default."""
    device = None if mesh.empty else mesh.abstract_device
    return device.platform if device else jax.default_backend()


def reads_prefixes(backend: str) -> bool:
    """Whether a backend, as `resolve_backend` gives it, takes `prefix_ids`."""
    return backend != "flash"


def _ways(size: int, axis: str, mesh: AbstractMesh) -> int:
    """Over how many devices a mesh axis splits a dimension: over all, or if uneven not at all."""
    return mesh.shape[axis] if size % mesh.shape[axis] == 0 else 1


def _split_heads(x: jax.Array, heads: int, mesh: AbstractMesh) -> jax.Array:
    """Repeats heads of keys or values [batch, length, kv_heads, head_dim] that are fewer than mesh
    axis tensor has parts, so that each part of the query heads finds its own beside it."""
    ways = _ways(heads, "tensor", mesh)
    return jnp.repeat(x, math.lcm(x.shape[2], ways) // x.shape[2], axis=2)
