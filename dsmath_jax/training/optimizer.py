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
    until 90%, 10% of it to the end. "constant" and "cosine" (to 10%) warm up alike.
    """
    warmup = optax.linear_schedule(0.0, config.learning_rate, config.warmup_steps)
    if config.schedule == "multi_step":
        marks = {int(0.8 * steps): 0.316, int(0.9 * steps): 0.1 / 0.316}
        after = optax.piecewise_constant_schedule(config.learning_rate, marks)

        def schedule(step):
            return jnp.where(step < config.warmup_steps, warmup(step), after(step))

        return schedule
    if config.schedule == "constant":
        after = optax.constant_schedule(config.learning_rate)
    elif config.schedule == "cosine":
        rest = max(steps - config.warmup_steps, 1)
        after = optax.cosine_decay_schedule(config.learning_rate, rest, alpha=0.1)
    else:
        raise InputError(
            f"config.optimizer.schedule={config.schedule!r} is unknown; "
            f"choose one of {', '.join(SCHEDULES)}"
        )
    return optax.join_schedules([warmup, after], [config.warmup_steps])


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
