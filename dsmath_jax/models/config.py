"""Shapes of Llama-family models: presets and Hugging Face config.json files."""

from __future__ import annotations

import dataclasses
import json
import pathlib
from collections.abc import Mapping
from typing import Any

ARCHITECTURES = ("LlamaForCausalLM", "Qwen2ForCausalLM")
REQUIRED = (
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
)
ROPE_FIELDS = {
    "linear": ("factor",),
    "llama3": (
        "factor",
        "low_freq_factor",
        "high_freq_factor",
        "original_max_position_embeddings",
    ),
}


@dataclasses.dataclass(frozen=True)
class RopeScaling:
    """Stretching of rotary frequencies: "linear" divides them all by `factor`; "llama3" only the
    slow ones, with a smooth passage between `low_freq_factor` and `high_freq_factor`."""

    kind: str
    factor: float
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0
    original_max_positions: int = 8192


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """A decoder-only transformer (DeepSeek LLM, Llama, Qwen2): RMSNorm first, RoPE, SwiGLU."""

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    max_positions: int = 4096
    norm_eps: float = 1e-6
    rope_theta: float = 10000.0
    rope_scaling: RopeScaling | None = None
    qkv_bias: bool = False
    tie_embeddings: bool = False
    init_std: float = 0.006  # DeepSeek LLM 2.2

    def __post_init__(self):
        if self.num_heads % self.num_kv_heads:
            raise ValueError(
                f"num_heads={self.num_heads} is not a multiple of num_kv_heads={self.num_kv_heads}"
            )
        if self.head_dim % 2:
            raise ValueError(f"head_dim={self.head_dim} is odd: rotary embeddings need pairs")

    @property
    def num_params(self) -> int:
        """Number of parameters, embeddings included."""
        from dsmath_jax.models.parameters import flat_specs

        return sum(spec.size for spec in flat_specs(self).values())

    @classmethod
    def from_hf(cls, config: Mapping[str, Any] | str | pathlib.Path) -> ModelConfig:
        """Reads a Hugging Face config.json (a path, its directory, or the parsed dict), as written
        by transformers 4 (`rope_theta`, `rope_scaling`) or 5 (`rope_parameters`).

        Raises:
          ValueError: the architecture, activation or RoPE kind is not implemented, or a field is
            missing (it is named).
        """
        if isinstance(config, Mapping):
            return _from_hf(dict(config))
        path = pathlib.Path(config)
        path = path / "config.json" if path.is_dir() else path
        if not path.exists():
            raise FileNotFoundError(f"{path} is missing: a checkpoint needs its config.json")
        try:
            return _from_hf(json.loads(path.read_text()))
        except json.JSONDecodeError as e:
            raise ValueError(f"{path} line {e.lineno} is not valid JSON: {e.msg}") from None

    def to_hf(self) -> dict[str, Any]:
        """The config.json that transformers 4 and 5 both read."""
        architecture = "Qwen2ForCausalLM" if self.qkv_bias else "LlamaForCausalLM"
        scaling: dict[str, Any] | None = None
        if self.rope_scaling is not None:
            s = self.rope_scaling
            scaling = {"rope_type": s.kind, "factor": s.factor}
            if s.kind == "llama3":
                scaling |= {
                    "low_freq_factor": s.low_freq_factor,
                    "high_freq_factor": s.high_freq_factor,
                    "original_max_position_embeddings": s.original_max_positions,
                }
        return {
            "architectures": [architecture],
            "model_type": "qwen2" if self.qkv_bias else "llama",
            "vocab_size": self.vocab_size,
            "hidden_size": self.hidden_size,
            "intermediate_size": self.intermediate_size,
            "num_hidden_layers": self.num_layers,
            "num_attention_heads": self.num_heads,
            "num_key_value_heads": self.num_kv_heads,
            "head_dim": self.head_dim,
            "max_position_embeddings": self.max_positions,
            "rms_norm_eps": self.norm_eps,
            "rope_theta": self.rope_theta,
            "rope_scaling": scaling,
            "tie_word_embeddings": self.tie_embeddings,
            "hidden_act": "silu",
            "initializer_range": self.init_std,
        }


def _from_hf(hf: dict[str, Any]) -> ModelConfig:
    architecture = (hf.get("architectures") or ["none"])[0]
    if architecture not in ARCHITECTURES:
        raise ValueError(
            f"architecture {architecture} is not implemented; config.json must name one of "
            f"{', '.join(ARCHITECTURES)}"
        )
    if missing := [field for field in REQUIRED if not hf.get(field)]:
        raise ValueError(f"config.json has no {', '.join(missing)}")
    if hf.get("hidden_act", "silu") != "silu":
        raise ValueError(f"hidden_act {hf['hidden_act']!r} is not implemented, only 'silu'")
    for field in ("attention_bias", "mlp_bias", "use_sliding_window"):
        if hf.get(field):
            raise ValueError(f"{field}=true in config.json is not implemented for {architecture}")
    rope = hf.get("rope_parameters") or {}
    scaling = hf.get("rope_scaling") or rope
    heads = hf["num_attention_heads"]
    return ModelConfig(
        vocab_size=hf["vocab_size"],
        hidden_size=hf["hidden_size"],
        intermediate_size=hf["intermediate_size"],
        num_layers=hf["num_hidden_layers"],
        num_heads=heads,
        num_kv_heads=hf.get("num_key_value_heads") or heads,
        head_dim=hf.get("head_dim") or hf["hidden_size"] // heads,
        max_positions=hf.get("max_position_embeddings", 2048),
        norm_eps=hf.get("rms_norm_eps", 1e-6),
        rope_theta=float(rope.get("rope_theta") or hf.get("rope_theta") or 10000.0),
        rope_scaling=_rope_scaling(scaling),
        qkv_bias=architecture == "Qwen2ForCausalLM",
        tie_embeddings=bool(hf.get("tie_word_embeddings", False)),
        init_std=hf.get("initializer_range", 0.02),
    )


def _rope_scaling(scaling: dict[str, Any]) -> RopeScaling | None:
    kind = scaling.get("rope_type") or scaling.get("type") or "default"
    if kind == "default":
        return None
    if kind not in ROPE_FIELDS:
        raise ValueError(f"rope scaling {kind!r} is not implemented, only 'linear' and 'llama3'")
    if missing := [field for field in ROPE_FIELDS[kind] if scaling.get(field) is None]:
        raise ValueError(f"rope scaling {kind!r} in config.json has no {', '.join(missing)}")
    if kind == "linear":
        return RopeScaling("linear", float(scaling["factor"]))
    return RopeScaling(
        "llama3",
        float(scaling["factor"]),
        float(scaling["low_freq_factor"]),
        float(scaling["high_freq_factor"]),
        int(scaling["original_max_position_embeddings"]),
    )


PRESETS = {
    "deepseek_7b": ModelConfig(
        vocab_size=102400,
        hidden_size=4096,
        intermediate_size=11008,
        num_layers=30,
        num_heads=32,
        num_kv_heads=32,
        head_dim=128,
    ),
    # DeepSeek-LLM 1.3B was never released; these shapes are DeepSeek-VL-1.3B's language model's.
    "deepseek_1_3b": ModelConfig(
        vocab_size=102400,
        hidden_size=2048,
        intermediate_size=5632,
        num_layers=24,
        num_heads=16,
        num_kv_heads=16,
        head_dim=128,
    ),
    "small": ModelConfig(  # 34M, that a CPU trains on in seconds a step: for measurements
        vocab_size=8192,
        hidden_size=512,
        intermediate_size=1376,
        num_layers=8,
        num_heads=8,
        num_kv_heads=8,
        head_dim=64,
        max_positions=512,
        init_std=0.02,
    ),
    "tiny": ModelConfig(
        vocab_size=512,
        hidden_size=128,
        intermediate_size=384,
        num_layers=4,
        num_heads=4,
        num_kv_heads=4,
        head_dim=32,
        max_positions=512,
        init_std=0.02,
    ),
}


def preset(name: str, **changes: Any) -> ModelConfig:
    """A named shape, with fields replaced: `preset("tiny", vocab_size=300)`."""
    if name not in PRESETS:
        raise ValueError(f"unknown model {name!r}; presets are {', '.join(PRESETS)}")
    return dataclasses.replace(PRESETS[name], **changes)
