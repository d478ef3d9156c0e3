"""The one table of parameters: shape, logical axes, initialisation and Hugging Face name of each.

Initialisation, sharding, checkpoints and conversion all follow from it. Matrices are stored
[in, out] (Hugging Face stores [out, in]); the parameters of all layers are stacked on a first axis.
"""

from __future__ import annotations

import dataclasses
import math
import zlib

import jax
import jax.numpy as jnp

from dsmath_jax.models.config import ModelConfig


@dataclasses.dataclass(frozen=True)
class ParamSpec:
    """One parameter. `axes` name its dimensions for `sharding.RULES`; `hf_name` holds "{layer}"
    when the first axis stacks layers; `transpose` says that Hugging Face stores [out, in]."""

    shape: tuple[int, ...]
    axes: tuple[str, ...]
    hf_name: str
    init: str = "normal"
    transpose: bool = False

    @property
    def stacked(self) -> bool:
        return self.axes[0] == "layers"

    @property
    def size(self) -> int:
        return math.prod(self.shape)


def param_specs(c: ModelConfig) -> dict:
    """Nested dict of ParamSpec, of the same structure as the model's parameters."""
    q_size, kv_size = c.num_heads * c.head_dim, c.num_kv_heads * c.head_dim

    def matrix(rows: int, cols: int, axes: tuple[str, str], name: str) -> ParamSpec:
        return ParamSpec(
            (c.num_layers, rows, cols),
            ("layers", *axes),
            f"model.layers.{{layer}}.{name}.weight",
            transpose=True,
        )

    def vector(size: int, axis: str, name: str, init: str) -> ParamSpec:
        return ParamSpec(
            (c.num_layers, size), ("layers", axis), f"model.layers.{{layer}}.{name}", init
        )

    layers = {
        "attn_norm": vector(c.hidden_size, "norm", "input_layernorm.weight", "ones"),
        "wq": matrix(c.hidden_size, q_size, ("embed", "heads"), "self_attn.q_proj"),
        "wk": matrix(c.hidden_size, kv_size, ("embed", "kv_heads"), "self_attn.k_proj"),
        "wv": matrix(c.hidden_size, kv_size, ("embed", "kv_heads"), "self_attn.v_proj"),
        "wo": matrix(q_size, c.hidden_size, ("heads_in", "hidden"), "self_attn.o_proj"),
        "mlp_norm": vector(c.hidden_size, "norm", "post_attention_layernorm.weight", "ones"),
        "w_gate": matrix(c.hidden_size, c.intermediate_size, ("embed", "mlp"), "mlp.gate_proj"),
        "w_up": matrix(c.hidden_size, c.intermediate_size, ("embed", "mlp"), "mlp.up_proj"),
        "w_down": matrix(c.intermediate_size, c.hidden_size, ("mlp_in", "hidden"), "mlp.down_proj"),
    }
    if c.qkv_bias:
        layers |= {
            "bq": vector(q_size, "heads", "self_attn.q_proj.bias", "zeros"),
            "bk": vector(kv_size, "kv_heads", "self_attn.k_proj.bias", "zeros"),
            "bv": vector(kv_size, "kv_heads", "self_attn.v_proj.bias", "zeros"),
        }
    specs = {
        "embed": ParamSpec(
            (c.vocab_size, c.hidden_size), ("vocab", "embed"), "model.embed_tokens.weight"
        ),
        "layers": layers,
        "final_norm": ParamSpec((c.hidden_size,), ("norm",), "model.norm.weight", "ones"),
    }
    if not c.tie_embeddings:
        specs["head"] = ParamSpec(
            (c.hidden_size, c.vocab_size), ("embed", "vocab"), "lm_head.weight", transpose=True
        )
    return specs


def flat_specs(config: ModelConfig) -> dict[str, ParamSpec]:
    """The table by dotted name, as in "layers.wq"."""
    flat: dict[str, ParamSpec] = {}
    for name, entry in param_specs(config).items():
        if isinstance(entry, dict):
            flat |= {f"{name}.{inner}": spec for inner, spec in entry.items()}
        else:
            flat[name] = entry
    return flat


def init_param(
    name: str, spec: ParamSpec, key: jax.Array, std: float, dtype: jnp.dtype
) -> jax.Array:
    """Normal(0, std), ones or zeros; a parameter's draw depends on the key and its name alone."""
    if spec.init == "ones":
        return jnp.ones(spec.shape, dtype)
    if spec.init == "zeros":
        return jnp.zeros(spec.shape, dtype)
    key = jax.random.fold_in(key, zlib.crc32(name.encode()))
    return (std * jax.random.normal(key, spec.shape, jnp.float32)).astype(dtype)
