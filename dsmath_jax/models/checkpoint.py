"""A model on disk as this project keeps it: `model.json` (ModelConfig) and `params/` (Orbax)."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import json
import logging
import math
import os
import pathlib
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import orbax.checkpoint as ocp
from jax.sharding import Mesh, Sharding, SingleDeviceSharding

from dsmath_jax.models.checksums import damage_seen_by_any
from dsmath_jax.models.config import ModelConfig, RopeScaling
from dsmath_jax.models.new_directory import new_directory
from dsmath_jax.models.parameters import ParamSpec, flat_specs
from dsmath_jax.models.sharding import param_sharding

log = logging.getLogger(__name__)

CHUNK_BYTES = 64 << 20
FILE_BYTES = 256 << 20
MAX_WAITING = 512 << 20


def save_params(params: dict[str, Any], config: ModelConfig, directory: str | os.PathLike) -> None:
    """Writes parameters (nested as `param_specs`, on any mesh) and their ModelConfig.

    With several processes all must call it, on a shared filesystem. Beside the parameters it needs
    memory for 0.5 GB of them, or for the largest slice that a device holds.

    Raises:
      FileExistsError: the directory is there and not empty.
    """
    with new_directory(directory) as partial:
        write_params(params, config, partial)


def write_params(params: dict[str, Any], config: ModelConfig, directory: pathlib.Path) -> None:
    """Writes model.json and params/ into a directory that exists; see `save_params`."""
    if jax.process_index() == 0:
        text = json.dumps(dataclasses.asdict(config), indent=2)
        (directory / "model.json").write_text(text + "\n")
    save_args = jax.tree.map(lambda _: ocp.SaveArgs(chunk_byte_size=CHUNK_BYTES), params)
    args = ocp.args.PyTreeSave(params, save_args, ocdbt_target_data_file_size=FILE_BYTES)
    # Orbax copies all that waits for the disk. It takes a device's slice at a time, and refuses one
    # that reaches the limit.
    largest = max(s.data.nbytes for x in jax.tree.leaves(params) for s in x.addressable_shards)
    handler = ocp.PyTreeCheckpointHandler(
        save_concurrent_gb=max(MAX_WAITING, largest + 1) / 1e9,
        use_compression=False,  # saves a fifth, takes longer than writing that fifth
    )
    with ocp.Checkpointer(handler) as checkpointer:
        checkpointer.save(directory.absolute() / "params", args)


def read_config(directory: str | os.PathLike) -> ModelConfig:
    """The ModelConfig of a directory that `save_params` wrote.

    Raises:
      FileNotFoundError, ValueError: model.json is missing or damaged.
    """
    path = pathlib.Path(directory) / "model.json"
    if not path.exists():
        raise FileNotFoundError(
            f"{path} is missing: {directory} is not a converted checkpoint; make one from a "
            "Hugging Face directory with launch/convert.py"
        )
    try:
        fields = json.loads(path.read_bytes())
        if fields.get("rope_scaling") is not None:
            fields["rope_scaling"] = RopeScaling(**fields["rope_scaling"])
        return ModelConfig(**fields)
    except (ValueError, TypeError, AttributeError) as e:
        raise ValueError(f"{path} is damaged ({e}): convert the checkpoint again") from None


def load_params(
    directory: str | os.PathLike,
    mesh: Mesh | None = None,
    dtype: Any = None,
    *,
    sharding_of: Callable[[ParamSpec], Sharding] | None = None,
    progress: Callable[[int], None] | None = None,
) -> tuple[dict[str, Any], ModelConfig]:
    """Reads what `save_params` wrote, or the parameters of a training run's last checkpoint.

    Args:
      directory: of model.json and params/, or a run's (model.json and checkpoints/).
      mesh: where the parameters go, by `sharding.RULES`; by default to the first device.
      dtype: of the parameters; by default as saved.
      sharding_of: where each parameter goes, in place of `mesh`.
      progress: called with the number of bytes of each parameter, once it is there.

    Returns:
      (parameters nested as `param_specs`, ModelConfig).

    Raises:
      FileNotFoundError, ValueError: something is missing, damaged, or of another model's shape.
    """
    config = read_config(directory)
    path, prefix = _where(pathlib.Path(directory).absolute())
    specs = flat_specs(config)
    if sharding_of is None:
        sharding_of = functools.partial(param_sharding, mesh=mesh) if mesh else _first_device
    stored = _stored(path, prefix)
    if any(name.startswith("policy.") for name in stored):  # a run with a critic beside it
        prefix += "policy."
        stored = _stored(path, prefix)
    _check_shapes(stored, specs, path)
    targets = {
        name: jax.ShapeDtypeStruct(
            spec.shape, dtype or jnp.dtype(stored[name].dtype), sharding=sharding_of(spec)
        )
        for name, spec in specs.items()
    }
    largest = max(_largest_read(targets[name], stored[name]) for name in specs)
    params: dict[str, Any] = {}
    handler = ocp.PyTreeCheckpointHandler(
        restore_concurrent_gb=max(MAX_WAITING // 2, largest + 1) / 1e9
    )
    with ocp.Checkpointer(handler) as checkpointer:
        # One at a time and the largest first: Orbax holds more than once what it is reading.
        for name in sorted(specs, key=lambda n: -specs[n].size):
            *outer, last = name.split(".")
            value = _restore(checkpointer, path, prefix + name, targets[name])
            functools.reduce(lambda d, k: d.setdefault(k, {}), outer, params)[last] = value
            if progress is not None:
                progress(specs[name].size * jnp.dtype(stored[name].dtype).itemsize)
    return params, config


def _first_device(spec: ParamSpec) -> Sharding:
    return SingleDeviceSharding(jax.devices()[0])


def _where(directory: pathlib.Path) -> tuple[pathlib.Path, str]:
    """Orbax's directory, and what comes before a parameter's name in it."""
    if not (directory / "checkpoints").is_dir():
        return directory / "params", ""
    steps = checkpoint_steps(directory / "checkpoints")
    if not steps:
        raise FileNotFoundError(f"{directory} is a run that has no finished checkpoint yet")
    for step in reversed(steps):
        path = directory / "checkpoints" / str(step)
        problem = damage_seen_by_any(path)
        if not problem:
            return path / "state", "params."
        log.warning("checkpoint %s is damaged (%s): the one before is used", path, problem)
    raise ValueError(f"{directory} is a run whose checkpoints are all damaged; the last: {problem}")


def checkpoint_steps(directory: pathlib.Path) -> list[int]:
    """Steps of the finished checkpoints in a run's checkpoints/, the last one at the end."""
    return sorted(int(path.name) for path in directory.glob("*") if path.name.isdecimal())


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Orbax warns that the state within a run's checkpoint lacks the file of a whole one."""
    logger = logging.getLogger("absl")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


def _stored(path: pathlib.Path, prefix: str) -> dict[str, Any]:
    """Metadata (shape, dtype, chunks) of each stored parameter by dotted name."""
    if not path.is_dir():
        raise FileNotFoundError(f"{path} is missing: convert the checkpoint again")
    try:
        with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as checkpointer, _quiet():
            tree = checkpointer.metadata(path).item_metadata.tree
        flat = jax.tree_util.tree_flatten_with_path(tree)[0]
        named = {jax.tree_util.keystr(k, simple=True, separator="."): leaf for k, leaf in flat}
        return {k.removeprefix(prefix): v for k, v in named.items() if k.startswith(prefix)}
    except Exception as e:  # Orbax raises what its storage raises
        raise _damaged(path, "its table of parameters", e) from None


def _largest_read(target: jax.ShapeDtypeStruct, stored: Any) -> int:
    """Bytes of the chunks that a device's slice touches: Orbax refuses what is beyond its limit."""
    chunk = stored.storage.chunk_shape if stored.storage else target.shape
    itemsize = jnp.dtype(stored.dtype).itemsize
    sizes = [itemsize]
    for index in target.sharding.addressable_devices_indices_map(target.shape).values():
        held = [s.indices(n) for s, n in zip(index, target.shape, strict=True)]
        sizes.append(
            itemsize
            * math.prod((-(-b // c) - a // c) * c for (a, b, _), c in zip(held, chunk, strict=True))
        )
    return max(sizes)


def _check_shapes(stored: dict[str, Any], specs: dict[str, ParamSpec], path: pathlib.Path) -> None:
    for name, spec in specs.items():
        if name not in stored:
            raise ValueError(f"parameter {name} of model.json's model is missing from {path}")
        if tuple(stored[name].shape) != spec.shape:
            raise ValueError(
                f"parameter {name} in {path} has shape {list(stored[name].shape)}; model.json asks "
                f"for {list(spec.shape)}: it is of another model"
            )
    for name in stored:
        if name not in specs:
            raise ValueError(f"parameter {name} in {path} does not belong to model.json's model")


def _restore(
    checkpointer: ocp.Checkpointer, path: pathlib.Path, name: str, target: jax.ShapeDtypeStruct
) -> jax.Array:
    keys = name.split(".")

    def nested(leaf: Any) -> Any:
        return functools.reduce(lambda inner, k: {k: inner}, reversed(keys), leaf)

    args = ocp.args.PyTreeRestore(
        nested(target),
        restore_args=nested(ocp.ArrayRestoreArgs(dtype=target.dtype, sharding=target.sharding)),
        partial_restore=True,
    )
    try:
        restored = checkpointer.restore(path, args)
    except Exception as e:
        raise _damaged(path, f"parameter {name}", e) from None
    return functools.reduce(lambda d, k: d[k], keys, restored)


def _damaged(path: pathlib.Path, what: str, error: Exception) -> ValueError:
    reason = str(error.__cause__ or error).strip().split("\n")[0][:300]
    return ValueError(f"{path} is damaged: {what} cannot be read; convert it again ({reason})")
