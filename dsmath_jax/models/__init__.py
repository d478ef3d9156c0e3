"""The transformer, its parameters, sharding and Hugging Face conversion."""

from dsmath_jax.models.config import PRESETS, ModelConfig, RopeScaling, preset
from dsmath_jax.models.transformer import KVCache, Transformer, init_params

__all__ = [
    "PRESETS",
    "KVCache",
    "ModelConfig",
    "RopeScaling",
    "Transformer",
    "init_params",
    "preset",
]
