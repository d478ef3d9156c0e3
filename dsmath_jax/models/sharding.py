"""The device mesh and the one table that says which of its axes splits which dimension."""

from __future__ import annotations

import math

import jax
from jax.experimental.mesh_utils import create_device_mesh
from jax.sharding import AbstractMesh, AxisType, Mesh, NamedSharding, PartitionSpec

from dsmath_jax.models.config import ModelConfig
from dsmath_jax.models.parameters import ParamSpec, param_specs

MESH_AXES = ("data", "fsdp", "tensor", "sequence")

# Logical dimension -> mesh axes that split it.
RULES: dict[str, str | tuple[str, ...] | None] = {
    # parameters
    "layers": None,  # also parts of a batch
    "embed": "fsdp",
    "vocab": "tensor",
    "heads": "tensor",
    "kv_heads": "tensor",
    "mlp": "tensor",
    "heads_in": ("tensor", "fsdp"),  # of wo and w_down: their gradients are [in, out] products over
    "mlp_in": ("tensor", "fsdp"),  # the rows, which TPUs scatter well by the first dimension alone
    "norm": None,
    # activations
    "batch": ("data", "fsdp"),
    "length": "sequence",
    "hidden": None,
}


def make_mesh(
    data: int = 1, fsdp: int = -1, tensor: int = 1, sequence: int = 1, devices=None
) -> Mesh:
    """A mesh over all devices (or those given); one size may be -1, which takes what is left.

    Raises:
      ValueError: the sizes do not multiply to the number of devices.
    """
    devices = list(jax.devices() if devices is None else devices)
    sizes = _sizes([data, fsdp, tensor, sequence], len(devices))
    auto = (AxisType.Auto,) * len(MESH_AXES)
    try:
        return jax.make_mesh(sizes, MESH_AXES, axis_types=auto, devices=devices)
    except NotImplementedError:  # an axis of the mesh is a part of an axis of the TPU's torus
        grid = create_device_mesh(sizes, devices, allow_split_physical_axes=True)
        return Mesh(grid, MESH_AXES, axis_types=auto)


def _sizes(sizes: list[int], num_devices: int) -> tuple[int, ...]:
    for axis, size in zip(MESH_AXES, sizes, strict=True):
        if size < 1 and size != -1:
            raise ValueError(f"mesh size {axis}={size} is neither positive nor -1")
    if sizes.count(-1) > 1:
        raise ValueError(f"mesh sizes {sizes}: only one may be -1")
    known = math.prod(s for s in sizes if s != -1)
    sizes = [max(1, num_devices // known) if s == -1 else s for s in sizes]
    if math.prod(sizes) != num_devices:
        named = ", ".join(f"{a}={s}" for a, s in zip(MESH_AXES, sizes, strict=True))
        raise ValueError(f"mesh {named} needs {math.prod(sizes)} devices; there are {num_devices}")
    return tuple(sizes)


def partition_spec(
    axes: tuple[str, ...], shape: tuple[int, ...], mesh: Mesh | AbstractMesh
) -> PartitionSpec:
    """Where each dimension goes: split by as many of its mesh axes, in order, as divide it."""
    parts = []
    for axis, size in zip(axes, shape, strict=True):
        rule = RULES[axis] or ()
        names = (rule,) if isinstance(rule, str) else rule
        while size % (ways := math.prod(mesh.shape[n] for n in names)):
            names = names[:-1]
        parts.append(None if ways == 1 else names[0] if len(names) == 1 else names)
    while parts and parts[-1] is None:  # as compiled functions write their results' layouts
        parts.pop()
    return PartitionSpec(*parts)


def param_sharding(spec: ParamSpec, mesh: Mesh) -> NamedSharding:
    return NamedSharding(mesh, partition_spec(spec.axes, spec.shape, mesh))


def param_shardings(config: ModelConfig, mesh: Mesh) -> dict:
    """Nested dict of NamedSharding, of the same structure as the model's parameters."""
    return shardings_of(param_specs(config), mesh)


def shardings_of(specs: dict, mesh: Mesh) -> dict:
    """NamedSharding of each ParamSpec in a nested dict."""
    return jax.tree.map(lambda spec: param_sharding(spec, mesh), specs)


def batch_sharding(mesh: Mesh, shape: tuple[int, ...]) -> NamedSharding:
    """For arrays [batch], [batch, length] or [parts, batch, length]."""
    axes = ("layers", "batch", "length") if len(shape) == 3 else ("batch", "length")[: len(shape)]
    return NamedSharding(mesh, partition_spec(axes, shape, mesh))


def constrain(x: jax.Array, *axes: str) -> jax.Array:
    """Pins an activation's layout inside jit if a mesh is set (`jax.set_mesh`); else it is x."""
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty or mesh.size == 1:
        return x
    return jax.lax.with_sharding_constraint(x, partition_spec(axes, x.shape, mesh))
