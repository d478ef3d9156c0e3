"""What the RL stage compiles, beside the sampler's programs: GRPO, and PPO with its critic.

PPO is the paper's eq. 1 with eq. 2's reward. Not stated there, chosen here: the critic starts as
the policy, both are updated together (their gradients are clipped by one norm), values are clipped
like ratios, advantages are whitened over the batch's tokens.
"""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jax.sharding import Mesh
from ml_collections import ConfigDict

from dsmath_jax.losses import (
    gae,
    grpo_loss,
    importance_weights,
    kl_estimate,
    ppo_loss,
    sum_and_count,
    value_loss,
)
from dsmath_jax.models.sharding import constrain
from dsmath_jax.models.transformer import Transformer
from dsmath_jax.models.value_model import ValueModel
from dsmath_jax.rollout.local import weight_shardings
from dsmath_jax.training.update import (
    accumulate_parts,
    apply_gradient,
    predicted_mask,
    sequence_logprobs,
)
from dsmath_jax.training.xla_flags import training_options


class Programs(NamedTuple):
    """Compiled functions of parameters, rows [parts, rows, length] and the number of parts that are
    used (see `rl_rows.pack`): how many it is changes nothing that is compiled.

    generation_weights(policy): in the computation's dtype, laid out as `rollout.local` says; copies
      of which nothing is lost when the update reuses the state's memory.
    logprobs(policy, rows, used): [parts, rows, length] float32.
    estimate(critic, rows, used): rows with PPO's advantages, returns and old values.
    update(state, rows, used): (state, metrics); rows have `ref_logp` unless the KL coefficient is
      0, and `old_logp` where it is not the sampler's.
    """

    generation_weights: Any
    logprobs: Any
    estimate: Any
    update: Any


def make_programs(
    config: ConfigDict,
    model: Transformer,
    optimizer: optax.GradientTransformation,
    mesh: Mesh,
) -> Programs:
    rl = config.rl
    graph = nnx.split(model)[0]
    clips = {"clip_low": rl.clip_low, "clip_high": rl.clip_high, "aggregation": rl.aggregation}

    def cast(params):
        return jax.tree.map(lambda x: x.astype(config.dtype), params)

    def logprobs(params, rows, used):
        return _in_parts(
            lambda part: sequence_logprobs(graph, params, part, rl.temperature), rows, used
        )

    def of_tokens(batch):
        """What the losses of both algorithms take, beside the log-probabilities and advantages."""
        mask, options = predicted_mask(batch), {"lengths": batch["lengths"]}
        if rl.importance_cap:
            options["weights"] = importance_weights(
                _old_logp(batch), batch["rollout_logp"], mask, rl.importance_cap
            )
        return mask, options

    def measured(sums, logp, batch, mask, options):
        """Adds how far trainer and sampler are apart: (sums, peaks)."""
        gap = jnp.abs(jax.lax.stop_gradient(logp) - batch["rollout_logp"]) * mask
        sums["logprob_gap"] = (gap.sum(), mask.sum())
        if "weights" in options:
            weights = options["weights"]
            capped = (weights >= rl.importance_cap).astype(jnp.float32)
            sums["importance_weight"] = sum_and_count(weights, mask, "token_mean")
            sums["importance_capped"] = sum_and_count(capped, mask, "token_mean")
        return sums, {"logprob_gap_max": gap.max()}

    def grpo(params, batch):
        logp = sequence_logprobs(graph, params, batch, rl.temperature)
        mask, options = of_tokens(batch)
        loss, sums = grpo_loss(
            logp,
            _old_logp(batch),
            batch.get("ref_logp", logp),
            batch["advantages"],
            mask,
            kl_coef=rl.kl_coef,
            **clips,
            **options,
        )
        if "ref_logp" not in batch:
            del sums["kl"]
        return loss, measured(sums, logp, batch, mask, options)

    # ---- PPO ------------------------------------------------------------------------------------
    critic = nnx.eval_shape(lambda: ValueModel(model.config, dtype=model.dtype, remat=model.remat))
    critic_graph = nnx.split(critic)[0]

    def estimate(params, rows, used):
        values = _in_parts(lambda part: _values(critic_graph, params, part), rows, used)
        mask, per_token = jax.vmap(predicted_mask)(rows), rows["rewards"]
        if "ref_logp" in rows:
            per_token -= rl.kl_coef * mask * (_old_logp(rows) - rows["ref_logp"])
        advantages, returns = jax.vmap(functools.partial(gae, decay=rl.gae_decay))(
            per_token, values, mask, segment_ids=rows["segment_ids"]
        )
        average = (advantages * mask).sum() / mask.sum()
        variance = ((advantages - average) ** 2 * mask).sum() / mask.sum()
        advantages = (advantages - average) * jax.lax.rsqrt(variance + 1e-8) * mask
        return rows | {"advantages": advantages, "returns": returns, "old_values": values}

    def ppo(params, batch):
        logp = sequence_logprobs(graph, params["policy"], batch, rl.temperature)
        values = _values(critic_graph, params["critic"], batch)
        mask, options = of_tokens(batch)
        policy, sums = ppo_loss(
            logp, _old_logp(batch), batch["advantages"], mask, **clips, **options
        )
        error, value_sums = value_loss(
            values,
            batch["old_values"],
            batch["returns"],
            mask,
            aggregation=rl.aggregation,
            lengths=batch["lengths"],
        )
        (policy_sum, count), (value_sum, _) = sums["loss"], value_sums["loss"]
        sums |= {
            "loss": (policy_sum + value_sum, count),
            "policy_loss": (policy_sum, count),
            "value_error": value_sums["value_error"],
        }
        if "ref_logp" in batch:
            kl = kl_estimate(jax.lax.stop_gradient(logp), batch["ref_logp"])
            sums["kl"] = sum_and_count(kl, mask, "token_mean")
        return policy + error, measured(sums, logp, batch, mask, options)

    # ---- Both -----------------------------------------------------------------------------------
    def update(state, rows, used):
        loss_fn = ppo if rl.algorithm == "ppo" else grpo
        return apply_gradient(
            optimizer, state, *accumulate_parts(loss_fn, state.params, rows, used)
        )

    return Programs(
        jax.jit(cast, out_shardings=weight_shardings(model.config, mesh, rl.tensor)),
        jax.jit(logprobs),
        jax.jit(estimate),
        jax.jit(update, donate_argnums=0, compiler_options=training_options()),
    )


def _values(graph: nnx.GraphDef, params: dict[str, Any], batch: dict[str, jax.Array]) -> jax.Array:
    """[batch, length] float32: the value before each token was chosen (0 at a row's first)."""
    values = nnx.merge(graph, params)(
        batch["tokens"], batch["positions"], batch["segment_ids"], batch.get("prefix_ids")
    )
    return jnp.roll(values, 1, axis=1).at[:, 0].set(0.0)


def _in_parts(of_part: Any, rows: dict[str, jax.Array], used: jax.Array) -> jax.Array:
    """of_part(part), [rows, length] float32, of the first `used` parts; 0 for the others."""
    names = ("tokens", "segment_ids", "positions", "prefix_ids")
    rows = {name: rows[name] for name in names if name in rows}

    def body(i, done):
        return done.at[i].set(of_part({name: x[i] for name, x in rows.items()}))

    zeros = constrain(jnp.zeros(rows["tokens"].shape), "layers", "batch", "length")
    return jax.lax.fori_loop(0, used, body, zeros)


def _old_logp(batch: dict[str, jax.Array]) -> jax.Array:
    """Under the policy before the update: computed again by the trainer, or else the sampler's."""
    return batch.get("old_logp", batch["rollout_logp"])
