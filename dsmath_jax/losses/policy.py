"""Policy losses: the plain gradient with given coefficients, and GRPO."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from dsmath_jax.losses.aggregation import mean, sum_and_count
from dsmath_jax.losses.kl import kl_estimate


def policy_gradient_loss(
    logp: jax.Array,
    coefficients: jax.Array,
    mask: jax.Array,
    *,
    aggregation: str = "sequence_mean",
    lengths: jax.Array | None = None,
):
    """The paper's common form (eq. 5): its gradient is -mean of coefficient * grad logp.

    Args:
      logp: [batch, length] float32 under the policy being trained.
      coefficients: [batch, length] (or [batch, 1]), constants: 1 for SFT, the correctness of the
        answer for RFT and Online RFT, the advantage for PPO.
      mask: [batch, length], 1 on completion tokens (the end-of-sequence token included).
      aggregation: "sequence_mean" is the paper's 1/|o|; "token_mean" is DAPO's.
      lengths: of packed rows, see `grpo_loss`.

    Returns:
      (loss, metrics): a scalar to minimise; a dict of (sum, count) pairs.
    """
    coefficients = jnp.where(mask > 0, jax.lax.stop_gradient(coefficients), 0.0)
    loss = sum_and_count(-coefficients * logp, mask, aggregation, lengths)
    return mean(loss), {"loss": loss}


def grpo_loss(
    logp: jax.Array,
    old_logp: jax.Array,
    ref_logp: jax.Array,
    advantages: jax.Array,
    mask: jax.Array,
    *,
    clip_low: float = 0.2,
    clip_high: float | None = None,
    kl_coef: float = 0.04,
    aggregation: str = "sequence_mean",
    weights: jax.Array | None = None,
    lengths: jax.Array | None = None,
):
    """Group Relative Policy Optimization: DeepSeekMath eq. 3, the KL of eq. 4 inside the loss.

    Args:
      logp, old_logp, ref_logp: [batch, length] float32, log-probability of each sampled token under
        the policy being trained, the policy that sampled it, and the frozen reference.
      advantages: [batch, length] (or [batch, 1]) float32, constant over a sample for outcome
        supervision.
      mask: [batch, length], 1 on completion tokens (the end-of-sequence token included).
      clip_low, clip_high: the ratio stays in [1 - clip_low, 1 + clip_high]; clip_high defaults to
        clip_low.
      kl_coef: weight of the divergence from the reference.
      aggregation: "sequence_mean" is the paper's 1/|o_i|; "token_mean" is DAPO's.
      weights: [batch, length], constants that the policy's term of each token is multiplied with
        (see `importance_weights`); 1 by default.
      lengths: [batch, length], for rows into which several samples are packed: at each token of
        the mask, how many the mask has of its sample. By default a row is one sample.

    Returns:
      (loss, metrics): a scalar to minimise; a dict of (sum, count) pairs: loss, kl, clip_fraction,
      entropy (estimated by -logp of the samples), ratio.

    Raises:
      ValueError: shapes that would broadcast to something else than meant.
    """
    if logp.ndim != 2 or mask.shape != logp.shape or advantages.ndim != 2:
        raise ValueError(
            f"logp and mask must be [batch, length], advantages [batch, length] or [batch, 1]; got "
            f"{logp.shape}, {mask.shape}, {advantages.shape}"
        )
    on = mask > 0
    advantages = jnp.broadcast_to(advantages, logp.shape)
    surrogate, measures = clipped_surrogate(logp, old_logp, advantages, mask, clip_low, clip_high)
    if weights is not None:
        surrogate *= jax.lax.stop_gradient(jnp.where(on, weights, 0.0))
    kl = kl_estimate(jnp.where(on, logp, 0.0), jnp.where(on, ref_logp, 0.0), "k3")
    loss = sum_and_count(kl_coef * kl - surrogate, mask, aggregation, lengths)
    measures["kl"] = sum_and_count(jax.lax.stop_gradient(kl), mask, "token_mean")
    return mean(loss), {"loss": loss} | measures


def importance_weights(
    old_logp: jax.Array, rollout_logp: jax.Array, mask: jax.Array, cap: float
) -> jax.Array:
    """min(pi_old / pi_rollout, cap) of each token: truncated importance sampling.

    Samples come from the rollout's policy: its kernels round otherwise than the trainer's, and its
    weights may be older. Where `old_logp` is the trainer's own, these weights make the expectation
    right up to the cap, which bounds the variance (Yao et al. 2025, "Your Efficient RL Framework
    Secretly Brings You Off-Policy RL Training").

    Args:
      old_logp, rollout_logp: [batch, length] float32, log-probability of each sampled token under
        the trainer's policy before the update, and under the one that sampled it.
      mask: [batch, length], 1 on completion tokens.
      cap: the largest weight.

    Returns:
      [batch, length] float32, 0 beyond the mask. No gradient flows into them.
    """
    ratio = jnp.exp(jnp.where(mask > 0, old_logp - rollout_logp, 0.0))
    return jax.lax.stop_gradient(jnp.where(mask > 0, jnp.minimum(ratio, cap), 0.0))


def clipped_surrogate(
    logp: jax.Array,
    old_logp: jax.Array,
    advantages: jax.Array,
    mask: jax.Array,
    clip_low: float,
    clip_high: float | None,
) -> tuple[jax.Array, dict[str, tuple[jax.Array, jax.Array]]]:
    """min(ratio A, clip(ratio) A) of each token, common to GRPO and PPO; and (sum, count) pairs:
    clip_fraction, entropy, ratio. All arrays are [batch, length]; see `grpo_loss`."""
    ratio = jnp.exp(jnp.where(mask > 0, logp - jax.lax.stop_gradient(old_logp), 0.0))
    clipped = jnp.clip(ratio, 1 - clip_low, 1 + (clip_low if clip_high is None else clip_high))
    advantages = jax.lax.stop_gradient(advantages)
    per_token = {
        "clip_fraction": clipped * advantages < ratio * advantages,
        "entropy": -logp,
        "ratio": ratio,
    }
    measures = {
        name: sum_and_count(jax.lax.stop_gradient(values).astype(jnp.float32), mask, "token_mean")
        for name, values in per_token.items()
    }
    return jnp.minimum(ratio * advantages, clipped * advantages), measures
