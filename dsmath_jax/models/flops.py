"""Floating-point operations of a model, for MFU: matrix products and causal attention alone.

A matrix product of [m, k] and [k, n] counts 2 m k n. Attention counts the pairs of query and key
that the causal mask and the segments allow, not the square. The backward pass counts twice the
forward; what rematerialisation computes again does not count (model FLOPs, PaLM appendix B).
"""

from __future__ import annotations

import numpy as np

from dsmath_jax.models.config import ModelConfig
from dsmath_jax.models.parameters import param_specs


def forward_flops(config: ModelConfig, tokens: float, pairs: float, logits: float) -> float:
    """Of one forward pass.

    Args:
      tokens: read by the layers.
      pairs: (query, key) pairs that attention allows, per head and layer: see `causal_pairs`.
      logits: tokens for which the output head is computed.
    """
    layers = param_specs(config)["layers"]
    per_token = 2 * sum(spec.size for spec in layers.values() if len(spec.shape) == 3)
    per_pair = 4 * config.num_layers * config.num_heads * config.head_dim
    per_logit = 2 * config.hidden_size * config.vocab_size
    return per_token * tokens + per_pair * pairs + per_logit * logits


def train_flops(config: ModelConfig, tokens: float, pairs: float) -> float:
    """Of forward and backward over `tokens`, each with a prediction."""
    return 3 * forward_flops(config, tokens, pairs, tokens)


def causal_pairs(lengths: np.ndarray | list[int]) -> float:
    """(query, key) pairs of sequences (or segments) of these lengths: n (n + 1) / 2 each."""
    lengths = np.asarray(lengths, np.float64)
    return float((lengths * (lengths + 1) / 2).sum())
