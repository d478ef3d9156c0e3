"""Proximal Policy Optimization: advantages from a learned value, its clipped loss, the critic's."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from dsmath_jax.losses.aggregation import mean, sum_and_count
from dsmath_jax.losses.policy import clipped_surrogate


def gae(
    rewards: jax.Array,
    values: jax.Array,
    mask: jax.Array,
    *,
    discount: float = 1.0,
    decay: float = 0.95,
    segment_ids: jax.Array | None = None,
) -> tuple[jax.Array, jax.Array]:
    """Generalized advantage estimation (Schulman et al. 2016, eq. 16).

    delta_t = r_t + discount * V_{t+1} - V_t and A_t = delta_t + discount * decay * A_{t+1}, over
    the tokens of the mask in their order; beyond the last one V and A are 0.

    Args:
      rewards: [batch, length] float32, of each token; with PPO's reward (DeepSeekMath eq. 2) the
        per-token divergence is in it.
      values: [batch, length] float32, the critic's estimate before each token is chosen.
      mask: [batch, length], 1 on completion tokens (the end-of-sequence token included).
      discount: gamma; 1 suits a reward at the end.
      decay: lambda.
      segment_ids: [batch, length], for rows into which several samples are packed: nothing passes
        from one segment to another. By default a row is one sample.

    Returns:
      (advantages, returns = advantages + values), [batch, length] float32, 0 beyond the mask. No
      gradient flows into them.
    """
    rewards, values = (jax.lax.stop_gradient(x.astype(jnp.float32)) for x in (rewards, values))

    if segment_ids is None:
        segment_ids = jnp.ones(mask.shape, jnp.int32)
    same = segment_ids == jnp.pad(segment_ids[:, 1:], ((0, 0), (0, 1)))

    def step(carry, inputs):
        reward, value, on, same = inputs
        next_value, next_advantage = (jnp.where(same, x, 0.0) for x in carry)
        advantage = reward + discount * next_value - value + discount * decay * next_advantage
        carry = (jnp.where(on, value, next_value), jnp.where(on, advantage, next_advantage))
        return carry, jnp.where(on, advantage, 0.0)

    zeros = jnp.zeros(rewards.shape[0], jnp.float32)
    inputs = (rewards.T, values.T, mask.T > 0, same.T)
    _, advantages = jax.lax.scan(step, (zeros, zeros), inputs, reverse=True)
    advantages = advantages.T
    return advantages, jnp.where(mask > 0, advantages + values, 0.0)


def ppo_loss(
    logp: jax.Array,
    old_logp: jax.Array,
    advantages: jax.Array,
    mask: jax.Array,
    *,
    clip_low: float = 0.2,
    clip_high: float | None = None,
    aggregation: str = "sequence_mean",
    weights: jax.Array | None = None,
    lengths: jax.Array | None = None,
):
    """The policy's clipped loss: DeepSeekMath eq. 1.

    Args:
      logp, old_logp: [batch, length] float32, log-probability of each sampled token under the
        policy being trained and the policy that sampled it.
      advantages: [batch, length] float32, of `gae`.
      mask: [batch, length], 1 on completion tokens (the end-of-sequence token included).
      clip_low, clip_high: the ratio stays in [1 - clip_low, 1 + clip_high]; clip_high defaults to
        clip_low.
      aggregation: "sequence_mean" is the paper's 1/|o|; "token_mean" weighs tokens alike.
      weights, lengths: [batch, length], as in `grpo_loss`.

    Returns:
      (loss, metrics): a scalar to minimise; a dict of (sum, count) pairs: loss, clip_fraction,
      entropy (estimated by -logp of the samples), ratio.

    Raises:
      ValueError: the shapes differ.
    """
    if not logp.shape == old_logp.shape == advantages.shape == mask.shape or logp.ndim != 2:
        raise ValueError(
            "logp, old_logp, advantages and mask must all be [batch, length]; got "
            f"{logp.shape}, {old_logp.shape}, {advantages.shape}, {mask.shape}"
        )
    surrogate, measures = clipped_surrogate(logp, old_logp, advantages, mask, clip_low, clip_high)
    if weights is not None:
        surrogate *= jax.lax.stop_gradient(jnp.where(mask > 0, weights, 0.0))
    loss = sum_and_count(-surrogate, mask, aggregation, lengths)
    return mean(loss), {"loss": loss} | measures


def value_loss(
    values: jax.Array,
    old_values: jax.Array,
    returns: jax.Array,
    mask: jax.Array,
    *,
    clip: float = 0.2,
    aggregation: str = "sequence_mean",
    lengths: jax.Array | None = None,
):
    """The critic's loss: half the squared error, the larger of the new value's and of that held
    within `clip` of the old one (Schulman's implementation; the paper does not say).

    Args:
      values, old_values: [batch, length] float32, of the critic being trained, and before.
      returns: [batch, length] float32, of `gae`.
      mask: [batch, length], 1 on completion tokens.
      clip: how far a value may move in one update; infinity does not clip.
      aggregation, lengths: as in `ppo_loss`.

    Returns:
      (loss, metrics): a scalar to minimise; a dict of (sum, count) pairs: loss, value_error (mean
      absolute error over tokens).
    """
    old_values, returns = jax.lax.stop_gradient((old_values, returns))
    near = old_values + jnp.clip(values - old_values, -clip, clip)
    squares = 0.5 * jnp.maximum((values - returns) ** 2, (near - returns) ** 2)
    loss = sum_and_count(squares, mask, aggregation, lengths)
    error = jax.lax.stop_gradient(jnp.abs(values - returns))
    return mean(loss), {"loss": loss, "value_error": sum_and_count(error, mask, "token_mean")}
