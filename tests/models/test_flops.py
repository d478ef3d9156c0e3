"""FLOPs of a step, counted token by token."""

import jax.numpy as jnp
import numpy as np
import optax
import pytest

from dsmath_jax.models import Transformer, preset
from dsmath_jax.models.flops import rl_flops, train_flops
from dsmath_jax.models.sharding import make_mesh
from dsmath_jax.models.transformer import init_params
from dsmath_jax.stages.defaults import get_defaults
from dsmath_jax.stages.supervised import make_programs
from dsmath_jax.training.state import init_state

CONFIG = preset("tiny", vocab_size=64, num_layers=2, hidden_size=32, intermediate_size=48)


def forward(lengths, *, start=0, logits_from=0):
    """Of tokens `start` to the end of sequences of these lengths: matrices, head, attention."""
    c, total = CONFIG, 0
    heads, kv = c.num_heads * c.head_dim, c.num_kv_heads * c.head_dim
    for length in lengths:
        for t in range(start, length):
            projections = 2 * c.hidden_size * (heads + 2 * kv) + 2 * heads * c.hidden_size
            mlp = 3 * 2 * c.hidden_size * c.intermediate_size
            attention = 2 * 2 * c.num_heads * c.head_dim * (t + 1)
            total += c.num_layers * (projections + mlp + attention)
            total += 2 * c.hidden_size * c.vocab_size * (t >= logits_from)
    return total


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("critic", [False, True])
def test_rl_step_token_by_token(critic, shared):
    prompts, completions = [5, 3], np.array([[2, 7], [4, 1]])
    none = 10**6
    generate = policy = value = 0
    for p, group in zip(prompts, completions, strict=True):
        samples = [p + int(c) for c in group]
        generate += forward([p], logits_from=none) + forward(samples, start=p)
        policy += forward(samples, logits_from=p)
        value += forward(samples, logits_from=none)
        if shared:
            policy -= forward([p], logits_from=none)
            value -= forward([p], logits_from=none)
    value = value if critic else 0
    got = rl_flops(CONFIG, prompts, completions, updates=2, critic=critic, shared=shared)
    assert got["generate"] == generate
    assert got["logprob"] == policy
    assert got["update"] == 2 * 3 * (policy + value)
    assert got.get("value", 0) == value
    assert got["step"] == generate + policy + value + got["update"]


@pytest.mark.parametrize("micro_batches", [1, 2])
def test_a_packed_step_counts_pairs_within_segments(micro_batches):
    config = get_defaults("sft")
    config.micro_batches, config.dtype = micro_batches, "float32"
    segments = np.array([[1] * 5 + [2] * 4 + [0] * 7, [1] * 16])
    positions = np.array([[*range(5), *range(4), *range(7)], range(16)])
    batch = {
        "tokens": jnp.ones((2, 16), jnp.int32),
        "positions": jnp.asarray(positions),
        "segment_ids": jnp.asarray(segments),
        "loss_mask": jnp.ones((2, 16)),
    }
    optimizer = optax.sgd(0.1)
    state = init_state(init_params(CONFIG, seed=0), optimizer, make_mesh(), CONFIG)
    programs = make_programs(config, Transformer(CONFIG), optimizer)
    _, metrics = programs.update(state, batch)
    expected = 3 * forward([5, 4, 16])
    assert train_flops(CONFIG, 25, 15 + 10 + 136) == expected
    np.testing.assert_allclose(metrics["flops/step"], expected, rtol=1e-6)
