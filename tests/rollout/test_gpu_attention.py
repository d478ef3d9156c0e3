"""The GPU's kernels of decoding (interpreted where there is no GPU) against the program without."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dsmath_jax.models.config import preset
from dsmath_jax.models.transformer import Transformer
from dsmath_jax.rollout import Sampler, gpu_attention, sampler


@pytest.fixture
def kernels(monkeypatch):
    def use(kernels):
        jax.clear_caches()  # which programs there are does not depend on the functions replaced
        for module in (gpu_attention, sampler):
            monkeypatch.setattr(module, "suits", lambda *_: kernels)
        for name in ("attend_prompts", "attend_all"):
            interpret = jax.default_backend() != "gpu"
            interpreted = functools.partial(getattr(gpu_attention, name), interpret=interpret)
            monkeypatch.setattr(gpu_attention, name, interpreted)

    yield use
    jax.clear_caches()


@pytest.mark.parametrize(("kv_heads", "kv_dtype"), [(2, None), (4, "int8")])
def test_samples_are_those_of_the_program_without_kernels(kernels, kv_heads, kv_dtype):
    """Prompts of one and of three blocks, and samples of up to two, that end at different steps."""
    config = preset(
        "tiny",
        num_layers=2,
        hidden_size=64,
        num_heads=4,
        num_kv_heads=kv_heads,
        head_dim=16,
        vocab_size=64,
        init_std=0.2,
    )
    model = Transformer(config, seed=0)
    random = np.random.default_rng(0)
    prompts = [random.integers(2, 64, n).tolist() for n in (5, 70, 33)]
    limits = random.integers(1, 40, (3, 2))

    def samples(with_kernels):
        kernels(with_kernels)
        generate = Sampler(model, max_rows=4, kv_dtype=kv_dtype and jnp.dtype(kv_dtype))
        with jax.default_matmul_precision("highest"):
            return generate(prompts, samples_per_prompt=2, max_new_tokens=limits, eos_ids=[1])

    ours, theirs = samples(True), samples(False)
    np.testing.assert_array_equal(ours.tokens, theirs.tokens)
    np.testing.assert_allclose(ours.logprobs, theirs.logprobs, atol=2e-2 if kv_dtype else 1e-5)
