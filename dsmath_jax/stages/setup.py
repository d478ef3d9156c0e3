"""What every stage does first: mesh, tokenizer, model, and the parameters to start from."""

from __future__ import annotations

import dataclasses
import functools
import itertools
import json
import os
import pathlib
import shutil
import sys
import tempfile
from collections.abc import Collection, Iterable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from ml_collections import ConfigDict

from dsmath_jax.data.errors import InputError
from dsmath_jax.data.sources import Example
from dsmath_jax.data.tokenizers import Tokenizer, load_tokenizer, train_sentencepiece
from dsmath_jax.models.attention import resolve_backend
from dsmath_jax.models.checkpoint import load_params, read_config
from dsmath_jax.models.config import PRESETS, ModelConfig, preset
from dsmath_jax.models.convert import SOURCE_CONFIG
from dsmath_jax.models.hf import load_hf_params
from dsmath_jax.models.parameters import flat_specs
from dsmath_jax.models.sharding import (
    batch_sharding,
    make_mesh,
    param_sharding,
    param_shardings,
)
from dsmath_jax.models.transformer import Transformer, init_params
from dsmath_jax.rollout.host_arrays import hosts_of
from dsmath_jax.rollout.local import generation_mesh
from dsmath_jax.stages.host_checks import differences
from dsmath_jax.training.optimizer import make_optimizer
from dsmath_jax.training.provenance import provenance


def open_mesh(config: ConfigDict) -> jax.sharding.Mesh:
    return mesh_of(config, jax.devices())


def mesh_of(config: ConfigDict, devices: Sequence[jax.Device]) -> jax.sharding.Mesh:
    """The devices as `config.mesh` arranges them; attention must have a way to run there."""
    try:
        mesh = make_mesh(**config.mesh, devices=devices)
    except ValueError as e:
        raise InputError(f"config.mesh: {e}") from None
    try:
        resolve_backend(config.attention, mesh.abstract_mesh, config.dtype)
    except ValueError as e:
        raise InputError(f"config.attention: {e}") from None
    return mesh


def open_generation_mesh(
    config: ConfigDict, mesh: jax.sharding.Mesh, process: int | None = None
) -> jax.sharding.Mesh:
    """The devices of one host (by default this one), or where that cannot be of all, as they
    generate: weights split over `config.rl.tensor` of them, samples spread over the rest."""
    try:
        generation = generation_mesh(mesh, config.rl.tensor, process)
    except ValueError as e:
        raise InputError(f"config.rl.{e}") from None
    if config.rl.ahead and hosts_of(generation) > 1:
        kind = mesh.devices.flat[0].device_kind
        raise InputError(
            f"config.rl.ahead=True: hosts of {kind} chips generate in step with each other, which "
            "goes with nothing beside it; set it to False"
        )
    return generation


def open_rl_optimizer(config: ConfigDict) -> optax.GradientTransformation:
    critic_rate = config.rl.critic_rate if config.rl.algorithm == "ppo" else 1.0
    steps = config.steps * config.rl.updates_per_step
    return make_optimizer(config.optimizer, steps, critic_rate=critic_rate)


def check_parts(rows: int, config: ConfigDict, mesh: jax.sharding.Mesh, name: str) -> None:
    """Refuses a batch that does not split evenly over micro-batches and devices: it would be
    computed whole on every device.

    Raises:
      InputError: says what it is and what it must be a multiple of.
    """
    ways = config.micro_batches * mesh.shape["data"] * mesh.shape["fsdp"]
    if rows % ways:
        raise InputError(
            f"{name}={rows} is not a multiple of {ways} = config.micro_batches x mesh data x fsdp"
        )


def evaluation_rows(config: ConfigDict, mesh: jax.sharding.Mesh) -> int:
    """Rows evaluated together: `config.eval.batch_size`, rounded up so that devices share them."""
    ways = mesh.shape["data"] * mesh.shape["fsdp"]
    return -(-config.eval.batch_size // ways) * ways


def refuse_text_field(config: ConfigDict) -> None:
    if config.data.text_field:
        raise InputError(
            f"config.data.text_field={config.data.text_field!r} is for pretraining; this stage "
            "reads config.data.question_field, solution_field and answer_field"
        )


def local_rows(
    mesh: jax.sharding.Mesh, batch_size: int, devices: Collection[jax.Device] | None = None
) -> np.ndarray:
    """[rows] sorted: which rows of a batch the devices of this process (or those given) hold, all
    or part of each; on a mesh that splits other things than the batch, all processes hold all."""
    where = batch_sharding(mesh, (batch_size,)).devices_indices_map((batch_size,))
    chosen = mesh.local_devices if devices is None else devices
    parts = {where[device][0].indices(batch_size)[:2] for device in chosen}
    return np.unique(np.concatenate([np.arange(*part) for part in parts]))


def put_batch(
    batch: dict[str, np.ndarray], mesh: jax.sharding.Mesh, batch_size: int | None = None
) -> dict[str, jax.Array]:
    """Host arrays [batch, ...], or whole ones [parts, batch, length], onto the mesh, as arrays over
    all processes.

    Args:
      batch_size: of the whole batch, of which `batch` has this process's `local_rows`; None: the
        batch is whole, and the same on every process.
    """

    rows = None if batch_size is None else local_rows(mesh, batch_size)

    def put(array: np.ndarray) -> jax.Array:
        size = len(array) if batch_size is None else batch_size
        shape = (size, *array.shape[1:])
        sharding = batch_sharding(mesh, shape)
        return jax.make_array_from_callback(shape, sharding, lambda i: shard(array, rows, i))

    return {name: put(array) for name, array in batch.items()}


def shard(
    array: np.ndarray, rows: np.ndarray | None, index: tuple[slice, ...] | None
) -> np.ndarray:
    """The part `index` of a whole batch, from the rows `rows` of it (None: from all)."""
    assert index  # arrays have at least the batch's dimension
    if rows is None:
        return array[index]
    first, last, _ = index[0].indices(sys.maxsize)
    return array[(slice(*np.searchsorted(rows, (first, last))), *index[1:])]


def open_tokenizer(
    config: ConfigDict, workdir: pathlib.Path, examples: Iterable[Example]
) -> Tokenizer:
    """The run's own where it has one, else the configured, the checkpoint's, or one trained on the
    first 5000 examples (else they are not touched)."""
    if config.init.checkpoint and not pathlib.Path(config.init.checkpoint).is_dir():
        raise InputError(f"config.init.checkpoint={config.init.checkpoint} is not a directory")
    kept = workdir / "tokenizer"
    source = config.tokenizer or _checkpoint_tokenizer(config.init.checkpoint)
    if kept.is_dir():
        source = str(kept)
    if source:
        try:
            return load_tokenizer(source)
        except (FileNotFoundError, ValueError) as e:
            raise InputError(str(e)) from None
    if config.init.checkpoint:
        raise InputError(
            f"{config.init.checkpoint} brings no tokenizer: set config.tokenizer to one"
        )
    texts = (text for example in itertools.islice(examples, 5000) for text in example.values())
    with tempfile.TemporaryDirectory() as folder:
        try:
            return train_sentencepiece(texts, folder, vocab_size=config.tokenizer_vocab)
        except ValueError as e:
            raise InputError(f"config.tokenizer_vocab: {e}") from None


def _checkpoint_tokenizer(checkpoint: str) -> str:
    for folder in (checkpoint, os.path.join(checkpoint, "tokenizer")) if checkpoint else ():
        for name in ("tokenizer.json", "tokenizer.model"):
            if os.path.exists(os.path.join(folder, name)):
                return folder
    return ""


def open_model_config(config: ConfigDict, tokenizer: Tokenizer) -> ModelConfig:
    """The checkpoint's shape, else `config.model` with the tokenizer's vocabulary."""
    if config.init.checkpoint:
        model_config = _checkpoint_config(pathlib.Path(config.init.checkpoint))
    elif config.model in PRESETS:
        size = max(tokenizer.vocab_size, PRESETS[config.model].vocab_size)
        if config.model == "tiny":
            size = -(-tokenizer.vocab_size // 64) * 64
        model_config = preset(config.model, vocab_size=size)
    else:
        try:
            model_config = ModelConfig.from_hf(config.model)
        except (FileNotFoundError, ValueError) as e:
            presets = ", ".join(PRESETS)
            raise InputError(
                f"config.model={config.model!r} is neither one of {presets}, nor a config.json: {e}"
            ) from None
    before = flat_specs(model_config)
    try:
        model_config = dataclasses.replace(model_config, **config.model_changes)
    except (TypeError, ValueError) as e:
        raise InputError(f"config.model_changes: {e}") from None
    if config.init.checkpoint:
        for name, spec in flat_specs(model_config).items():
            if name not in before or before[name].shape != spec.shape:
                raise InputError(
                    f"config.model_changes gives {name} the shape {spec.shape}, which "
                    f"config.init.checkpoint={config.init.checkpoint} does not have: remove it"
                )
    if tokenizer.vocab_size > model_config.vocab_size:
        raise InputError(
            f"the tokenizer has {tokenizer.vocab_size} tokens, the model only "
            f"{model_config.vocab_size}: they do not belong together"
        )
    if config.length > model_config.max_positions:
        raise InputError(
            f"config.length={config.length} exceeds the model's context of "
            f"{model_config.max_positions} tokens: lower it, or raise "
            "config.model_changes.max_positions"
        )
    return model_config


def open_model(config: ConfigDict, model_config: ModelConfig) -> Transformer:
    """The model with shapes in place of parameters; compiled steps merge parameters into it."""
    try:
        return nnx.eval_shape(
            lambda: Transformer(
                model_config,
                dtype=config.dtype,
                remat=config.remat,
                attention=config.attention,
                unroll=config.unroll,
            )
        )
    except (TypeError, ValueError) as e:
        raise InputError(
            f"config.dtype, config.remat, config.attention, config.unroll: {e}"
        ) from None


def initial_params(
    config: ConfigDict, model_config: ModelConfig, mesh: jax.sharding.Mesh
) -> dict[str, Any]:
    """float32 parameters on the mesh: from `config.init.checkpoint`, or random by `config.seed`."""
    if not config.init.checkpoint:
        layouts = param_shardings(model_config, mesh)
        return jax.jit(
            lambda: init_params(model_config, config.seed, jnp.float32), out_shardings=layouts
        )()
    directory = pathlib.Path(config.init.checkpoint)
    try:
        if (directory / "model.json").exists():
            return load_params(directory, mesh, jnp.float32)[0]
        sharding_of = functools.partial(param_sharding, mesh=mesh)
        return load_hf_params(directory, sharding_of, jnp.float32)[0]
    except (FileNotFoundError, ValueError) as e:
        raise InputError(str(e)) from None


def _checkpoint_config(directory: pathlib.Path) -> ModelConfig:
    try:
        if (directory / "model.json").exists():
            return read_config(directory)
        return ModelConfig.from_hf(directory)
    except (FileNotFoundError, ValueError) as e:
        raise InputError(str(e)) from None


def write_run_files(
    config: ConfigDict, model_config: ModelConfig, tokenizer: Tokenizer, workdir: pathlib.Path
) -> None:
    """config.json, model.json and tokenizer/, so that a run's directory says what it holds, and in
    starts.jsonl what started it, a line each time. Where it holds a run already, says what the
    configuration changes. The first process writes."""
    if jax.process_index() != 0:
        return
    workdir.mkdir(parents=True, exist_ok=True)
    if not (workdir / "tokenizer").is_dir():
        partial = workdir / ".tokenizer.partial"
        shutil.rmtree(partial, ignore_errors=True)
        tokenizer.save(partial)
        partial.replace(workdir / "tokenizer")
    ids = {f"{n}_token_id": getattr(tokenizer, f"{n}_id") for n in ("bos", "eos", "pad")}
    new = config.to_dict()
    if (workdir / "config.json").exists():
        old = json.loads((workdir / "config.json").read_text())
        for change in differences(old, new, "config"):
            print(f"changed since this run began: {change}", file=sys.stderr)
    files = {"config.json": new, "model.json": dataclasses.asdict(model_config), SOURCE_CONFIG: ids}
    for name, content in files.items():
        beside = workdir / f"{name}.partial"
        beside.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n")
        beside.replace(workdir / name)
    with (workdir / "starts.jsonl").open("a", encoding="utf-8") as file:
        file.write(json.dumps(provenance()) + "\n")
