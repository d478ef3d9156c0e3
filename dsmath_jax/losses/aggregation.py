"""From values per token to one number, as a sum and a count that add up over micro-batches."""

from __future__ import annotations

import jax
import jax.numpy as jnp

AGGREGATIONS = ("sequence_mean", "token_mean")


def sum_and_count(
    values: jax.Array,
    mask: jax.Array,
    aggregation: str = "sequence_mean",
    lengths: jax.Array | None = None,
) -> tuple[jax.Array, jax.Array]:
    """The mean of `values` [batch, length] under `mask` is sum / count.

    "sequence_mean" is DeepSeekMath's: each sequence's mean over its own tokens (the 1/|o_i| of
    eq. 3), then the mean over sequences that have any. "token_mean" (DAPO) weighs tokens alike.

    Args:
      lengths: [batch, length], for rows that hold several sequences: at each token of the mask, how
        many the mask has of its sequence. By default a row is one sequence.
    """
    mask = mask.astype(jnp.float32)
    values = jnp.where(mask > 0, values, 0.0) * mask
    if aggregation == "token_mean":
        return values.sum(), mask.sum()
    if aggregation == "sequence_mean":
        if lengths is not None:
            weights = mask / jnp.where(mask > 0, lengths, 1.0)
            return (values * weights).sum(), weights.sum()
        tokens = mask.sum(axis=-1)
        return (values.sum(axis=-1) / jnp.maximum(tokens, 1.0)).sum(), (tokens > 0).sum()
    raise ValueError(f"unknown aggregation {aggregation!r}; choose one of {AGGREGATIONS}")


def mean(pair: tuple[jax.Array, jax.Array]) -> jax.Array:
    """sum / count, and 0 when nothing was counted."""
    total, count = pair
    return total / jnp.maximum(count, 1)
