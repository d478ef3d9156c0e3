"""Advantages: how much better than its group a sample did."""

from __future__ import annotations

import jax
import jax.numpy as jnp


def group_advantages(rewards: jax.Array, *, ddof: int = 0, eps: float = 1e-6) -> jax.Array:
    """Outcome supervision (DeepSeekMath 4.1.2): A_i = (r_i - mean(r)) / std(r) in each group.

    The paper states neither the ddof of std nor an epsilon. A group whose rewards are all equal
    teaches nothing and gets exactly 0.

    Args:
      rewards: [questions, group] float32.
      ddof: 0 divides the squares by the group's size (numpy's default), 1 by one less.
      eps: added to std.

    Returns:
      [questions, group] float32.
    """
    rewards = rewards.astype(jnp.float32)
    centered = rewards - rewards.mean(axis=-1, keepdims=True)
    degrees = max(rewards.shape[-1] - ddof, 1)
    std = jnp.sqrt((centered**2).sum(axis=-1, keepdims=True) / degrees)
    all_equal = rewards.max(axis=-1, keepdims=True) == rewards.min(axis=-1, keepdims=True)
    return jnp.where(all_equal, 0.0, centered / (std + eps))
