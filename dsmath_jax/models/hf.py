"""Hugging Face checkpoints to parameters on a mesh, and back.

Both directions go tensor by tensor: beside the parameters themselves, memory holds one parameter
at most when loading, and one block of 64 MB when saving.
"""

from __future__ import annotations

import contextlib
import functools
import json
import math
import os
import pathlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh, NamedSharding, PartitionSpec, Sharding

from dsmath_jax.models.config import ModelConfig
from dsmath_jax.models.hf_files import hf_names, hf_shape, open_hf
from dsmath_jax.models.new_directory import new_directory
from dsmath_jax.models.parameters import ParamSpec, flat_specs
from dsmath_jax.models.safetensors_io import SafetensorsWriter
from dsmath_jax.models.sharding import param_sharding
from dsmath_jax.models.tensor_file import CHUNK_BYTES, DTYPES, StoredTensor, copy_block, empty
from dsmath_jax.models.transformer import Transformer

Progress = Callable[[int], None]


def load_hf(
    directory: str | os.PathLike,
    mesh: Mesh | None = None,
    dtype: Any = None,
    *,
    progress: Progress | None = None,
) -> Transformer:
    """Reads a Llama-family checkpoint: config.json with safetensors or torch .bin files.

    Args:
      directory: of the checkpoint.
      mesh: where the parameters go, by `sharding.RULES`; each process reads the slices that its own
        devices hold. By default all go to the default device.
      dtype: of the parameters and of the computation; by default what the files have.
      progress: called with the number of bytes read since the last call.

    Returns:
      The model. Its vocabulary is the embedding's, where that disagrees with config.json.

    Raises:
      FileNotFoundError, ValueError: a file or tensor is missing, surplus, misshapen, truncated or
        of another type; nothing has been read then.
    """
    sharding_of = None if mesh is None else functools.partial(param_sharding, mesh=mesh)
    params, config = load_hf_params(directory, sharding_of, dtype, progress=progress)
    return Transformer(config, params=params, dtype=params["embed"].dtype)


def load_hf_params(
    directory: str | os.PathLike,
    sharding_of: Callable[[ParamSpec], Sharding] | None = None,
    dtype: Any = None,
    *,
    progress: Progress | None = None,
) -> tuple[dict[str, Any], ModelConfig]:
    """The same, as (parameters nested as `param_specs`, ModelConfig), and with any sharding."""
    checkpoint = open_hf(pathlib.Path(directory))
    specs = flat_specs(checkpoint.config)
    params: dict[str, Any] = {}
    # Largest first: what a parameter needs on the host while it is placed is then never on top of
    # all the others.
    for name in sorted(specs, key=lambda n: -specs[n].size):
        stored = [checkpoint.tensors[t] for t in hf_names(specs[name], checkpoint.config)]
        value = _place(specs[name], stored, sharding_of, dtype, progress)
        *outer, last = name.split(".")
        functools.reduce(lambda d, k: d.setdefault(k, {}), outer, params)[last] = value
    return params, checkpoint.config


def _place(
    spec: ParamSpec,
    stored: list[StoredTensor],
    sharding_of: Callable[[ParamSpec], Sharding] | None,
    dtype: Any,
    progress: Progress | None,
) -> jax.Array:
    if dtype is None:
        dtype = functools.reduce(jnp.promote_types, (t.numpy_dtype for t in stored))
    dtype = jnp.dtype(dtype)
    if sharding_of is None:
        everything = tuple(slice(0, n) for n in spec.shape)
        return jax.device_put(read_slice(spec, stored, everything, dtype, progress))
    seen: dict[tuple, np.ndarray] = {}  # devices that hold the same slice share one read

    def read(index: Any) -> np.ndarray:
        key = tuple(s.indices(n)[:2] for s, n in zip(index, spec.shape, strict=True))
        if key not in seen:
            seen[key] = read_slice(spec, stored, tuple(slice(*k) for k in key), dtype, progress)
        return seen[key]

    return jax.make_array_from_callback(spec.shape, sharding_of(spec), read)


def read_slice(
    spec: ParamSpec,
    stored: list[StoredTensor],
    index: tuple[slice, ...],
    dtype: np.dtype,
    progress: Progress | None = None,
) -> np.ndarray:
    """The slice `index` (start and stop given) of a parameter, from its tensors, one a layer."""
    out = empty(tuple(s.stop - s.start for s in index), dtype)
    inner = index[1:] if spec.stacked else index
    of_layers = zip(stored[index[0]], out, strict=True) if spec.stacked else [(stored[0], out)]
    for tensor, layer in of_layers:
        if spec.transpose:
            tensor.read(layer.T, inner[::-1], progress)
        else:
            tensor.read(layer, inner, progress)
    return out


def save_hf(
    model: Transformer,
    directory: str | os.PathLike,
    *,
    max_shard_bytes: int = 5_000_000_000,
    dtype: Any = None,
    extra_config: Mapping[str, Any] | None = None,
    progress: Progress | None = None,
) -> None:
    """Writes a model as transformers reads it: config.json and safetensors.

    With several processes all must call it; the first one writes.

    Args:
      model: its parameters may lie on any mesh.
      directory: a new one; it appears when all is written.
      max_shard_bytes: where one file ends and the next begins.
      dtype: of the written tensors; by default the parameters'.
      extra_config: entries of config.json that are not the model's shape, as `eos_token_id`.
      progress: called with the number of bytes written since the last call.

    Raises:
      FileExistsError: the directory is there and not empty.
    """
    with new_directory(directory) as partial:
        write_hf(
            nnx.to_pure_dict(nnx.state(model)),
            model.config,
            partial,
            max_shard_bytes=max_shard_bytes,
            dtype=dtype,
            extra_config=extra_config,
            progress=progress,
        )


def write_hf(
    params: dict[str, Any],
    config: ModelConfig,
    directory: pathlib.Path,
    *,
    max_shard_bytes: int = 5_000_000_000,
    dtype: Any = None,
    extra_config: Mapping[str, Any] | None = None,
    progress: Progress | None = None,
) -> None:
    """Writes config.json and the shards into a directory that exists; see `save_hf`."""
    tensors = _tensors(params, config, dtype)
    shards = _split(tensors, max_shard_bytes)
    single = len(shards) == 1
    weight_map: dict[str, str] = {}
    for i, names in enumerate(shards, 1):
        file = "model.safetensors" if single else f"model-{i:05d}-of-{len(shards):05d}.safetensors"
        weight_map |= dict.fromkeys(names, file)
        entries = [(n, tensors[n].dtype, tensors[n].shape) for n in names]
        with SafetensorsWriter(directory / file, entries) if _writes() else _NoWriter() as writer:
            for name in names:
                for block in tensors[name].blocks():
                    writer.write(block.reshape(-1).view(np.uint8).data)
                    if progress is not None:
                        progress(block.nbytes)
    if not _writes():
        return
    if not single:
        total = sum(t.nbytes for t in tensors.values())
        index = {"metadata": {"total_size": total}, "weight_map": weight_map}
        (directory / "model.safetensors.index.json").write_text(json.dumps(index, indent=2) + "\n")
    stored = tensors["model.embed_tokens.weight"].dtype
    # Without these transformers takes Llama's own ids, 1 and 2.
    ids = dict.fromkeys(("bos_token_id", "eos_token_id"))
    hf = ids | config.to_hf() | {"torch_dtype": stored, "dtype": stored} | dict(extra_config or {})
    (directory / "config.json").write_text(json.dumps(hf, indent=2) + "\n")


def _writes() -> bool:
    return jax.process_index() == 0


class _NoWriter(contextlib.nullcontext):
    """What the other processes write with: they only take part in gathering."""

    def __enter__(self) -> _NoWriter:
        return self

    def write(self, data: memoryview) -> None:
        pass


class _Tensor:
    """One tensor to be written: a parameter, or one layer of it."""

    def __init__(self, spec: ParamSpec, value: jax.Array, layer: int, dtype: Any):
        self.spec, self.value, self.layer = spec, value, layer
        self.shape = hf_shape(spec)
        self.dtype = jnp.dtype(dtype or value.dtype).name
        if self.dtype not in DTYPES:
            raise ValueError(f"cannot write dtype {self.dtype}; choose one of {', '.join(DTYPES)}")
        self.nbytes = math.prod(self.shape) * DTYPES[self.dtype].itemsize

    def blocks(self) -> Iterator[np.ndarray]:
        """The tensor's rows, at most 64 MB at a time, on the host."""
        length = self.shape[0]
        rows = max(1, min(length, CHUNK_BYTES // max(1, self.nbytes // length)))
        for start in range(0, length, rows):
            out = np.empty((min(rows, length - start), *self.shape[1:]), DTYPES[self.dtype])
            index = [slice(start, start + len(out)), *(slice(0, n) for n in self.shape[1:])]
            as_stored = out
            if self.spec.transpose:
                index, as_stored = index[::-1], out.T
            if self.spec.stacked:
                index, as_stored = [slice(self.layer, self.layer + 1), *index], as_stored[None]
            _fetch(self.value, index, as_stored)
            yield out


def _fetch(value: jax.Array, index: list[slice], out: np.ndarray) -> None:
    """Copies the slice `index` from the devices to the host."""
    if not value.is_fully_addressable:
        assert isinstance(value.sharding, NamedSharding)
        starts, sizes = [s.start for s in index], tuple(s.stop - s.start for s in index)
        take = _gather_fn(NamedSharding(value.sharding.mesh, PartitionSpec()))
        _copy(out, np.asarray(take(value, starts, sizes)))
        return
    # Shard by shard: slicing across them may gather the whole array on each device.
    for shard in value.addressable_shards:
        held = [s.indices(n)[:2] for s, n in zip(shard.index, value.shape, strict=True)]
        both = [
            slice(max(a, s.start), min(b, s.stop)) for (a, b), s in zip(held, index, strict=True)
        ]
        if shard.replica_id != 0 or any(s.start >= s.stop for s in both):
            continue
        of_shard = tuple(
            slice(s.start - a, s.stop - a) for (a, _), s in zip(held, both, strict=True)
        )
        of_out = tuple(
            slice(b.start - s.start, b.stop - s.start) for b, s in zip(both, index, strict=True)
        )
        on_cpu = shard.device.platform == "cpu"
        piece = np.asarray(shard.data)[of_shard] if on_cpu else np.asarray(shard.data[of_shard])
        _copy(out[of_out], piece)


def _copy(out: np.ndarray, piece: np.ndarray) -> None:
    if out.ndim == 3:
        out, piece = out[0], piece[0]
    copy_block(out, piece)


@functools.cache
def _gather_fn(everywhere: Sharding) -> Callable[..., jax.Array]:
    return jax.jit(jax.lax.dynamic_slice, static_argnums=2, out_shardings=everywhere)


def _tensors(params: dict[str, Any], config: ModelConfig, dtype: Any) -> dict[str, _Tensor]:
    """By Hugging Face name: the embedding, layer after layer, the norm, the head."""
    before: dict[str, _Tensor] = {}
    inside: dict[str, _Tensor] = {}
    after: dict[str, _Tensor] = {}
    for name, spec in flat_specs(config).items():
        value: Any = functools.reduce(lambda d, k: d[k], name.split("."), params)
        for layer, hf_name in enumerate(hf_names(spec, config)):
            group = inside if spec.stacked else before if name == "embed" else after
            group[hf_name] = _Tensor(spec, value, layer, dtype)
    in_order = sorted(inside, key=lambda n: inside[n].layer)  # stable: the table's order in a layer
    return before | {n: inside[n] for n in in_order} | after


def _split(tensors: dict[str, _Tensor], max_bytes: int) -> list[list[str]]:
    shards: list[list[str]] = [[]]
    size = 0
    for name, tensor in tensors.items():
        if shards[-1] and size + tensor.nbytes > max_bytes:
            shards.append([])
            size = 0
        shards[-1].append(name)
        size += tensor.nbytes
    return shards
