"""What a step of decoding must read: with the memory's bandwidth, the bound of its speed."""

from __future__ import annotations

import jax.numpy as jnp

from dsmath_jax.models.config import ModelConfig


def decode_bytes(
    config: ModelConfig,
    dtype: str,
    *,
    prompts: int,
    rows: int,
    prompt_length: int,
    max_new_tokens: int,
    devices: int = 1,
    tensor: int = 1,
) -> float:
    """Bytes that each device reads in a step, on average over all but the first of
    `max_new_tokens` steps in which all rows go on.

    The weights once, without the embedding's table, of which a step reads `rows` rows; keys and
    values of each prompt once, for all of its samples; keys and values of what each row has
    written: `max_new_tokens` / 2 on that average.

    Args:
      dtype: of weights, keys and values.
      rows: that decode together, of `prompts` prompts.
      devices, tensor: over so many devices, of which `tensor` share one copy of the weights.
    """
    table = 0 if config.tie_embeddings else config.vocab_size * config.hidden_size
    weights = (config.num_params - table) / tensor
    per_token = 2 * config.num_layers * config.num_kv_heads * config.head_dim
    tokens = prompts * prompt_length + rows * max_new_tokens / 2
    return jnp.dtype(dtype).itemsize * (weights + per_token * tokens / devices)
