"""AdamW and learning-rate schedules as DeepSeek LLM and DeepSeekMath use them."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import optax
from ml_collections import ConfigDict

from dsmath_jax.data.errors import InputError

SCHEDULES = ("multi_step", "constant", "cosine")
MOMENTS = ("float32", "bfloat16")


def make_schedule(config: ConfigDict, steps: int) -> optax.Schedule:
    """Learning rate by step.

    "multi_step" (DeepSeekMath 2.2): linear warm-up, then the peak until 80% of `steps`, 31.6% of it
    until 90%, 10% of it to the end. "constant" and "cosine" (to 10%) warm up alike; the first step
    has 1/warmup_steps of the peak, and not 0.
    """
    peak, warm = config.learning_rate, config.warmup_steps

    def warmup(step):
        return peak * jnp.minimum((step + 1) / max(warm, 1), 1.0)

    if config.schedule == "multi_step":

        def schedule(step):
            factor = jnp.where(step < 0.8 * steps, 1.0, jnp.where(step < 0.9 * steps, 0.316, 0.1))
            return jnp.where(step < warm, warmup(step), peak * factor)

        return schedule
    if config.schedule == "constant":
        after = optax.constant_schedule(peak)
    elif config.schedule == "cosine":
        after = optax.cosine_decay_schedule(peak, max(steps - warm, 1), alpha=0.1)
    else:
        raise InputError(
            f"config.optimizer.schedule={config.schedule!r} is unknown; "
            f"choose one of {', '.join(SCHEDULES)}"
        )
    return optax.join_schedules([warmup, after], [warm])


def make_optimizer(
    config: ConfigDict, steps: int, *, critic_rate: float = 1.0
) -> optax.GradientTransformation:
    """Clipping by global norm, then AdamW; norms and biases do not decay (the paper does not say).

    Moments are float32, or bfloat16 with `config.moments`: half of the optimizer's memory, computed
    with in float32 all the same. Parameters under "critic" learn at `critic_rate` times the rate.
    """

    def decays(params):
        def is_matrix(path, _):
            return not path[-1].key.endswith("norm") and not path[-1].key.startswith("b")

        return jax.tree_util.tree_map_with_path(is_matrix, params)

    def faster_critic(updates, params):
        return updates | {"critic": jax.tree.map(lambda u: u * critic_rate, updates["critic"])}

    if config.moments not in MOMENTS:
        raise InputError(
            f"config.optimizer.moments={config.moments!r}: choose one of {', '.join(MOMENTS)}"
        )
    return optax.chain(
        optax.clip_by_global_norm(config.clip_norm),
        _scale_by_adam(config.b1, config.b2, config.eps, jnp.dtype(config.moments)),
        optax.add_decayed_weights(config.weight_decay, mask=decays),
        optax.scale_by_learning_rate(make_schedule(config, steps)),
        *([] if critic_rate == 1.0 else [optax.stateless(faster_critic)]),
    )


def _scale_by_adam(b1: float, b2: float, eps: float, dtype: Any) -> optax.GradientTransformation:
    """optax.scale_by_adam whose moments lie in `dtype` between steps."""
    adam = optax.scale_by_adam(b1, b2, eps)
    if dtype == jnp.float32:
        return adam

    def stored_as(state, kind):
        mu, nu = optax.tree.cast((state.mu, state.nu), kind)
        return state._replace(mu=mu, nu=nu)

    def update(updates, state, params=None):
        updates, state = adam.update(updates, stored_as(state, jnp.float32), params)
        return updates, stored_as(state, dtype)

    return optax.GradientTransformation(lambda p: stored_as(adam.init(p), dtype), update)
