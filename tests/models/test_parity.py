"""Logits equal those of transformers: kept in golden files, and computed afresh where it is."""

import dataclasses
import importlib.util
import json

import jax
import jax.numpy as jnp
import make_golden
import numpy as np
import pytest

from dsmath_jax.models import ModelConfig, Transformer
from dsmath_jax.models.parameters import flat_specs

TOLERANCE = 1e-4


@pytest.fixture(scope="module")
def torch_and_transformers():
    missing = [n for n in ("torch", "transformers") if importlib.util.find_spec(n) is None]
    if missing:
        pytest.skip(f"{' and '.join(missing)} not installed: pip install -e '.[parity]'")


def read_golden(kind: str) -> dict:
    return json.loads((make_golden.GOLDEN / f"{kind}.json").read_text())


def to_params(weights: dict[str, np.ndarray], config: ModelConfig) -> dict:
    """Hugging Face tensors by name -> nested parameters, each tensor used exactly once."""
    weights, params = dict(weights), {"layers": {}}
    for name, spec in flat_specs(config).items():
        layers = range(config.num_layers) if spec.stacked else [0]
        parts = [weights.pop(spec.hf_name.format(layer=i)) for i in layers]
        parts = [part.T if spec.transpose else part for part in parts]
        value = jnp.asarray(np.stack(parts) if spec.stacked else parts[0])
        assert value.shape == spec.shape, name
        if name.startswith("layers."):
            params["layers"][name.removeprefix("layers.")] = value
        else:
            params[name] = value
    assert not weights, f"not used: {list(weights)}"
    return params


def our_logits(config: ModelConfig, weights: dict, tokens) -> np.ndarray:
    model = Transformer(config, params=to_params(weights, config))
    return np.asarray(jax.jit(lambda tokens: model(tokens))(np.array(tokens)))


@pytest.fixture(scope="module")
def computed():
    """Our logits of each golden file's checkpoint, computed once."""
    cache = {}

    def compute(kind: str):
        if kind not in cache:
            golden = read_golden(kind)
            weights = make_golden.state_dict(golden["config"], golden["seed"])
            config = ModelConfig.from_hf(golden["config"])
            cache[kind] = golden, our_logits(config, weights, golden["tokens"])
        return cache[kind]

    return compute


@pytest.mark.parametrize("kind", make_golden.KINDS)
def test_logits_equal_the_golden_ones(computed, kind):
    golden, logits = computed(kind)
    for name, ours in make_golden.kept(logits).items():
        assert np.abs(ours - np.array(golden[name])).max() < TOLERANCE, name


@pytest.mark.parametrize("kind", make_golden.KINDS)
def test_all_logits_equal_those_of_transformers_here(computed, kind, torch_and_transformers):
    golden, logits = computed(kind)
    theirs = make_golden.transformers_logits(
        golden["config"], np.array(golden["tokens"]), golden["seed"]
    )
    assert logits.shape == theirs.shape
    assert np.abs(logits - theirs).max() < TOLERANCE
    for name, values in make_golden.kept(theirs).items():
        assert np.abs(values - np.array(golden[name])).max() < TOLERANCE / 5, name


@pytest.mark.parametrize("kind", make_golden.KINDS)
def test_config_of_the_installed_transformers_reads_like_the_golden_one(
    kind, torch_and_transformers
):
    fresh = make_golden.transformers_config(kind)
    assert ModelConfig.from_hf(fresh) == ModelConfig.from_hf(read_golden(kind)["config"])


@pytest.mark.parametrize(
    "kind, field, value",
    [
        ("deepseek", "norm_eps", 1e-2),
        ("llama_grouped", "rope_theta", 10000.0),
        ("llama3_scaling", "rope_scaling", None),
        ("linear_scaling", "rope_scaling", None),
    ],
)
def test_the_comparison_notices_a_wrong_config(computed, kind, field, value):
    golden, logits = computed(kind)
    config = dataclasses.replace(ModelConfig.from_hf(golden["config"]), **{field: value})
    weights = make_golden.state_dict(golden["config"], golden["seed"])
    wrong = our_logits(config, weights, golden["tokens"])
    assert np.abs(wrong - logits).max() > 30 * TOLERANCE


def test_the_golden_files_are_those_of_the_script_and_small():
    files = list(make_golden.GOLDEN.glob("*.json"))
    assert {f.stem for f in files} == set(make_golden.KINDS)
    assert sum(f.stat().st_size for f in files) < 200_000
    for kind in make_golden.KINDS:
        golden = read_golden(kind)
        assert golden["tokens"] == make_golden.make_tokens(golden["config"]["vocab_size"]).tolist()
