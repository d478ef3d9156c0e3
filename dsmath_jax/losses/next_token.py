"""Maximum likelihood: pretraining and supervised fine-tuning."""

from __future__ import annotations

import jax

from dsmath_jax.losses.aggregation import mean, sum_and_count


def next_token_loss(logp: jax.Array, mask: jax.Array, *, aggregation: str = "token_mean"):
    """Negative log-likelihood of the trained tokens.

    Args:
      logp: [batch, length] float32, log-probability of each token given those before it.
      mask: [batch, length], 1 on the tokens to learn (for SFT the completion with its EOS).
      aggregation: "token_mean", or "sequence_mean" for the paper's SFT objective (eq. 6).

    Returns:
      (loss, metrics): a scalar to minimise; a dict of (sum, count) pairs.
    """
    loss = sum_and_count(-logp, mask, aggregation)
    return mean(loss), {"loss": loss}
