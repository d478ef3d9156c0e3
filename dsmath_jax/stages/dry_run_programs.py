"""The programs that a stage compiles, as shapes laid out like the run's arrays."""

from __future__ import annotations

import math
from collections.abc import Generator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from ml_collections import ConfigDict

from dsmath_jax.compilation.design import Design
from dsmath_jax.compilation.programs import Program
from dsmath_jax.models.config import ModelConfig
from dsmath_jax.models.flops import causal_pairs, forward_flops, rl_flops, train_flops
from dsmath_jax.models.parameters import param_specs
from dsmath_jax.models.sharding import batch_sharding, param_shardings
from dsmath_jax.rollout.cache import SHARDS, cache_shapes, sharding, shards_of
from dsmath_jax.rollout.decode import Options, decode, prefill
from dsmath_jax.rollout.host_arrays import hosts_of
from dsmath_jax.rollout.sampler import INTERVAL
from dsmath_jax.rollout.slots import BLOCK, Shard, Sizes, make_plan
from dsmath_jax.stages import setup, supervised
from dsmath_jax.stages.rl_programs import make_programs
from dsmath_jax.stages.rl_rows import row_shapes
from dsmath_jax.training.optimizer import make_optimizer
from dsmath_jax.training.state import abstract_state, policy_of

# A stage's programs in the order of a step: each is sent back compiled, because later ones take its
# results in the layouts that the compiler chose.
Programs = Generator[Program, Any, None]


def supervised_programs(config: ConfigDict, mesh, model_config: ModelConfig) -> Programs:
    """Pretraining and fine-tuning: one update, and the held-out loss of one batch."""
    yield supervised_update(config, mesh, model_config)
    optimizer = make_optimizer(config.optimizer, config.steps)
    model = setup.open_model(config, model_config)
    state = abstract_state(model_config, optimizer, mesh)
    rows = setup.evaluation_rows(config, mesh)
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
    rows = _rows(mesh, config.batch_size, config.length)
    if config.data.mixture:
        rows["source"] = _array(mesh, (config.batch_size,), jnp.int32)
    return Program(
        "update",
        supervised.make_programs(config, model, optimizer).update,
        (abstract_state(model_config, optimizer, mesh), rows),
        mesh,
        Design(weight_gathers=3 * config.micro_batches),
        model_flops=train_flops(model_config, tokens, pairs),
    )


def rl_programs(config: ConfigDict, mesh, model_config: ModelConfig) -> Programs:
    """One exploration step: weights for generation, prompts, tokens (with the cache at its full
    length, so their time is at most this; each host does a part of them), log-probabilities, values
    (PPO), update."""
    c, with_critic = config.rl, config.rl.algorithm == "ppo"
    optimizer = setup.open_rl_optimizer(config)
    model = setup.open_model(config, model_config)
    programs = make_programs(config, model, optimizer, mesh)
    state = abstract_state(
        model_config, optimizer, mesh, with_reference=c.kl_coef != 0, with_critic=with_critic
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
        yield from _generation_programs(config, mesh, model, kept)
    # ---- Training -------------------------------------------------------------------------------
    rows, used = _rl_rows(config, mesh, model_config.head_dim)
    flops = _flops(config, mesh, model_config, c.questions, c.group)
    one = jax.ShapeDtypeStruct((), jnp.int32)
    sampled = {k: v for k, v in rows.items() if k not in ESTIMATED + COMPUTED}
    known = {k: v for k, v in rows.items() if k not in ESTIMATED}
    forwards = (c.kl_coef != 0) + (c.old_logprobs == "recompute")
    if forwards:
        yield Program(
            "log-probs",
            programs.logprobs,
            (policy if state.reference is None else state.reference, sampled, one),
            mesh,
            Design(weight_gathers=used),
            runs=forwards,
            model_flops=flops["logprob"],
            turns=used,
            kinds={"params": "params" if state.reference is None else "reference"},
            beside=_without(kept, "params" if state.reference is None else "reference"),
        )
    if with_critic:
        yield Program(
            "values",
            programs.estimate,
            (state.params["critic"], known, one),
            mesh,
            Design(weight_gathers=used),
            model_flops=flops["value"],
            turns=used,
            kinds={"params": "critic"},
            beside=_without(kept, "params['critic']"),
        )
    yield rl_update(config, mesh, model_config)


COMPUTED = ("ref_logp", "old_logp")  # by the trainer, before the update
ESTIMATED = ("returns", "old_values")  # by the critic


def _rl_rows(
    config: ConfigDict, mesh, head_dim: int
) -> tuple[dict[str, jax.ShapeDtypeStruct], int]:
    """What an update takes (see `rl_rows.pack`) and how many parts of it are used, as if no two
    samples fitted into a row: no step computes a tenth more, and no device has more of a part.
    (The arrays of longer rows have room for up to twice as many positions, 40 bytes each.)"""
    c, shapes = config.rl, row_shapes(config, mesh, head_dim)
    length = shapes.lengths(config.length)[0]
    shape = (shapes.parts(length), shapes.rows(length), length)
    names = ["rollout_logp", "advantages", "lengths"]
    names += ["ref_logp"] if c.kl_coef else []
    names += ["old_logp"] if c.old_logprobs == "recompute" else []
    names += ["rewards", *ESTIMATED] if c.algorithm == "ppo" else []
    integers = ["tokens", "segment_ids", "positions"] + ["prefix_ids"] * shapes.shared
    rows = {name: _array(mesh, shape, jnp.int32) for name in integers}
    rows |= {name: _array(mesh, shape, jnp.float32) for name in ["loss_mask", *names]}
    return rows, math.ceil(shapes.samples / shapes.rows(length))


def rl_update(config: ConfigDict, mesh, model_config: ModelConfig) -> Program:
    c, with_critic = config.rl, config.rl.algorithm == "ppo"
    rows, used = _rl_rows(config, mesh, model_config.head_dim)
    optimizer = setup.open_rl_optimizer(config)
    model = setup.open_model(config, model_config)
    state = abstract_state(
        model_config, optimizer, mesh, with_reference=c.kl_coef != 0, with_critic=with_critic
    )
    return Program(
        "update",
        make_programs(config, model, optimizer, mesh).update,
        (state, rows, jax.ShapeDtypeStruct((), jnp.int32)),
        mesh,
        Design(weight_gathers=3 * used),
        runs=c.updates_per_step,
        model_flops=_flops(config, mesh, model_config, c.questions, c.group)["update"]
        / c.updates_per_step,
        turns=used,
    )


def _generation_programs(config: ConfigDict, mesh, model, kept) -> Programs:
    """What the sampler compiles, for prompts of the greatest length: for a step's questions, and
    for the held-out ones, a sample each, whose prompts no group shares."""
    c = config.rl
    yield from _sampling(config, mesh, model, kept, c.questions, c.group)
    if config.data.num_heldout:
        heldout = config.data.num_heldout
        yield from _sampling(config, mesh, model, kept, heldout, 1, evaluation=True)


def _sampling(
    config: ConfigDict, mesh, model, kept, count: int, group: int, evaluation: bool = False
) -> Programs:
    """Prefill and decoding of `group` samples of each of `count` questions, on the devices of one
    host (or of all, see `generation_mesh`), each of which does an equal part. An evaluation's are
    no part of a step, and may be greedy, too."""
    c, model_config = config.rl, model.config
    graph = nnx.split(model)[0]
    hosts = hosts_of(mesh)
    here = setup.open_generation_mesh(config, mesh, mesh.devices.flat[0].process_index)
    named = "eval {}".format if evaluation else str
    flops = _flops(config, mesh, model_config, count, group)
    prompt = config.length - c.max_new_tokens
    read = forward_flops(model_config, *_tokens_and_pairs(count, prompt), 0)
    samples = -(-count * group // hosts)
    s = Sizes.of(
        samples,
        min(group, samples),
        prompt,
        c.max_new_tokens,
        c.max_rows // hosts,
        shards_of(here) // hosts_of(here),
    )
    weights = jax.tree.map(
        lambda spec, layout: jax.ShapeDtypeStruct(spec.shape, config.dtype, sharding=layout),
        param_specs(model_config),
        param_shardings(model_config, here),
    )

    def of_shards(shape: tuple[int, ...], dtype: Any = jnp.int32):
        shape = (shards_of(here) * shape[0], *shape[1:])
        return jax.ShapeDtypeStruct(shape, dtype, sharding=sharding(here, SHARDS))

    cache = cache_shapes(
        model_config,
        here,
        s,
        own=s.own_blocks(),
        by_layer=False,
        dtype=config.dtype,
        kv_dtype=jnp.dtype(c.kv_dtype or config.dtype),
    )
    kinds = {"params|layers": "generation weights", "cache": "KV cache", "plan|hidden": "samples"}
    prompts = -(-samples // (s.share * s.shards))  # of each shard, in turns
    compiled = yield Program(
        named("prefill"),
        prefill,
        (
            graph,
            weights,
            cache,
            of_shards((s.prefill, s.prompt_table * BLOCK)),
            *(of_shards((s.prefill,)),) * 2,
            of_shards((s.prefill, s.prompt_table)),
        ),
        here,
        Design(weight_gathers=0),
        runs=0 if evaluation else -(-prompts // s.prefill),
        model_flops=read / -(-prompts // s.prefill),
        kinds=kinds,
        beside=kept,
    )
    if compiled is None:
        return
    intervals = -(-samples // (s.shards * s.slots)) * -(-c.max_new_tokens // INTERVAL)
    plan = jax.tree.map(lambda x: of_shards(x.shape, x.dtype), make_plan([Shard(s)], [], s))
    options = Options(
        jax.eval_shape(lambda: jax.random.key(0)),
        jax.ShapeDtypeStruct((), jnp.float32),
        jax.ShapeDtypeStruct((1,), jnp.int32),
        jax.ShapeDtypeStruct((), jnp.int32),
        jax.ShapeDtypeStruct((), jnp.float32),
    )
    hidden = of_shards((s.slots, model_config.hidden_size), config.dtype)
    greedily = ("likeliest",) if evaluation and c.greedy_eval else ()
    for draws in ("all", *greedily):
        yield Program(
            named("decode" if draws == "all" else "greedy decode"),
            decode,
            (graph, INTERVAL, draws, weights, [weights["layers"]], cache, hidden, plan, options),
            here,
            Design(weight_gathers=0),
            runs=0 if evaluation else intervals,
            model_flops=(flops["generate"] - read) / intervals,
            turns=INTERVAL,
            kinds=kinds,
            beside=kept,
        )


def _flops(
    config: ConfigDict, mesh, model_config: ModelConfig, questions: int, group: int
) -> dict[str, float]:
    """Of one step, by phase, each sample at its full length."""
    c = config.rl
    return rl_flops(
        model_config,
        np.full(questions, config.length - c.max_new_tokens),
        np.full((questions, group), c.max_new_tokens),
        updates=c.updates_per_step,
        critic=c.algorithm == "ppo",
        shared=row_shapes(config, mesh, model_config.head_dim).shared,
    )


def _without(kept: dict[str, Any], path: str) -> dict[str, Any]:
    return {k: v for k, v in kept.items() if k != path}


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
