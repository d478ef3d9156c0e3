"""Shapes: presets, and config.json as transformers 4 and 5 write it."""

import importlib.util
import json

import pytest

from dsmath_jax.models import PRESETS, ModelConfig, RopeScaling, preset

# deepseek-ai/deepseek-math-7b-base, as published.
DEEPSEEK_MATH = {
    "architectures": ["LlamaForCausalLM"],
    "attention_bias": False,
    "bos_token_id": 100000,
    "eos_token_id": 100001,
    "hidden_act": "silu",
    "hidden_size": 4096,
    "initializer_range": 0.02,
    "intermediate_size": 11008,
    "max_position_embeddings": 4096,
    "model_type": "llama",
    "num_attention_heads": 32,
    "num_hidden_layers": 30,
    "num_key_value_heads": 32,
    "pretraining_tp": 1,
    "rms_norm_eps": 1e-06,
    "rope_scaling": None,
    "rope_theta": 10000.0,
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
    "transformers_version": "4.33.1",
    "use_cache": True,
    "vocab_size": 102400,
}
LLAMA3_FIELDS = {
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}
SMALL = {
    "architectures": ["LlamaForCausalLM"],
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_attention_heads": 4,
    "num_hidden_layers": 2,
    "num_key_value_heads": 2,
    "vocab_size": 256,
}
QWEN2 = SMALL | {
    "architectures": ["Qwen2ForCausalLM"],
    "model_type": "qwen2",
    "sliding_window": None,
    "max_window_layers": 28,
    "tie_word_embeddings": True,
    "use_sliding_window": False,
}


def test_deepseek_math_as_published_is_the_preset():
    config = ModelConfig.from_hf(DEEPSEEK_MATH | {"initializer_range": 0.006})
    assert config == PRESETS["deepseek_7b"]


def test_stray_fields_are_ignored():
    stray = DEEPSEEK_MATH | {"moe_intermediate_size": 1407}
    assert ModelConfig.from_hf(stray) == ModelConfig.from_hf(DEEPSEEK_MATH)


@pytest.mark.parametrize(
    "name, billions",
    [("deepseek_7b", 6.910), ("deepseek_1_3b", 1.646), ("small", 0.033694), ("tiny", 0.000984)],
)
def test_parameter_counts_of_presets(name, billions):
    assert preset(name).num_params / 1e9 == pytest.approx(billions, rel=0.01)


def test_parameter_count_by_hand():
    c = ModelConfig.from_hf(SMALL)
    layer = 64 * 64 * 2 + 64 * 32 * 2 + 3 * 64 * 128 + 2 * 64
    assert c.num_params == 2 * layer + 2 * 256 * 64 + 64
    q = ModelConfig.from_hf(QWEN2)
    assert q.num_params == 2 * (layer + 64 + 2 * 32) + 256 * 64 + 64


def test_preset_replaces_fields_and_names_the_known_ones():
    assert preset("tiny", vocab_size=300).vocab_size == 300
    with pytest.raises(ValueError, match=r"'huge'.*deepseek_7b.*tiny"):
        preset("huge")


@pytest.mark.parametrize(
    "version_4, version_5, scaling",
    [
        ({"rope_theta": 5e5}, {"rope_theta": 5e5, "rope_type": "default"}, None),
        ({"rope_theta": 5e5, "rope_scaling": None}, {"rope_theta": 5e5}, None),
        (
            {"rope_theta": 1e5, "rope_scaling": {"type": "linear", "factor": 4.0}},
            {"rope_theta": 1e5, "rope_type": "linear", "factor": 4.0},
            RopeScaling("linear", 4.0),
        ),
        (
            {"rope_theta": 5e5, "rope_scaling": {"rope_type": "llama3", **LLAMA3_FIELDS}},
            {"rope_theta": 5e5, "rope_type": "llama3", **LLAMA3_FIELDS},
            RopeScaling("llama3", 8.0, 1.0, 4.0, 8192),
        ),
    ],
)
@pytest.mark.parametrize("base", [SMALL, QWEN2])
def test_transformers_4_and_5_read_alike(base, version_4, version_5, scaling):
    old = ModelConfig.from_hf(base | version_4 | {"torch_dtype": "bfloat16"})
    new = ModelConfig.from_hf(base | {"rope_parameters": version_5, "dtype": "bfloat16"})
    assert old == new
    assert old.rope_scaling == scaling and old.rope_theta == version_4["rope_theta"]


def test_fields_left_out_have_the_defaults_of_hugging_face():
    bare = {k: v for k, v in SMALL.items() if k != "num_key_value_heads"}
    config = ModelConfig.from_hf(bare)
    assert (config.num_kv_heads, config.head_dim) == (4, 16)
    assert (config.rope_theta, config.norm_eps, config.init_std) == (10000.0, 1e-6, 0.02)
    assert not config.tie_embeddings and not config.qkv_bias and config.rope_scaling is None
    assert ModelConfig.from_hf(SMALL | {"head_dim": None}).head_dim == 16
    assert ModelConfig.from_hf(SMALL | {"head_dim": 24}).head_dim == 24


def test_qwen2_has_bias_and_tied_embeddings():
    config = ModelConfig.from_hf(QWEN2)
    assert config.qkv_bias and config.tie_embeddings


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"architectures": ["MixtralForCausalLM"]}, "MixtralForCausalLM is not implemented"),
        ({"architectures": ["Qwen3ForCausalLM"]}, "Qwen3ForCausalLM.*LlamaForCausalLM"),
        ({"architectures": None}, "none is not implemented"),
        ({"hidden_act": "gelu"}, "hidden_act 'gelu'"),
        ({"attention_bias": True}, "attention_bias"),
        ({"mlp_bias": True}, "mlp_bias"),
        ({"rope_scaling": {"type": "dynamic", "factor": 2.0}}, "'dynamic'"),
        ({"rope_parameters": {"rope_type": "yarn", "factor": 2.0}}, "'yarn'"),
        ({"num_key_value_heads": 3}, "num_heads=4.*num_kv_heads=3"),
        ({"head_dim": 15}, "head_dim=15"),
        ({"use_sliding_window": True}, "use_sliding_window"),
        ({"hidden_size": None}, "hidden_size"),
        ({"rope_scaling": {"rope_type": "llama3", "factor": 8.0}}, "low_freq_factor"),
        ({"rope_scaling": {"rope_type": "linear"}}, "factor"),
    ],
)
def test_what_is_not_implemented_is_refused_by_name(changes, message):
    with pytest.raises(ValueError, match=message):
        ModelConfig.from_hf(SMALL | changes)


@pytest.mark.parametrize(
    "field", ["vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads"]
)
def test_a_missing_field_is_named(field):
    with pytest.raises(ValueError, match=f"no {field}"):
        ModelConfig.from_hf({k: v for k, v in SMALL.items() if k != field})


def test_reads_a_file_or_its_directory(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(SMALL))
    expected = ModelConfig.from_hf(SMALL)
    assert ModelConfig.from_hf(tmp_path) == expected
    assert ModelConfig.from_hf(str(tmp_path / "config.json")) == expected


def test_a_missing_or_broken_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"config\.json is missing"):
        ModelConfig.from_hf(tmp_path)
    (tmp_path / "config.json").write_text('{"vocab_size": 3,\n oops}')
    with pytest.raises(ValueError, match=r"config\.json line 2"):
        ModelConfig.from_hf(tmp_path)


WRITTEN = [
    *PRESETS.values(),
    ModelConfig.from_hf(QWEN2 | {"rope_theta": 1e6}),
    ModelConfig.from_hf(SMALL | {"rope_scaling": {"type": "linear", "factor": 4.0}}),
    ModelConfig.from_hf(
        SMALL | {"head_dim": 24, "rope_scaling": {"rope_type": "llama3", **LLAMA3_FIELDS}}
    ),
]


@pytest.mark.parametrize("config", WRITTEN)
def test_what_is_written_reads_back(config):
    assert ModelConfig.from_hf(json.loads(json.dumps(config.to_hf()))) == config


@pytest.mark.parametrize("config", WRITTEN)
def test_transformers_understands_what_is_written(config):
    if importlib.util.find_spec("transformers") is None:
        pytest.skip("transformers not installed: pip install -e '.[parity]'")
    import transformers

    written = config.to_hf()
    kinds = {"llama": transformers.LlamaConfig, "qwen2": transformers.Qwen2Config}
    theirs = kinds[written["model_type"]].from_dict(written)
    assert ModelConfig.from_hf(json.loads(theirs.to_json_string())) == config
