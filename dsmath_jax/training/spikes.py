"""Loss spikes: which steps are one, and whether to skip them. Computed on the devices.

A step is a spike when its loss or its gradient's norm (before clipping) is more than `sigmas`
standard deviations above the mean of the recent steps. A skipped one leaves parameters, optimizer
and these statistics as they were, and the run goes on with the next batch. (PaLM, section 5.1, goes
back to a checkpoint and leaves out the batches around a spike: this does it without going back.)
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

# Where the loss hardly moves, rounding is not a spike: the least deviation, as a share of the mean.
LEAST_DEVIATION = 1e-3


class SpikeRule(NamedTuple):
    """Fields of `config.spikes`.

    sigmas: standard deviations above the mean where spikes begin.
    window: how many steps are recent; each weighs 1/window in the averages, or all the same while
      there are fewer. Spikes are judged once there is half a window.
    skip: whether spikes are skipped, or only counted.
    max_in_a_row: after so many skipped in a row the level has changed: the next one is taken, and
      the averages begin anew with it.
    """

    sigmas: float = 6.0
    window: int = 128
    skip: bool = False
    max_in_a_row: int = 5

    @classmethod
    def of(cls, config: ConfigDict) -> SpikeRule:
        return cls(**config.spikes)


class History(NamedTuple):
    """What the rule remembers, part of the state.

    steps: int32, how many are in the averages (since they last began anew).
    mean, variance: [2] float32, of loss and gradient norm.
    in_a_row: int32, spikes skipped since a step was taken.
    spikes, skipped: int32, over the run; `skipped` counts steps that were not finite, too.
    """

    steps: jax.Array
    mean: jax.Array
    variance: jax.Array
    in_a_row: jax.Array
    spikes: jax.Array
    skipped: jax.Array


def new_history() -> History:
    count, pair = jnp.zeros((), jnp.int32), jnp.zeros(2, jnp.float32)
    return History(count, pair, pair, count, count, count)


def limits(rule: SpikeRule, history: History) -> jax.Array:
    """[2] float32: loss and gradient norm above which the next step is a spike."""
    deviation = jnp.sqrt(history.variance)
    least = LEAST_DEVIATION * jnp.abs(history.mean)
    known = history.steps >= max(rule.window // 2, 2)
    return jnp.where(known, history.mean + rule.sigmas * jnp.maximum(deviation, least), jnp.inf)


def judge(
    rule: SpikeRule, history: History, loss: jax.Array, norm: jax.Array
) -> tuple[jax.Array, jax.Array, History]:
    """Of a step's loss and gradient norm, float32 scalars.

    Returns:
      (spike, taken, history): bool scalars, and what is known after it. A step that is not finite
      is no spike, and not taken.
    """
    values = jnp.stack([loss, norm]).astype(jnp.float32)
    finite = jnp.isfinite(values).all()
    spike = finite & (values > limits(rule, history)).any()
    lasting = spike & (history.in_a_row >= rule.max_in_a_row)
    taken = finite & ~(spike & rule.skip & ~lasting)

    # Welford's update, whose weight stays at 1/window once there are as many steps.
    steps = jnp.where(lasting, 0, history.steps)
    weight = jnp.maximum(1 / (steps + 1), 1 / rule.window)
    step = jnp.where(taken, values - history.mean, 0.0)
    mean = jnp.where(lasting, values, history.mean + weight * step)
    variance = (1 - weight) * (history.variance + weight * step * step)
    return (
        spike,
        taken,
        History(
            steps=jnp.where(taken, steps + 1, steps),
            mean=jnp.where(taken, mean, history.mean),
            variance=jnp.where(taken, variance, history.variance),
            in_a_row=jnp.where(taken, 0, history.in_a_row + finite),
            spikes=history.spikes + spike,
            skipped=history.skipped + ~taken,
        ),
    )
