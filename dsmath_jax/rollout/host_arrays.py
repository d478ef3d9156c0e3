"""Arrays of a generation mesh: of one host's devices; or of all hosts', of which each one knows its
own rows alone, and all call the same programs in the same order."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from dsmath_jax.rollout.cache import SHARDS, sharding, shards_of


def hosts_of(mesh: Mesh | None) -> int:
    """How many processes share the mesh."""
    return 1 if mesh is None else len({d.process_index for d in mesh.devices.flat})


def put(mesh: Mesh | None, arrays: Any) -> Any:
    """Arrays of this host's rows, as parts of arrays whose rows are split over SHARDS."""
    rows = sharding(mesh, SHARDS)
    if mesh is None or not mesh.is_multi_process:
        return jax.device_put(arrays, rows)
    return jax.tree.map(lambda x: jax.make_array_from_process_local_data(rows, x), arrays)


def get(arrays: Any) -> Any:
    """This host's rows of arrays whose rows are split over SHARDS."""

    def begun(x: jax.Array) -> dict[int, jax.Array]:
        assert all(shard.data.shape[1:] == x.shape[1:] for shard in x.addressable_shards)
        parts = {shard.index[0].start or 0: shard.data for shard in x.addressable_shards}
        for part in parts.values():
            part.copy_to_host_async()
        return parts

    leaves, structure = jax.tree.flatten(arrays)
    parts = [begun(x) for x in leaves]
    rows = [np.concatenate([np.asarray(of[start]) for start in sorted(of)]) for of in parts]
    return jax.tree.unflatten(structure, rows)


def agreed(mesh: Mesh | None, numbers: list[int]) -> list[int]:
    """Of each number the largest that any host of the mesh has; all call this in the same order."""
    if mesh is None or not mesh.is_multi_process:
        return numbers
    here = np.tile(np.array(numbers, np.int32), (shards_of(mesh) // hosts_of(mesh), 1))
    return np.asarray(everywhere(mesh, _largest, put(mesh, here))).tolist()


def everywhere(mesh: Mesh | None, function: Callable[..., jax.Array], *arguments: Any) -> jax.Array:
    """A function's result on each device of the mesh."""
    return _compiled(function, sharding(mesh))(*arguments)


@functools.cache
def _compiled(function: Callable[..., jax.Array], where: Any) -> Callable[..., jax.Array]:
    return jax.jit(function, out_shardings=where)


def _largest(x: jax.Array) -> jax.Array:
    return x.max(axis=0)
