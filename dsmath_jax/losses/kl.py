"""Per-token estimates of the divergence from a reference policy (Schulman 2020)."""

from __future__ import annotations

import jax
import jax.numpy as jnp


def kl_estimate(logp: jax.Array, ref_logp: jax.Array, kind: str = "k3") -> jax.Array:
    """Estimates KL(pi_theta || pi_ref) from tokens that pi_theta sampled.

    "k3" is DeepSeekMath eq. 4: pi_ref/pi_theta - log(pi_ref/pi_theta) - 1, never negative. As a
    loss on on-policy samples its gradient is that of the forward KL(pi_ref || pi_theta); "k1" has
    zero expected gradient there and serves as a metric.

    Args:
      logp, ref_logp: [batch, length] float32 log-probabilities of the sampled tokens.
      kind: "k1" (log ratio), "k2" (half its square) or "k3".
    """
    difference = ref_logp - logp
    if kind == "k1":
        return -difference
    if kind == "k2":
        return 0.5 * difference**2
    if kind == "k3":
        return jnp.expm1(difference) - difference
    raise ValueError(f"unknown KL estimate {kind!r}; choose one of ('k1', 'k2', 'k3')")
