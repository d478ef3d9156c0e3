"""Compiles every program of a stage with the TPU's own compiler, on a machine without one, and says
whether it fits, how long a step takes at best, and which transfers nobody asked for.

Nothing is read but the configuration (and the shape of its checkpoint, where that exists): no
checkpoint, tokenizer or data is needed. Only shapes exist here, laid out as the run lays them out.
"""

from __future__ import annotations

import contextlib
import json
import pathlib
import sys
import types
from collections.abc import Generator
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from ml_collections import ConfigDict

from dsmath_jax.compilation.collectives import Design
from dsmath_jax.compilation.programs import Program, Report, analyse
from dsmath_jax.compilation.search import largest_that_fits
from dsmath_jax.compilation.summary import summary
from dsmath_jax.compilation.table import as_json, table
from dsmath_jax.compilation.topologies import open_topology
from dsmath_jax.data.errors import InputError
from dsmath_jax.models.config import ModelConfig
from dsmath_jax.models.flops import causal_pairs, forward_flops, train_flops
from dsmath_jax.models.sharding import batch_sharding, make_mesh
from dsmath_jax.rollout import sampler
from dsmath_jax.stages import setup, supervised
from dsmath_jax.stages.rl_programs import make_programs
from dsmath_jax.training.hardware import Chip
from dsmath_jax.training.optimizer import make_optimizer
from dsmath_jax.training.state import abstract_state, policy_of

# A stage's programs in the order of a step: each is sent back compiled, because later ones take its
# results in the layouts that the compiler chose.
Programs = Generator[Program, Any, None]


def dry_run(
    config: ConfigDict, topology: str, out: pathlib.Path | None = None, largest: bool = True
) -> bool:
    """Prints the table for one stage on a slice such as "v5p:4x4x4".

    Args:
      out: write the table's numbers to this JSON file as well.
      largest: look for the largest micro-batch that fits, by compiling the update again.

    Returns:
      Whether everything fits.

    Raises:
      InputError: the slice, the mesh or the configuration is not possible.
    """
    devices, chip = open_topology(topology)
    try:
        mesh = make_mesh(**config.mesh, devices=devices)
    except ValueError as e:
        raise InputError(f"config.mesh on {topology}: {e}") from None
    config = _without_missing_checkpoint(config)
    model_config = setup.open_model_config(
        config, types.SimpleNamespace(vocab_size=config.tokenizer_vocab)
    )
    stage = rl_programs if config.stage == "rl" else supervised_programs
    reports = _compile_all(stage(config, mesh, model_config), chip)
    search = _largest(config, mesh, model_config, reports, chip) if largest else None
    shape = ", ".join(f"{a}={n}" for a, n in mesh.shape.items() if n > 1)
    title = (
        f"{config.stage}, {config.model} ({model_config.num_params / 1e9:.2f}B parameters), on "
        f"{topology}: {len(devices)} x {chip.name}, mesh {shape or 'of one device'}"
    )
    seconds = sum(r.runs * r.times.predicted for r in reports)
    work = sum(r.runs * r.model_flops for r in reports)
    lines = summary(config, reports, seconds, work, chip, len(devices), search)
    print(table(title, reports, chip, len(devices)), *lines, sep="\n", flush=True)
    if out is not None:
        record = {
            "topology": topology,
            "devices": len(devices),
            "chip": chip.name,
            "mesh": dict(mesh.shape),
            "stage": config.stage,
            "model": config.model,
            "parameters": model_config.num_params,
            "step_seconds": seconds,
            "mfu": work / (seconds * len(devices) * chip.flops) if seconds else 0.0,
            "fits": all(r.fits for r in reports),
            "largest_rows": search,
            "programs": as_json(reports, chip, len(devices)),
        }
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(json.dumps(record, indent=2) + "\n")
    return all(r.fits for r in reports)


def _without_missing_checkpoint(config: ConfigDict) -> ConfigDict:
    config = config.copy_and_resolve_references()
    given = config.init.checkpoint
    with config.unlocked():
        config.init.stage = ConfigDict()
    if given and not pathlib.Path(given).is_dir():
        print(f"{given} is not here: the shape is that of config.model={config.model}", flush=True)
        config.init.checkpoint = ""
    return config


def _compile_all(programs: Programs, chip: Chip) -> list[Report]:
    reports: list[Report] = []
    try:
        program = next(programs)
        while True:
            report, compiled = analyse(program, chip)
            reports.append(report)
            said = f"compiled {program.name} in {report.compile_seconds:.1f} s"
            print(said if compiled else f"{program.name} does not fit", file=sys.stderr, flush=True)
            program = programs.send(compiled)
    except StopIteration:
        return reports


# ---- The programs of each stage -----------------------------------------------------------------
def supervised_programs(config: ConfigDict, mesh, model_config: ModelConfig) -> Programs:
    """Pretraining and fine-tuning: one update, and the held-out loss of one batch."""
    yield supervised_update(config, mesh, model_config)
    optimizer = make_optimizer(config.optimizer, config.steps)
    model = setup.open_model(config, model_config)
    state = abstract_state(model_config, optimizer, mesh)
    rows = config.eval.batch_size
    tokens, pairs = _tokens_and_pairs(rows, config.length)
    yield Program(
        "held-out loss",
        supervised.make_programs(config, model, optimizer).heldout_sums,
        (state.params, _rows(mesh, rows, config.length)),
        mesh,
        Design(weight_gathers=1),
        runs=0,
        model_flops=forward_flops(model_config, tokens, pairs, tokens),
        beside={"opt_state": state.opt_state},
    )


def supervised_update(config: ConfigDict, mesh, model_config: ModelConfig) -> Program:
    setup.check_parts(config.batch_size, config, mesh, "config.batch_size")
    optimizer = make_optimizer(config.optimizer, config.steps)
    model = setup.open_model(config, model_config)
    tokens, pairs = _tokens_and_pairs(config.batch_size, config.length)
    return Program(
        "update",
        supervised.make_programs(config, model, optimizer).update,
        (
            abstract_state(model_config, optimizer, mesh),
            _rows(mesh, config.batch_size, config.length),
        ),
        mesh,
        Design(weight_gathers=3 * config.micro_batches),
        model_flops=train_flops(model_config, tokens, pairs),
    )


def rl_programs(config: ConfigDict, mesh, model_config: ModelConfig) -> Programs:
    """One exploration step: weights for generation, prompts, tokens (with the cache at its full
    length, so their time is at most this), log-probabilities, values (PPO), update."""
    c, with_critic = config.rl, config.rl.algorithm == "ppo"
    generation_mesh = setup.open_generation_mesh(config, mesh)
    optimizer = setup.open_rl_optimizer(config)
    model = setup.open_model(config, model_config)
    programs = make_programs(config, model, optimizer, generation_mesh)
    state = abstract_state(
        model_config, optimizer, mesh, with_reference=True, with_critic=with_critic
    )
    policy = policy_of(state.params)
    kept = {"params": policy, "opt_state": state.opt_state, "reference": state.reference}
    if with_critic:
        kept["params['critic']"] = state.params["critic"]
    compiled = yield Program(
        "reshard",
        programs.generation_weights,
        (policy,),
        mesh,
        Design(weight_gathers=1, reshards=True),
        results="generation weights",
        beside=_without(kept, "params"),
    )
    if compiled is not None:
        weights = _outputs(compiled)
        yield from _generation_programs(config, generation_mesh, model, weights, kept)
    # ---- Training -------------------------------------------------------------------------------
    count = c.questions * c.group
    rows = _rl_rows(config, mesh)
    size, pairs = _tokens_and_pairs(count, config.length)
    sampled = {k: v for k, v in rows.items() if k in SAMPLED}
    yield Program(
        "log-probs",
        programs.logprobs,
        (state.reference, sampled),
        mesh,
        Design(weight_gathers=config.micro_batches),
        model_flops=forward_flops(model_config, size, pairs, size),
        kinds={"params": "reference"},
        beside=_without(kept, "reference"),
    )
    if with_critic:
        yield Program(
            "values",
            programs.estimate,
            (
                state.params["critic"],
                sampled | {"ref_logp": rows["ref_logp"]},
                _array(mesh, (count,), jnp.float32),
            ),
            mesh,
            Design(weight_gathers=config.micro_batches),
            model_flops=forward_flops(model_config, size, pairs, 0),
            kinds={"params": "critic"},
            beside=_without(kept, "params['critic']"),
        )
    yield rl_update(config, mesh, model_config)


SAMPLED = ("tokens", "segment_ids", "loss_mask", "old_logp", "advantages")


def _rl_rows(config: ConfigDict, mesh) -> dict[str, jax.ShapeDtypeStruct]:
    """What an update takes: the samples with their log-probabilities, and advantages of each (GRPO)
    or of each token, with returns and values (PPO)."""
    with_critic = config.rl.algorithm == "ppo"
    shape = (config.rl.questions * config.rl.group, config.length)
    names = ["old_logp", "ref_logp", *(("returns", "old_values") if with_critic else ())]
    rows = _rows(mesh, *shape) | {name: _array(mesh, shape, jnp.float32) for name in names}
    del rows["positions"]
    rows["advantages"] = _array(mesh, shape if with_critic else shape[:1], jnp.float32)
    return rows


def rl_update(config: ConfigDict, mesh, model_config: ModelConfig) -> Program:
    c, with_critic = config.rl, config.rl.algorithm == "ppo"
    setup.check_parts(c.questions * c.group, config, mesh, "config.rl.questions x group")
    optimizer = setup.open_rl_optimizer(config)
    model = setup.open_model(config, model_config)
    generation_mesh = setup.open_generation_mesh(config, mesh)
    state = abstract_state(
        model_config, optimizer, mesh, with_reference=True, with_critic=with_critic
    )
    size, pairs = _tokens_and_pairs(c.questions * c.group, config.length)
    critic = 3 * forward_flops(model_config, size, pairs, 0) if with_critic else 0.0
    return Program(
        "update",
        make_programs(config, model, optimizer, generation_mesh).update,
        (state, _rl_rows(config, mesh)),
        mesh,
        Design(weight_gathers=3 * config.micro_batches),
        runs=c.updates_per_step,
        model_flops=train_flops(model_config, size, pairs) + critic,
    )


def _generation_programs(config: ConfigDict, mesh, model, weights, kept) -> Programs:
    """What the sampler compiles, for prompts of the greatest length."""
    c, model_config = config.rl, model.config
    graph = nnx.split(model)[0]
    questions = sampler.questions_at_once(c.questions, c.group, c.max_rows, mesh)
    turns, samples = -(-c.questions // questions), questions * c.group
    prompt = config.length - c.max_new_tokens
    tokens, lengths = (_array(mesh, s, jnp.int32) for s in ((questions, prompt), (questions,)))
    kinds = {"params": "generation weights", "cache": "KV cache", "state": "samples"}
    compiled = yield Program(
        "prefill",
        sampler._prefill,
        (graph, weights, tokens, lengths, c.group, c.max_new_tokens),
        mesh,
        Design(weight_gathers=0),
        runs=turns,
        model_flops=forward_flops(model_config, *_tokens_and_pairs(questions, prompt), 0),
        kinds=kinds,
        beside=kept,
    )
    if compiled is None:
        return
    started = _outputs(compiled)
    *sizes, last = sampler.cache_lengths(c.max_new_tokens)
    cache = started.cache
    if sizes:
        with contextlib.suppress(jax.errors.JaxRuntimeError), jax.set_mesh(mesh):
            # Where not even this has room, the next program says so.
            cache = _outputs(sampler._grow.lower(cache, sizes[-1]).compile())
    compiled = yield Program(
        "cache growth",
        sampler._grow,
        (cache, last),
        mesh,
        Design(weight_gathers=0),
        runs=turns,
        results="KV cache",
        beside=kept | {"generation": weights},
    )
    if compiled is None:
        return
    started = started._replace(cache=_outputs(compiled))
    keys = jax.eval_shape(lambda: jax.random.split(jax.random.key(0), (questions, c.group)))
    keys = _array(mesh, keys.shape, keys.dtype)
    eos_ids = jax.ShapeDtypeStruct((1,), jnp.int32)
    pairs = samples * float(prompt + c.max_new_tokens)
    yield Program(
        "decode",
        sampler._decode_until,
        (graph, last, False, weights, started, keys, 1.0, eos_ids),
        mesh,
        Design(weight_gathers=0),
        runs=turns,
        model_flops=c.max_new_tokens * forward_flops(model_config, samples, pairs, samples),
        turns=c.max_new_tokens,
        kinds=kinds,
        beside=kept,
    )


def _without(kept: dict[str, Any], path: str) -> dict[str, Any]:
    return {k: v for k, v in kept.items() if k != path}


def _outputs(compiled: Any) -> Any:
    """Shapes and layouts of a compiled program's results."""
    return jax.tree.map(
        lambda x, layout: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=layout),
        compiled.out_info,
        compiled.output_shardings,
    )


def _tokens_and_pairs(rows: int, length: int) -> tuple[float, float]:
    """Of rows that are one segment each: packed ones need less."""
    return float(rows * length), rows * causal_pairs([length])


def _rows(mesh, rows: int, length: int) -> dict[str, jax.ShapeDtypeStruct]:
    """A batch of the data pipeline."""
    dtypes = dict.fromkeys(("tokens", "positions", "segment_ids"), jnp.int32)
    dtypes["loss_mask"] = jnp.float32
    return {name: _array(mesh, (rows, length), dtype) for name, dtype in dtypes.items()}


def _array(mesh, shape: tuple[int, ...], dtype) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(shape, dtype, sharding=batch_sharding(mesh, shape))


# ---- The largest batch --------------------------------------------------------------------------
def _rows_per_chip(config: ConfigDict, mesh) -> float:
    rows = config.rl.questions * config.rl.group if config.stage == "rl" else config.batch_size
    return rows / (config.micro_batches * mesh.shape["data"] * mesh.shape["fsdp"])


def _largest(config, mesh, model_config, reports, chip) -> int | None:
    """Rows of a micro-batch on each chip, the most that fit in an update."""
    first = next((r for r in reports if r.name == "update"), None)
    start = int(_rows_per_chip(config, mesh))
    if first is None or start < 1:
        return None

    def needs(rows: int) -> float:
        if rows == start:
            return first.peak
        changed = config.copy_and_resolve_references()
        rows *= config.micro_batches * mesh.shape["data"] * mesh.shape["fsdp"]
        if config.stage == "rl":
            changed.rl.questions, changed.rl.group = rows, 1
            return analyse(rl_update(changed, mesh, model_config), chip)[0].peak
        changed.batch_size = rows
        return analyse(supervised_update(changed, mesh, model_config), chip)[0].peak

    return largest_that_fits(needs, first.limit, start)
