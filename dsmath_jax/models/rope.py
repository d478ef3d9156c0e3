"""Rotary position embeddings (Su et al. 2021), in the half-split convention of Hugging Face."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np

from dsmath_jax.models.config import ModelConfig


def frequencies(config: ModelConfig) -> np.ndarray:
    """[head_dim / 2] float32: angle per position of each pair, after scaling."""
    half = np.arange(0, config.head_dim, 2, dtype=np.float32) / config.head_dim
    freq = (1.0 / np.float32(config.rope_theta) ** half).astype(np.float32)
    scaling = config.rope_scaling
    if scaling is None:
        return freq
    if scaling.kind == "linear":
        return freq / np.float32(scaling.factor)
    # Llama 3: wavelengths beyond the original context are stretched, short ones kept.
    wavelength = 2 * math.pi / freq
    blend = (scaling.original_max_positions / wavelength - scaling.low_freq_factor) / (
        scaling.high_freq_factor - scaling.low_freq_factor
    )
    blend = np.clip(blend, 0.0, 1.0)
    return ((1 - blend) * freq / scaling.factor + blend * freq).astype(np.float32)


def cos_sin(config: ModelConfig, positions: jax.Array) -> tuple[jax.Array, jax.Array]:
    """positions [batch, length] -> cos and sin [batch, length, head_dim / 2] float32."""
    angles = positions[..., None].astype(jnp.float32) * frequencies(config)
    return jnp.cos(angles), jnp.sin(angles)


def rotate(x: jax.Array, cos: jax.Array, sin: jax.Array) -> jax.Array:
    """x [batch, length, heads, head_dim]; the pair (i, i + head_dim/2) turns by its angle."""
    a, b = jnp.split(x.astype(jnp.float32), 2, axis=-1)
    cos, sin = cos[:, :, None], sin[:, :, None]
    return jnp.concatenate([a * cos - b * sin, b * cos + a * sin], axis=-1).astype(x.dtype)
