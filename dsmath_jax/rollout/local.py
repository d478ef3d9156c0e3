"""Where weights lie when hosts generate: a whole copy on each host, split over mesh axis tensor,
made from the training layout within one compiled function."""

from __future__ import annotations

import itertools
import math
from typing import Any

import jax
import numpy as np
from jax.sharding import AbstractMesh, AxisType, Mesh, NamedSharding, PartitionSpec

from dsmath_jax.models.config import ModelConfig
from dsmath_jax.models.parameters import param_specs
from dsmath_jax.models.sharding import MESH_AXES, partition_spec
from dsmath_jax.rollout.host_arrays import hosts_of

# `device_kind` in lower case of chips whose compiler (libtpu 0.0.42) takes no program for some of a
# slice's hosts alone: "on platforms with limited ICI routing".
IN_STEP = ("v5 lite", "v5e", "v6 lite", "v6e")


def generation_mesh(mesh: Mesh, tensor: int, process: int | None = None) -> Mesh:
    """Where a process generates: `local_mesh`, or where chips do not allow it, `joint_mesh`."""
    kind = mesh.devices.flat[0].device_kind.lower()
    if hosts_of(mesh) > 1 and any(name in kind for name in IN_STEP):
        return joint_mesh(mesh, tensor)
    return local_mesh(mesh, tensor, process)


def local_mesh(mesh: Mesh, tensor: int, process: int | None = None) -> Mesh:
    """The devices of one process (by default this one), the weights split over `tensor` of them.

    Raises:
      ValueError: no arrangement of the mesh's devices has all parts of the weights on each host.
    """
    process = jax.process_index() if process is None else process
    return _mesh([_rows(mesh, tensor, process)])


def joint_mesh(mesh: Mesh, tensor: int) -> Mesh:
    """Those of all processes, one's after another's along axis data.

    Raises:
      ValueError: as `local_mesh`.
    """
    processes = sorted({d.process_index for d in mesh.devices.flat})
    return _mesh([_rows(mesh, tensor, process) for process in processes])


def _rows(mesh: Mesh, tensor: int, process: int) -> np.ndarray:
    """[copies of the weights, tensor] devices of a process."""
    grid, axes = _within_hosts(mesh, tensor)
    devices = grid.devices.flatten()
    parts = _parts(grid.devices.shape, axes)
    here = np.array([d.process_index == process for d in devices])
    return np.stack([devices[here & (parts == p)] for p in range(tensor)], axis=1)


def _mesh(rows: list[np.ndarray]) -> Mesh:
    devices = np.concatenate(rows)
    auto = (AxisType.Auto,) * len(MESH_AXES)
    return Mesh(devices.reshape(len(devices), 1, -1, 1), MESH_AXES, axis_types=auto)


def weight_shardings(config: ModelConfig, mesh: Mesh, tensor: int) -> dict[str, Any]:
    """NamedSharding of each parameter over all of a mesh's devices, in the mesh's order, such that
    each host's devices hold what `local_mesh` splits over its axis tensor."""
    grid, axes = _within_hosts(mesh, tensor)
    names = tuple(grid.axis_names[a] for a in axes)
    one_copy = AbstractMesh((1, 1, tensor, 1), MESH_AXES)

    def of(spec):
        parts = partition_spec(spec.axes, spec.shape, one_copy)
        # The other axes have one part.
        split = (names if p is not None and "tensor" in p else None for p in parts)
        return NamedSharding(grid, PartitionSpec(*split))

    return jax.tree.map(of, param_specs(config))


def local_arrays(arrays: Any, config: ModelConfig, mesh: Mesh) -> Any:
    """Parameters that lie as `weight_shardings` says, as arrays of the local mesh, or of the joint
    one: no copies."""

    def local(x: jax.Array, spec) -> jax.Array:
        by_device = {shard.device: shard.data for shard in x.addressable_shards}
        parts = partition_spec(spec.axes, spec.shape, mesh)
        return jax.make_array_from_single_device_arrays(
            x.shape,
            NamedSharding(mesh, parts),
            [by_device[d] for d in mesh.devices.flat if d in by_device],
        )

    return jax.tree.map(local, arrays, param_specs(config))


def _within_hosts(mesh: Mesh, tensor: int) -> tuple[Mesh, tuple[int, ...]]:
    """The mesh's devices in their order, as a grid of primes, and the dimensions of it that
    together count to `tensor` in each host: (grid, dimensions)."""
    shape = _primes(mesh.size)
    devices = mesh.devices.flatten()
    hosts = np.array([d.process_index for d in devices])
    for count in range(len(shape) + 1):
        for axes in reversed(list(itertools.combinations(range(len(shape)), count))):
            if math.prod(shape[a] for a in axes) != tensor:
                continue
            parts = _parts(shape, axes)
            shares = [np.bincount(parts[hosts == h], minlength=tensor) for h in set(hosts)]
            if all((share == share[0]).all() for share in shares):
                names = tuple(f"factor_{i}" for i in range(len(shape)))
                auto = (AxisType.Auto,) * len(shape)
                return Mesh(devices.reshape(shape), names, axis_types=auto), axes
    raise ValueError(
        f"tensor={tensor} does not split each host's {mesh.size // len(set(hosts))} devices evenly"
    )


def _parts(shape: tuple[int, ...], axes: tuple[int, ...]) -> np.ndarray:
    """Which part of the weights each device of the flat grid has."""
    coordinates = np.unravel_index(np.arange(math.prod(shape)), shape) if shape else ()
    part = np.zeros(math.prod(shape), int)
    for a in axes:
        part = part * shape[a] + coordinates[a]
    return part


def _primes(n: int) -> tuple[int, ...]:
    factors = []
    for p in range(2, n + 1):
        while n % p == 0:
            factors.append(p)
            n //= p
    return tuple(factors)
