"""What pretraining and fine-tuning share: they differ in their batches alone."""

from __future__ import annotations

import contextlib
import math
import pathlib
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from ml_collections import ConfigDict

from dsmath_jax.data.batches import Batches, heldout_batches
from dsmath_jax.data.mixture import Mixture
from dsmath_jax.data.packing import Rows
from dsmath_jax.data.tokenizers import Tokenizer
from dsmath_jax.losses import next_token_loss
from dsmath_jax.models.flops import train_flops
from dsmath_jax.models.transformer import Transformer
from dsmath_jax.stages import setup
from dsmath_jax.training.checkpoints import Checkpoints
from dsmath_jax.training.loop import Result, run
from dsmath_jax.training.optimizer import make_optimizer, make_schedule
from dsmath_jax.training.spikes import SpikeRule
from dsmath_jax.training.state import abstract_state, init_state
from dsmath_jax.training.update import (
    accumulate,
    make_update,
    predicted_mask,
    sequence_logprobs,
)
from dsmath_jax.training.xla_flags import training_options


class Programs(NamedTuple):
    """What is compiled: update(state, batch) -> (state, metrics), heldout_sums(params, batch) ->
    (sum, count) of the loss; gradient(params, batch) is the part of update before the optimizer."""

    update: Any
    heldout_sums: Any
    gradient: Any


def make_programs(
    config: ConfigDict, model: Transformer, optimizer: optax.GradientTransformation
) -> Programs:
    graph = nnx.split(model)[0]

    def loss_fn(params, batch):
        logp = sequence_logprobs(graph, params, batch)
        loss, sums = next_token_loss(logp, predicted_mask(batch))
        used = (batch["segment_ids"] > 0).astype(jnp.float32)
        sums["packed"] = (used.sum(), jnp.float32(used.size))
        for number, name in enumerate(config.data.mixture if "source" in batch else ()):
            of_source = used * (batch["source"] == number)[:, None]
            sums[f"share/{name}"] = (of_source.sum(), used.sum())
        pairs = (used * (batch["positions"] + 1)).sum()
        sums["flops/step"] = (train_flops(model.config, used.sum(), pairs), jnp.float32(0))
        return loss, (sums, {})

    return Programs(
        update=make_update(loss_fn, optimizer, config.micro_batches, SpikeRule.of(config)),
        heldout_sums=jax.jit(lambda params, batch: loss_fn(params, batch)[1][0]["loss"]),
        gradient=jax.jit(
            lambda params, batch: accumulate(loss_fn, params, batch, config.micro_batches),
            compiler_options=training_options(),
        ),
    )


def fit(
    config: ConfigDict,
    workdir: pathlib.Path,
    tokenizer: Tokenizer,
    mixture: Mixture,
    heldout: Sequence[Rows],
) -> Result:
    """Maximises the likelihood of the masked tokens; `eval/loss` is on the held-out rows, and where
    there are several sources or sets of them `eval/loss_NAME` on those of each.

    Args:
      mixture: the rows to train on.
      heldout: rows of each source or set that has some, one epoch.
    """
    # ---- Mesh, model, optimizer -----------------------------------------------------------------
    mesh = setup.open_mesh(config)
    setup.check_parts(config.batch_size, config, mesh, "config.batch_size")
    eval_size = setup.evaluation_rows(config, mesh)
    train_batches = Batches(
        mixture,
        config.batch_size,
        seed=config.seed,
        local=setup.local_rows(mesh, config.batch_size),
        workers=config.data.workers,
    )
    model_config = setup.open_model_config(config, tokenizer)
    optimizer = make_optimizer(config.optimizer, config.steps)
    checkpoints = Checkpoints(workdir, config, model_config)
    checkpoints.check()
    setup.write_run_files(config, model_config, tokenizer, workdir)

    def new_state():
        params = setup.initial_params(config, model_config, mesh)
        return init_state(params, optimizer, mesh, model_config)

    # ---- One step, and the held-out loss --------------------------------------------------------
    programs = make_programs(config, setup.open_model(config, model_config), optimizer)

    def step_fn(state, batch, step, phases):
        state, metrics = programs.update(state, setup.put_batch(batch, mesh, config.batch_size))
        metrics = metrics | {"tokens": config.batch_size * config.length}
        if config.data.mixture:  # since the start of the run
            counts = mixture.tokens(train_batches.rows)
            metrics |= {f"tokens/{name}": count for name, count in counts.items()}
        return state, metrics

    def heldout_loss(params, rows):
        local = setup.local_rows(mesh, eval_size)
        batches = heldout_batches(rows, eval_size, local)
        put = (setup.put_batch(batch, mesh, eval_size) for batch in batches)
        pairs = [jax.device_get(programs.heldout_sums(params, batch)) for batch in put]
        return [float(sum(part)) for part in zip(*pairs, strict=True)]

    def evaluate(state, step):
        if not heldout:
            return {}
        sums = {rows.name: heldout_loss(state.params, rows) for rows in heldout}
        total, count = (sum(part) for part in zip(*sums.values(), strict=True))
        loss = total / count
        results = {"eval/loss": loss, "eval/perplexity": math.exp(min(loss, 50.0))}
        if config.data.mixture or config.data.heldout:
            results |= {f"eval/loss_{name}": part / n for name, (part, n) in sums.items()}
        return results

    # ---- Train ----------------------------------------------------------------------------------
    with jax.set_mesh(mesh), contextlib.closing(train_batches):
        return run(
            config,
            workdir,
            checkpoints,
            train_batches,
            step_fn,
            new_state=new_state,
            abstract=abstract_state(model_config, optimizer, mesh),
            evaluate=evaluate,
            learning_rate=make_schedule(config.optimizer, config.steps),
        )
