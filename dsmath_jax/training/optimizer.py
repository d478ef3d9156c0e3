"""AdamW and learning-rate schedules as DeepSeek LLM and DeepSeekMath use them."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import optax
from ml_collections import ConfigDict

from dsmath_jax.data.errors import InputError

SCHEDULES = ("multi_step", "constant", "cosine")


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


def make_optimizer(config: ConfigDict, steps: int) -> optax.GradientTransformation:
    """Clipping by global norm, then AdamW with float32 moments; norms and biases do not decay
    (the paper does not say)."""

    def decays(params):
        def is_matrix(path, _):
            return not path[-1].key.endswith("norm") and not path[-1].key.startswith("b")

        return jax.tree_util.tree_map_with_path(is_matrix, params)

    return optax.chain(
        optax.clip_by_global_norm(config.clip_norm),
        optax.scale_by_adam(config.b1, config.b2, config.eps),
        optax.add_decayed_weights(config.weight_decay, mask=decays),
        optax.scale_by_learning_rate(make_schedule(config, steps)),
    )
