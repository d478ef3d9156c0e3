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
    per_token = 2.0 * sum(spec.size for spec in layers.values() if len(spec.shape) == 3)
    per_pair = 4.0 * config.num_layers * config.num_heads * config.head_dim
    per_logit = 2.0 * config.hidden_size * config.vocab_size
    return per_token * tokens + per_pair * pairs + per_logit * logits


def train_flops(config: ModelConfig, tokens: float, pairs: float) -> float:
    """Of forward and backward over `tokens`, each with a prediction."""
    return 3 * forward_flops(config, tokens, pairs, tokens)


def rl_flops(
    config: ModelConfig,
    prompts: np.ndarray,
    completions: np.ndarray,
    *,
    updates: int = 1,
    critic: bool = False,
    forwards: int = 1,
    shared: bool = True,
) -> dict[str, float]:
    """Of one step of GRPO or PPO, by phase, and their sum as "step".

    generate: see `generation_flops`.
    logprob: `forwards` forward passes over all samples (the reference's; the policy's, where old
      log-probabilities are computed again), with logits of completions alone.
    update: forward and backward of the same, `updates` times; a critic's (without logits), too.
    value: the critic's forward pass, if there is one.

    Args:
      prompts: [questions] tokens of each.
      completions: [questions, group] tokens of each.
      shared: whether a prompt is computed once for its samples, not with each.
    """
    tokens, pairs = _tokens_and_pairs(prompts, completions, shared)
    policy = forward_flops(config, tokens, pairs, float(np.sum(completions)))
    value = forward_flops(config, tokens, pairs, 0.0) if critic else 0.0
    phases = {
        "generate": generation_flops(config, prompts, completions),
        "logprob": forwards * policy,
        "update": 3 * updates * (policy + value),
    }
    phases |= {"value": value} if critic else {}
    return phases | {"step": sum(phases.values())}


def generation_flops(config: ModelConfig, prompts: np.ndarray, completions: np.ndarray) -> float:
    """Each prompt read once for its group, each completion's token once, with logits; arguments as
    in `rl_flops`."""
    tokens, pairs = _tokens_and_pairs(prompts, completions, shared=True)
    return forward_flops(config, tokens, pairs, float(np.sum(completions)))


def _tokens_and_pairs(
    prompts: np.ndarray, completions: np.ndarray, shared: bool
) -> tuple[float, float]:
    """Of all samples, arguments as in `rl_flops`."""
    whole = np.asarray(prompts)[:, None] + completions
    repeats = completions.shape[1] - 1 if shared else 0
    tokens = float(whole.sum()) - repeats * float(np.sum(prompts))
    return tokens, causal_pairs(whole) - repeats * causal_pairs(prompts)


def causal_pairs(lengths: np.ndarray | list[int]) -> float:
    """(query, key) pairs of sequences (or segments) of these lengths: n (n + 1) / 2 each."""
    lengths = np.asarray(lengths, np.float64)
    return float((lengths * (lengths + 1) / 2).sum())
