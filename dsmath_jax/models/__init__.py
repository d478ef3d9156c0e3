"""The transformer, its parameters, sharding and Hugging Face conversion."""

from dsmath_jax.models.checkpoint import load_params, save_params
from dsmath_jax.models.config import PRESETS, ModelConfig, RopeScaling, preset
from dsmath_jax.models.hf import load_hf, save_hf
from dsmath_jax.models.transformer import Transformer, init_params

__all__ = [
    "PRESETS",
    "ModelConfig",
    "RopeScaling",
    "Transformer",
    "init_params",
    "load_hf",
    "load_params",
    "preset",
    "save_hf",
    "save_params",
]
