"""A transformer whose head gives one number for each token: the critic of PPO."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from dsmath_jax.models.config import ModelConfig
from dsmath_jax.models.parameters import ParamSpec, param_specs
from dsmath_jax.models.transformer import Transformer


def value_specs(config: ModelConfig) -> dict:
    """Nested dict of ParamSpec: those of the transformer without its output head, and the number's
    weights, which start at 0."""
    trunk = param_specs(dataclasses.replace(config, tie_embeddings=True))
    return {
        "trunk": trunk,
        "value": ParamSpec((config.hidden_size,), ("norm",), "value.weight", "zeros"),
    }


class ValueModel(nnx.Module):
    """Values [batch, length] float32 from tokens.

    Args:
      config: the transformer's shapes; its output head is left out.
      params: nested dict of arrays, structured as `value_specs`; random ones by default.
      **options: of `Transformer`.
    """

    def __init__(self, config: ModelConfig, *, params: dict[str, Any] | None = None, **options):
        trunk = dataclasses.replace(config, tie_embeddings=True)
        inner = None if params is None else params["trunk"]
        self.trunk = Transformer(trunk, params=inner, **options)
        self.value = nnx.Param(jnp.zeros(config.hidden_size) if params is None else params["value"])

    def __call__(
        self,
        tokens: jax.Array,
        positions: jax.Array | None = None,
        segment_ids: jax.Array | None = None,
        prefix_ids: jax.Array | None = None,
    ) -> jax.Array:
        """The value after each token was read: [batch, length] float32; arguments as
        `Transformer.hidden` has them."""
        hidden = self.trunk.hidden(tokens, positions, segment_ids, prefix_ids)
        weights = self.value[...].astype(hidden.dtype)
        return jnp.einsum("bth,h->bt", hidden, weights, preferred_element_type=jnp.float32)


def value_params(policy: dict[str, Any]) -> dict[str, Any]:
    """A critic that starts as the policy (nested as `param_specs`) and values everything 0."""
    trunk = {k: jax.tree.map(jnp.copy, v) for k, v in policy.items() if k != "head"}
    return {"trunk": trunk, "value": jnp.zeros_like(policy["final_norm"])}
