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


SAMPLES = Samples(
    tokens=np.array([[[7, 8, 2, 0], [9, 9, 9, 9]]]),
    lengths=np.array([[3, 4]]),
    logprobs=np.array([[[-1.0, -2.0, -3.0, 0.0], [-4.0, -5.0, -6.0, -7.0]]]),
    stopped=np.array([[True, False]]),
)


def test_a_row_holds_a_prompt_once_and_completions_with_the_samplers_logprobs():
    advantages = np.array([[0.5, -0.5]])
    rows, used, padding = pack(
        [[1, 4, 5]], SAMPLES, advantages, Shapes(16, 2, 2), pad_id=0, rewards=np.array([[1.0, 0.0]])
    )
    # Of what is left, the longest first; each completion after the token that predicts its first.
    expected = {
        "tokens": [1, 4, 5, 9, 9, 9, 9, 5, 7, 8, 2, 0, 0, 0, 0, 0],
        "segment_ids": [1, 1, 2, 2, 2, 2, 2, 3, 3, 3, 3, 0, 0, 0, 0, 0],
        "prefix_ids": [1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 0, 0, 0, 0, 0],
        "positions": [0, 1, 2, 3, 4, 5, 6, 2, 3, 4, 5, 0, 0, 0, 0, 0],
        "loss_mask": [0, 0, 0, 1, 1, 1, 1, 0, 1, 1, 1, 0, 0, 0, 0, 0],
        "rollout_logp": [0, 0, 0, -4, -5, -6, -7, 0, -1, -2, -3, 0, 0, 0, 0, 0],
        "lengths": [0, 0, 0, 4, 4, 4, 4, 0, 3, 3, 3, 0, 0, 0, 0, 0],
        "rewards": [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0],
    }
    for name, row in expected.items():
        np.testing.assert_array_equal(rows[name][0], [row], err_msg=name)
        assert not rows[name][1:].any()
    np.testing.assert_array_equal(rows["advantages"][0, 0, [3, 6, 8, 10]], [-0.5, -0.5, 0.5, 0.5])
    assert used == 1 and padding == 5 / 16


def test_rows_without_sharing_hold_the_prompt_with_each_completion():
    shapes = Shapes(16, 2, 2, shared=False)
    rows, used, padding = pack([[1, 5]], SAMPLES, np.ones((1, 2)), shapes, pad_id=0)
    assert "prefix_ids" not in rows and used == 1 and padding == 5 / 16
    expected = {
        "tokens": [1, 5, 9, 9, 9, 9, 1, 5, 7, 8, 2],
        "segment_ids": [2, 2, 2, 2, 2, 2, 3, 3, 3, 3, 3],
        "positions": [0, 1, 2, 3, 4, 5, 0, 1, 2, 3, 4],
        "loss_mask": [0, 0, 1, 1, 1, 1, 0, 0, 1, 1, 1],
    }
    for name, row in expected.items():
        np.testing.assert_array_equal(rows[name][0, 0, :11], row, err_msg=name)


def test_a_prompt_of_one_token_and_no_completion():
    none = Samples(np.zeros((1, 1, 4), int), np.zeros((1, 1), int), np.zeros((1, 1, 4)), np.ones(1))
    rows, used, _ = pack([[6]], none, np.ones((1, 1)), Shapes(8, 1), pad_id=0)
    assert used == 1 and rows["tokens"][0, 0].tolist() == [6] + [0] * 7
    assert not rows["loss_mask"].any()


# ---- Shapes -------------------------------------------------------------------------------------
def drawn(random, questions, group, longest):
    """Prompts of some 120 tokens, completions of some 270, some of them at the limit."""
    prompts = np.clip(random.lognormal(4.8, 0.5, questions), 30, longest // 2).astype(int)
    completions = np.clip(random.lognormal(5.6, 0.6, (questions, group)), 20, longest // 2)
    return prompts, completions.astype(int)


def check(plan, prompts, completions, shapes):
    """Each sample is in one row, no row is too long, and the parts suffice; tokens in all."""
    found, tokens = [], 0
    for row in plan.rows:
        size = 0
        for piece in row:
            places = [divmod(sample, completions.shape[1]) for sample in piece]
            found += places
            if shapes.shared:
                assert len({q for q, _ in places}) == 1
                size += prompts[places[0][0]] - 1 + sum(1 + completions[p] for p in places)
            else:
                size += sum(prompts[q] + completions[q, g] for q, g in places)
        assert 0 < size <= plan.length
        tokens += size
    assert sorted(found) == list(np.ndindex(completions.shape))
    rows = shapes.rows(plan.length)
    assert -(-len(plan.rows) // rows) == plan.used <= shapes.parts(plan.length)
    assert plan.positions == plan.used * rows * plan.length and plan.tokens == tokens
    return tokens


@pytest.mark.parametrize("ways, micro_batches", [(1, 32), (8, 32), (64, 8), (128, 4)])
@pytest.mark.parametrize("shared", [True, False])
def test_little_is_padding_in_few_shapes(ways, micro_batches, shared):
    random, lengths = np.random.default_rng(0), set()
    shapes = Shapes(2048, 1024, micro_batches, ways, shared=shared)
    for _ in range(20):
        prompts, completions = drawn(random, 16, 64, 2048)
        plan = plan_rows(prompts, completions, shapes)
        tokens = check(plan, prompts, completions, shapes)
        assert tokens / plan.positions > 0.84
        whole = (prompts[:, None] + completions).sum()
        assert tokens == whole if not shared else tokens < 0.85 * whole
        assert plan.length % 128 == 0 and shapes.rows(plan.length) % ways == 0
        lengths.add(plan.length)
    assert len(lengths) <= 4


@pytest.mark.parametrize("shared", [True, False])
def test_any_lengths_fit_into_the_parts_that_there_are(shared):
    random = np.random.default_rng(1)
    for _ in range(300):
        questions, group = random.integers(1, 9, 2)
        ways, micro_batches = random.choice([1, 2, 4]), random.choice([1, 3, 8, 40])
        shapes = Shapes(64, int(questions * group), micro_batches, ways, shared=shared)
        prompts = random.integers(1, random.integers(2, 33), questions)
        completions = random.integers(0, random.integers(1, 33), (questions, group))
        for longest in (int((prompts[:, None] + completions).max()), 64):
            assert shapes.lengths(longest)[0] >= longest
        check(plan_rows(prompts, completions, shapes), prompts, completions, shapes)


@pytest.mark.parametrize("micro_batches, ways", [(8, 64), (16, 64), (10, 64), (1, 1), (5000, 4)])
@pytest.mark.parametrize("length", [2048, 2000, 3000, 100])
def test_a_device_never_has_more_than_rows_of_the_longest_sample(length, micro_batches, ways):
    shapes = Shapes(length, 1024, micro_batches, ways)
    longest = shapes.lengths(length)[0]
    assert length <= longest < length + 128
    most = shapes.rows(longest) * longest
    assert most <= max(1024 * longest / micro_batches, ways * longest)
    for other in shapes.lengths(1):
        assert 0 < shapes.rows(other) * other <= most


def test_rows_split_over_a_sequence_axis_and_kernels_blocks():
    assert all(n % 64 == 0 for n in Shapes(200, 16, split=8).lengths(1))
    assert all(n % 512 == 0 for n in Shapes(2048, 16, split=4).lengths(1))


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
    """A part of as many rows as samples: packed each by itself, with its prompt."""
    rows = []
    for q, g in np.ndindex(samples.lengths.shape):
        one = (slice(q, q + 1), slice(g, g + 1))
        arrays = (samples.tokens, samples.lengths, samples.logprobs, samples.stopped)
        single = Samples(*(x[one] for x in arrays))
        shapes = Shapes(24, 1, shared=False)
        row, used, _ = pack(
            [prompts[q]], single, advantages[one], shapes, pad_id=0, rewards=rewards[one]
        )
        assert used == 1
        rows.append({k: np.pad(v, [*[(0, 0)] * 2, (0, 24 - v.shape[2])]) for k, v in row.items()})
    return {k: np.concatenate([row[k][:1] for row in rows], axis=1) for k in rows[0]}, 1


def updated(rows, used, **changes):
    """Gradient (parameters before less after a step of rate 1) and metrics."""
    config = get_defaults("rl")
    config.dtype = "float32"
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
        rows["ref_logp"] = programs.logprobs(reference, rows, used)
    if config.rl.old_logprobs == "recompute":
        rows["old_logp"] = programs.logprobs(params, rows, used)
    if config.rl.algorithm == "ppo":
        rows = programs.estimate(params["critic"], rows, used)
    state, metrics = programs.update(state, rows, used)
    gradient = jax.tree.map(lambda a, b: a - np.asarray(b), before, state.params)
    return gradient, {k: float(v) for k, v in metrics.items()}


VARIANTS = [
    *({"aggregation": name} for name in AGGREGATIONS),
    {"algorithm": "ppo"},
    {"old_logprobs": "recompute", "importance_cap": 1.5, "kl_coef": 0.0},
]


@pytest.mark.parametrize(
    ("changes", "shared"),
    [(VARIANTS[0], False), *((changes, True) for changes in VARIANTS)],
    ids=lambda x: "-".join(map(str, x.values())) if isinstance(x, dict) else f"shared={x}",
)
def test_an_update_is_that_of_one_sample_a_row_in_any_number_of_parts(changes, shared):
    given = sampled()
    expected, metrics = updated(*one_a_row(*given), **changes)
    largest = max(np.abs(x).max() for x in jax.tree.leaves(expected))
    for micro_batches in (2, 16) if changes == VARIANTS[0] else (16,):
        shapes = Shapes(24, 16, micro_batches, shared=shared)
        rows, used, _ = pack(*given[:3], shapes, pad_id=0, rewards=given[3])
        assert used < len(rows["tokens"])  # the rest is not computed
        assert (used == 1) == (micro_batches == 2)
        gradient, got = updated(rows, used, **changes)
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
    rows, used, _ = pack(*sampled()[:3], Shapes(20, 16, 4), pad_id=0)
    _, metrics = updated(rows, used, old_logprobs="recompute", importance_cap=1.5)
    assert metrics["ratio"] == pytest.approx(1.0)  # the first update: old is the trainer's own
    assert 0.0 < metrics["importance_capped"] < 1.0
    assert metrics["importance_weight"] <= 1.5
    assert metrics["logprob_gap"] > 0.1  # still of trainer and sampler
    exact = rows | {"rollout_logp": np.asarray(trainers_logp(rows, used))}
    _, metrics = updated(exact, used, old_logprobs="recompute", importance_cap=1.5)
    assert metrics["importance_weight"] == pytest.approx(1.0, abs=1e-5)
    assert metrics["logprob_gap_max"] < 1e-5


def trainers_logp(rows, used):
    config = get_defaults("rl")
    config.dtype = "float32"
    mesh = make_mesh(devices=jax.devices()[:1])
    programs = make_programs(config, Transformer(MODEL), optax.sgd(1.0), mesh)
    return programs.logprobs(init_params(MODEL, seed=0), rows, used)


def test_groups_with_equal_rewards_move_nothing_and_make_no_nan():
    prompts, samples, advantages, _ = sampled()
    shapes = Shapes(20, 16, 4)
    rows, used, _ = pack(prompts, samples, 0 * advantages, shapes, pad_id=0)
    gradient, metrics = updated(rows, used, kl_coef=0.0)
    assert not any(np.any(x) for x in jax.tree.leaves(gradient))
    assert metrics["skipped"] == 0 and all(np.isfinite(v) for v in metrics.values())
