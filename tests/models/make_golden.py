"""Makes golden/*.json: logits that transformers computes for small random checkpoints.

    python tests/models/make_golden.py        (needs torch and transformers)

Weights are not stored: `state_dict` draws them again from the seed, with numpy's frozen generator.
"""

import json
import pathlib
import zlib

import numpy as np

GOLDEN = pathlib.Path(__file__).parent / "golden"
SEED = 0
BATCH, LENGTH = 2, 96
AT_POSITIONS = [0, 1, 7, 31, 63, 64, 95]  # logits kept of these, for every eighth word
EVERY_WORD = 8

SHAPE = {
    "vocab_size": 256,
    "hidden_size": 64,
    "intermediate_size": 160,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "max_position_embeddings": 512,
}
GROUPED = {"num_key_value_heads": 2, "head_dim": 24}
# With 16 dimensions a head and 64 original positions, some wavelengths are kept, some blended and
# some stretched.
LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
    "rope_theta": 10000.0,
}
LINEAR = {"rope_type": "linear", "factor": 4.0, "rope_theta": 100000.0}
KINDS = {
    "deepseek": ("llama", {"rms_norm_eps": 1e-6, "rope_parameters": {"rope_theta": 10000.0}}),
    "llama_grouped": ("llama", {**GROUPED, "rope_parameters": {"rope_theta": 500000.0}}),
    "qwen2": (
        "qwen2",
        {
            "num_key_value_heads": 2,
            "tie_word_embeddings": True,
            "rope_parameters": {"rope_theta": 1e6},
        },
    ),
    "llama3_scaling": ("llama", {"num_key_value_heads": 2, "rope_parameters": LLAMA3}),
    "linear_scaling": ("llama", {"rope_parameters": LINEAR}),
}


def state_dict(config: dict, seed: int = SEED) -> dict[str, np.ndarray]:
    """Random float32 weights of a Llama or Qwen2 config.json, by Hugging Face name."""
    hidden, inner = config["hidden_size"], config["intermediate_size"]
    head_dim = config.get("head_dim") or hidden // config["num_attention_heads"]
    q, kv = (config[f"num_{k}_heads"] * head_dim for k in ("attention", "key_value"))
    vocab = config["vocab_size"]
    shapes = {"model.embed_tokens.weight": (vocab, hidden), "model.norm.weight": (hidden,)}
    if not config.get("tie_word_embeddings"):
        shapes["lm_head.weight"] = (vocab, hidden)
    for i in range(config["num_hidden_layers"]):
        layer = {
            "input_layernorm.weight": (hidden,),
            "self_attn.q_proj.weight": (q, hidden),
            "self_attn.k_proj.weight": (kv, hidden),
            "self_attn.v_proj.weight": (kv, hidden),
            "self_attn.o_proj.weight": (hidden, q),
            "post_attention_layernorm.weight": (hidden,),
            "mlp.gate_proj.weight": (inner, hidden),
            "mlp.up_proj.weight": (inner, hidden),
            "mlp.down_proj.weight": (hidden, inner),
        }
        if config["model_type"] == "qwen2":
            layer |= {
                f"self_attn.{x}_proj.bias": (n,) for x, n in {"q": q, "k": kv, "v": kv}.items()
            }
        shapes |= {f"model.layers.{i}.{name}": shape for name, shape in layer.items()}
    return {name: _draw(name, shape, seed) for name, shape in shapes.items()}


def _draw(name: str, shape: tuple[int, ...], seed: int) -> np.ndarray:
    noise = np.random.RandomState((zlib.crc32(name.encode()) + seed) % 2**32).normal(size=shape)
    if name.endswith("norm.weight"):
        return (1 + 0.2 * noise).astype(np.float32)
    if name.endswith("bias"):
        return (0.5 * noise).astype(np.float32)
    return (noise / np.sqrt(shape[1])).astype(np.float32)  # keeps the size of activations


def make_tokens(vocab_size: int, seed: int = SEED) -> np.ndarray:
    return np.random.RandomState(seed).randint(0, vocab_size, (BATCH, LENGTH))


def transformers_config(kind: str) -> dict:
    """The config.json of a kind, as the installed transformers writes it."""
    import transformers

    family, fields = KINDS[kind]
    make = {"llama": transformers.LlamaConfig, "qwen2": transformers.Qwen2Config}[family]
    architecture = {"llama": "LlamaForCausalLM", "qwen2": "Qwen2ForCausalLM"}[family]
    config = make(**(SHAPE | fields), architectures=[architecture], dtype="float32")
    return json.loads(config.to_json_string())


def transformers_logits(config: dict, tokens: np.ndarray, seed: int = SEED) -> np.ndarray:
    """[batch, length, vocab] float32, of the same weights in transformers' own model."""
    import torch
    import transformers

    make = {"llama": transformers.LlamaConfig, "qwen2": transformers.Qwen2Config}
    model_config = make[config["model_type"]].from_dict(config)
    model_config._attn_implementation = "eager"
    model = getattr(transformers, config["architectures"][0])(model_config).float().eval()
    weights = {name: torch.from_numpy(x) for name, x in state_dict(config, seed).items()}
    missing, unexpected = model.load_state_dict(weights, strict=False)
    assert not unexpected and set(missing) <= {"lm_head.weight"}, (missing, unexpected)
    model.tie_weights()
    with torch.no_grad():
        return model(torch.from_numpy(tokens)).logits.numpy()


def kept(logits: np.ndarray) -> dict[str, np.ndarray]:
    """What a golden file keeps: a slice, and of every position the log-sum-exp of all words."""
    peak = logits.max(axis=-1)
    total = np.exp(np.float64(logits) - peak[..., None]).sum(axis=-1)
    return {
        "logits": logits[:, AT_POSITIONS, ::EVERY_WORD],
        "log_sum_exp": peak + np.log(total),
    }


def main():
    import transformers

    GOLDEN.mkdir(exist_ok=True)
    for kind in KINDS:
        config = transformers_config(kind)
        tokens = make_tokens(config["vocab_size"])
        numbers = kept(transformers_logits(config, tokens))
        golden = {
            "made_by": f"make_golden.py, transformers {transformers.__version__}",
            "seed": SEED,
            "config": config,
            "tokens": tokens.tolist(),
            **{name: np.round(x.astype(float), 6).tolist() for name, x in numbers.items()},
        }
        (GOLDEN / f"{kind}.json").write_text(json.dumps(golden) + "\n")


if __name__ == "__main__":
    main()
