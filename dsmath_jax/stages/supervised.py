"""What pretraining and fine-tuning share: they differ in their batches alone."""

from __future__ import annotations

import math
import pathlib
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from ml_collections import ConfigDict

from dsmath_jax.data.batches import padded_batches
from dsmath_jax.data.examples import Example
from dsmath_jax.data.tokenizers import Tokenizer
from dsmath_jax.losses import next_token_loss
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
        return loss, (sums, {})

    return Programs(
        update=make_update(loss_fn, optimizer, config.micro_batches, SpikeRule.of(config)),
        heldout_sums=jax.jit(lambda params, batch: loss_fn(params, batch)[1][0]["loss"]),
        gradient=jax.jit(
            lambda params, batch: accumulate(loss_fn, params, batch, config.micro_batches)
        ),
    )


def fit(
    config: ConfigDict,
    workdir: pathlib.Path,
    tokenizer: Tokenizer,
    examples: list[Example],
    heldout: list[Example],
    batches: Callable[[list[Example], int, bool], Any],
) -> Result:
    """Maximises the likelihood of the masked tokens; `eval/loss` is on the held-out examples.

    Args:
      batches: (examples, batch size, whether to repeat for ever) -> iterator of batches.
    """
    # ---- Mesh, model, optimizer -----------------------------------------------------------------
    mesh = setup.open_mesh(config)
    setup.check_parts(config.batch_size, config, mesh, "config.batch_size")
    train_batches = batches(examples, config.batch_size, True)
    eval_size = config.eval.batch_size
    heldout_batches = (
        list(padded_batches(batches(heldout, eval_size, False), eval_size)) if heldout else []
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
        state, metrics = programs.update(state, setup.put_batch(batch, mesh))
        return state, metrics | {"tokens": config.batch_size * config.length}

    def evaluate(state, step):
        if not heldout_batches:
            return {}
        rows = (setup.put_batch(batch, mesh) for batch in heldout_batches)
        pairs = [jax.device_get(programs.heldout_sums(state.params, batch)) for batch in rows]
        total, count = (float(sum(part)) for part in zip(*pairs, strict=True))
        loss = total / count
        return {"eval/loss": loss, "eval/perplexity": math.exp(min(loss, 50.0))}

    # ---- Train ----------------------------------------------------------------------------------
    with jax.set_mesh(mesh):
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
