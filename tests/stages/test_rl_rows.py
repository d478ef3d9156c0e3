"""Samples in rows: what is where, how little is padding, and updates as with one sample a row."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from dsmath_jax.losses.aggregation import AGGREGATIONS
from dsmath_jax.models import Transformer, preset
from dsmath_jax.models.sharding import make_mesh
from dsmath_jax.models.transformer import init_params
from dsmath_jax.models.value_model import value_params
from dsmath_jax.rollout import Samples
from dsmath_jax.stages.defaults import get_defaults
from dsmath_jax.stages.rl_programs import make_programs
from dsmath_jax.stages.rl_rows import Shapes, pack, plan_rows
from dsmath_jax.training.state import init_state

MODEL = preset("tiny", vocab_size=61, num_layers=1, hidden_size=32, intermediate_size=48)


def test_rows_hold_prompt_completion_and_eos_with_the_samplers_logprobs():
    samples = Samples(
        tokens=np.array([[[7, 8, 2, 0], [9, 9, 9, 9]]]),
        lengths=np.array([[3, 4]]),
        logprobs=np.array([[[-1.0, -2.0, -3.0, 0.0], [-4.0, -5.0, -6.0, -7.0]]]),
        stopped=np.array([[True, False]]),
    )
    advantages = np.array([[0.5, -0.5]])
    rows, padding = pack(
        [[1, 5]], samples, advantages, Shapes(11), pad_id=0, rewards=np.array([[1.0, 0.0]])
    )
    # 5 and 6 tokens share a row, whose length is a multiple of 8.
    expected = {
        "tokens": [1, 5, 7, 8, 2, 1, 5, 9, 9, 9, 9, 0, 0, 0, 0, 0],
        "segment_ids": [1, 1, 1, 1, 1, 2, 2, 2, 2, 2, 2, 0, 0, 0, 0, 0],
        "loss_mask": [0, 0, 1, 1, 1, 0, 0, 1, 1, 1, 1, 0, 0, 0, 0, 0],
        "rollout_logp": [0, 0, -1, -2, -3, 0, 0, -4, -5, -6, -7, 0, 0, 0, 0, 0],
        "lengths": [0, 0, 3, 3, 3, 0, 0, 4, 4, 4, 4, 0, 0, 0, 0, 0],
        "rewards": [0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
    }
    for name, row in expected.items():
        np.testing.assert_array_equal(rows[name], [row], err_msg=name)
    np.testing.assert_array_equal(rows["advantages"][0][[2, 4, 7, 10]], [0.5, 0.5, -0.5, -0.5])
    assert padding == 5 / 16


def spread(random, questions, group, longest):
    """Prompts of some 120 tokens, completions of some 270, some of them at the limit."""
    prompts = np.clip(random.lognormal(4.8, 0.5, questions), 30, 1024).astype(int)
    completions = np.clip(random.lognormal(5.6, 0.6, questions * group), 20, 1024).astype(int)
    return np.minimum(np.repeat(prompts, group) + completions, longest)


@pytest.mark.parametrize("ways", [1, 8, 64, 128])
def test_little_is_padding_in_few_shapes(ways):
    random, shapes = np.random.default_rng(0), set()
    for _ in range(20):
        lengths = spread(random, 16, 64, 2048)
        plan = plan_rows(lengths, Shapes(2048, ways))
        used = np.bincount(plan.rows, lengths, minlength=plan.count)
        assert used.max() <= plan.length <= 4096 and plan.rows.max() < plan.count
        assert plan.count % ways == 0 and plan.length % 128 == 0
        assert plan.padding == pytest.approx(1 - lengths.sum() / (plan.count * plan.length))
        assert plan.padding < 0.15
        one_a_row = 1 - lengths.sum() / (len(lengths) * lengths.max())
        assert plan.padding < one_a_row / 3
        shapes.add((plan.count, plan.length))
    assert len(shapes) <= 6


def test_samples_that_share_no_row_get_one_each():
    plan = plan_rows(np.full(12, 100), Shapes(100, ways=4))
    assert (plan.count, plan.length) == (12, 104)  # 4 x 3 rows, not more than there are samples
    plan = plan_rows(np.array([100, 3]), Shapes(100, ways=4))
    assert plan.count == 4  # two or three of them empty


def test_rows_split_over_a_sequence_axis_and_kernels_blocks():
    assert all(n % 64 == 0 for n in Shapes(200, split=8).lengths(1))
    assert all(n % 512 == 0 for n in Shapes(2048, split=4).lengths(1))


# ---- Updates ------------------------------------------------------------------------------------
def sampled(seed=0, questions=4, group=4):
    random = np.random.default_rng(seed)
    prompts = [random.integers(1, 61, n).tolist() for n in random.integers(3, 9, questions)]
    shape = (questions, group)
    lengths = random.integers(1, 13, shape).astype(np.int32)
    tokens = random.integers(1, 61, (*shape, 12)).astype(np.int32)
    logprobs = random.normal(-4, 0.3, tokens.shape).astype(np.float32)
    samples = Samples(tokens, lengths, logprobs, np.ones(shape, bool))
    rewards = random.integers(0, 2, shape).astype(np.float32)
    return prompts, samples, random.normal(size=shape).astype(np.float32), rewards


def one_a_row(prompts, samples, advantages, rewards):
    """As many rows as samples: packed each by itself."""
    group = samples.lengths.shape[1]
    parts = []
    for q, g in np.ndindex(samples.lengths.shape):
        one = (slice(q, q + 1), slice(g, g + 1))
        arrays = (samples.tokens, samples.lengths, samples.logprobs, samples.stopped)
        single = Samples(*(x[one] for x in arrays))
        rows, _ = pack(
            [prompts[q]], single, advantages[one], Shapes(24), pad_id=0, rewards=rewards[one]
        )
        parts.append({k: np.pad(v, ((0, 0), (0, 24 - v.shape[1]))) for k, v in rows.items()})
    assert len(parts) == group * len(prompts)
    return {k: np.concatenate([part[k] for part in parts]) for k in parts[0]}


def updated(rows, micro_batches=1, **changes):
    """Gradient (parameters before less after a step of rate 1) and metrics."""
    config = get_defaults("rl")
    config.dtype, config.micro_batches = "float32", micro_batches
    config.rl.update(changes)
    optimizer = optax.sgd(1.0)
    mesh = make_mesh(devices=jax.devices()[:1])
    programs = make_programs(config, Transformer(MODEL), optimizer, mesh)
    params, reference = init_params(MODEL, seed=0), init_params(MODEL, seed=1)
    if config.rl.algorithm == "ppo":
        params = {"policy": params, "critic": value_params(params)}
        params["critic"]["value"] += 0.1
    state = init_state(params, optimizer, mesh, MODEL)
    before = jax.tree.map(np.asarray, params)
    rows = {k: jnp.asarray(v) for k, v in rows.items()}
    if config.rl.kl_coef:
        rows["ref_logp"] = programs.logprobs(reference, rows)
    if config.rl.old_logprobs == "recompute":
        rows["old_logp"] = programs.logprobs(params, rows)
    if config.rl.algorithm == "ppo":
        rows = programs.estimate(params["critic"], rows)
    state, metrics = programs.update(state, rows)
    gradient = jax.tree.map(lambda a, b: a - np.asarray(b), before, state.params)
    return gradient, {k: float(v) for k, v in metrics.items()}


VARIANTS = [
    *({"aggregation": name} for name in AGGREGATIONS),
    {"algorithm": "ppo"},
    {"old_logprobs": "recompute", "importance_cap": 1.5, "kl_coef": 0.0},
]


@pytest.mark.parametrize("changes", VARIANTS, ids=lambda c: "-".join(map(str, c.values())))
def test_an_update_is_that_of_one_sample_a_row_in_any_number_of_parts(changes):
    drawn = sampled()
    rows, padding = pack(*drawn[:3], Shapes(20, ways=2), pad_id=0, rewards=drawn[3])
    assert len(rows["tokens"]) < 16 and padding < 0.2
    expected, metrics = updated(one_a_row(*drawn), **changes)
    largest = max(np.abs(x).max() for x in jax.tree.leaves(expected))
    for parts in (1, 2):
        gradient, got = updated(rows, parts, **changes)
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5 * largest),
            gradient,
            expected,
        )
        assert got.keys() == metrics.keys()
        for name in got:
            np.testing.assert_allclose(got[name], metrics[name], rtol=2e-5, atol=1e-6, err_msg=name)
    assert ("kl" in metrics) == (changes.get("kl_coef") != 0.0)


def test_weights_are_of_trainer_against_sampler_up_to_the_cap():
    drawn = sampled()
    rows, _ = pack(*drawn[:3], Shapes(20), pad_id=0)
    _, metrics = updated(rows, old_logprobs="recompute", importance_cap=1.5)
    assert metrics["ratio"] == pytest.approx(1.0)  # the first update: old is the trainer's own
    assert 0.0 < metrics["importance_capped"] < 1.0
    assert metrics["importance_weight"] <= 1.5
    assert metrics["logprob_gap"] > 0.1  # still of trainer and sampler
    exact = rows | {"rollout_logp": np.asarray(trainers_logp(rows))}
    _, metrics = updated(exact, old_logprobs="recompute", importance_cap=1.5)
    assert metrics["importance_weight"] == pytest.approx(1.0, abs=1e-5)
    assert metrics["logprob_gap_max"] < 1e-5


def trainers_logp(rows):
    config = get_defaults("rl")
    config.dtype = "float32"
    mesh = make_mesh(devices=jax.devices()[:1])
    programs = make_programs(config, Transformer(MODEL), optax.sgd(1.0), mesh)
    return programs.logprobs(init_params(MODEL, seed=0), rows)


def test_groups_with_equal_rewards_move_nothing_and_make_no_nan():
    prompts, samples, advantages, rewards = sampled()
    rows, _ = pack(prompts, samples, 0 * advantages, Shapes(20), pad_id=0, rewards=0 * rewards)
    gradient, metrics = updated(rows, kl_coef=0.0)
    assert not any(np.any(x) for x in jax.tree.leaves(gradient))
    assert metrics["skipped"] == 0 and all(np.isfinite(v) for v in metrics.values())
