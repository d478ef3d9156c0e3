"""What the model's outputs may depend on, and what it costs to compile."""

import dataclasses
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from dsmath_jax.models import ModelConfig, Transformer, init_params
from dsmath_jax.models.parameters import flat_specs
from dsmath_jax.models.transformer import REMAT, logits, positions_of

CONFIG = ModelConfig(
    vocab_size=61,
    hidden_size=32,
    intermediate_size=48,
    num_layers=3,
    num_heads=4,
    num_kv_heads=2,
    head_dim=8,
    qkv_bias=True,
    init_std=0.2,
)


@pytest.fixture(scope="module")
def params():
    params = jax.jit(lambda: init_params(CONFIG, seed=1))()
    for name in ("bq", "bk", "bv"):  # biases start at 0, which would hide a mistake
        noise = np.random.RandomState(ord(name[1])).normal(size=params["layers"][name].shape)
        params["layers"][name] = jnp.array(0.5 * noise, jnp.float32)
    return params


@pytest.fixture(scope="module")
def model(params):
    return Transformer(CONFIG, params=params)


@pytest.fixture(scope="module")
def run(model):
    def logits(tokens, segment_ids=None, positions=None):
        return model(tokens, positions, segment_ids)

    return jax.jit(logits)


def random_tokens(*shape, seed=0):
    return np.random.RandomState(seed).randint(0, CONFIG.vocab_size, shape).astype(np.int32)


def assert_same(actual, expected):
    np.testing.assert_allclose(actual, expected, atol=2e-5)


def test_logits_are_float32_and_finite(run):
    out = run(random_tokens(2, 7))
    assert out.shape == (2, 7, CONFIG.vocab_size) and out.dtype == jnp.float32
    assert np.all(np.isfinite(out))


def test_jit_agrees_also_with_the_state_split_out(model, run):
    tokens = random_tokens(2, 7)
    graph, state = nnx.split(model)
    split = jax.jit(lambda state, tokens: nnx.merge(graph, state)(tokens))
    assert_same(run(tokens), model(tokens))
    assert_same(split(state, tokens), model(tokens))


def test_hidden_times_head_are_the_logits(model, run):
    tokens = random_tokens(2, 7)
    hidden = jax.jit(model.hidden)(tokens)
    assert_same(logits(hidden, model.output_head()), run(tokens))


def test_later_tokens_change_nothing(run):
    tokens, ones = random_tokens(1, 9), np.ones((1, 9), np.int32)
    changed = np.concatenate([tokens[:, :6], (tokens[:, 6:] + 1) % CONFIG.vocab_size], axis=1)
    assert_same(run(tokens, ones)[:, :6], run(changed, ones)[:, :6])


@pytest.mark.parametrize("left, right", [(0, 4), (4, 0), (3, 25)])
def test_padding_changes_nothing(run, left, right):
    tokens = random_tokens(2, 7)
    padding = ((0, 0), (left, right))
    padded = np.pad(tokens, padding, constant_values=5)
    segments = np.pad(np.ones_like(tokens), padding)
    alone = run(tokens, np.ones_like(tokens))
    assert_same(run(padded, segments)[:, left : left + 7], alone)


def test_packing_changes_nothing(run):
    a, b, c = random_tokens(1, 5, seed=1), random_tokens(1, 8, seed=2), random_tokens(1, 3, seed=3)
    alone = [run(x, np.ones_like(x)) for x in (a, b, c)]
    filler = np.zeros((1, 4), np.int32)
    for order in [(0, 1, 2), (2, 0, 1)]:
        pieces = [(a, b, c)[i] for i in order]
        segments = [np.full_like(x, n + 1) for n, x in enumerate(pieces)]
        packed = run(
            np.concatenate([*pieces, filler], axis=1), np.concatenate([*segments, filler], axis=1)
        )
        start = 0
        for i in order:
            length = alone[i].shape[1]
            assert_same(packed[:, start : start + length], alone[i])
            start += length


def test_batch_order_and_size_change_nothing(run):
    tokens = random_tokens(5, 7)
    ones = np.ones_like(tokens)
    out = np.asarray(run(tokens, ones))
    order = np.array([3, 0, 4, 1, 2])
    assert_same(run(tokens[order], ones), out[order])
    assert_same(run(tokens[2:3], ones[:1]), out[2:3])


def test_positions_restart_in_each_segment():
    segments = jnp.array([[1, 1, 1, 2, 2, 0], [0, 0, 1, 2, 2, 2], [5, 5, 1, 1, 0, 0]])
    assert positions_of(segments).tolist() == [
        [0, 1, 2, 0, 1, 0],
        [0, 1, 0, 0, 1, 2],
        [0, 1, 0, 1, 0, 1],
    ]


def test_only_distances_between_positions_matter(run):
    tokens, index = random_tokens(2, 7), np.tile(np.arange(7), (2, 1))
    default = run(tokens)
    assert_same(run(tokens, positions=index), default)
    np.testing.assert_allclose(run(tokens, positions=100 + index), default, atol=1e-4)
    assert np.abs(run(tokens, positions=2 * index) - default).max() > 1e-2


def remat_step(params, remat, unroll=1):
    def loss(params, tokens):
        model = Transformer(CONFIG, params=params, remat=remat, unroll=unroll)
        return jax.nn.log_softmax(model(tokens))[..., 3].mean()

    return jax.jit(jax.value_and_grad(loss)).lower(params, random_tokens(2, 9)).compile()


def test_rematerialisation_changes_no_gradient_and_saves_memory(params):
    tokens = random_tokens(2, 9)
    steps = {remat: remat_step(params, remat) for remat in REMAT}
    value, gradient = steps["none"](params, tokens)
    unrolled = [remat_step(params, remat, 99) for remat in ("none", "dots", "attention")]
    assert all("while(" not in step.as_text() for step in unrolled)
    for step in [*steps.values(), *unrolled]:
        other_value, other_gradient = step(params, tokens)
        np.testing.assert_allclose(other_value, value, rtol=1e-6)
        assert jax.tree.all(
            jax.tree.map(lambda a, b: np.allclose(a, b, atol=1e-6), gradient, other_gradient)
        )
    ladder = ("none", "dots", "attention", "full")
    held = [steps[name].memory_analysis().temp_size_in_bytes for name in ladder]
    assert held == sorted(held, reverse=True) and len(set(held)) == len(held)


def test_an_unknown_rematerialisation_is_named():
    with pytest.raises(ValueError, match=r"'some'.*none, dots, attention, full, offload"):
        Transformer(CONFIG, remat="some")


def test_bfloat16_computes_in_it_and_gives_float32_logits(params, run):
    half = Transformer(CONFIG, params=params, dtype=jnp.bfloat16)
    tokens = random_tokens(2, 7)
    assert half.embed[...].dtype == jnp.float32
    assert jax.eval_shape(half.hidden, tokens).dtype == jnp.bfloat16
    out = jax.jit(lambda tokens: half(tokens))(tokens)
    assert out.dtype == jnp.float32
    expected = np.asarray(run(tokens))
    assert np.abs(out - expected).max() < 0.1 * np.abs(expected).max()
    stored = jax.eval_shape(lambda: init_params(CONFIG, 0, jnp.bfloat16))
    assert all(x.dtype == jnp.bfloat16 for x in jax.tree.leaves(stored))


def test_parameters_are_those_of_the_table_and_depend_on_seed_and_name_alone(model):
    state = nnx.to_pure_dict(nnx.state(model))
    flat = {k: v for k, v in state.items() if k != "layers"}
    flat |= {f"layers.{k}": v for k, v in state["layers"].items()}
    assert {k: v.shape for k, v in flat.items()} == {
        k: s.shape for k, s in flat_specs(CONFIG).items()
    }
    a, b, other = (init_params(CONFIG, seed) for seed in (7, 7, 8))
    other_shapes = init_params(dataclasses.replace(CONFIG, vocab_size=7, num_kv_heads=4), 7)
    assert np.array_equal(a["layers"]["wq"], b["layers"]["wq"])
    assert np.array_equal(a["layers"]["wq"], other_shapes["layers"]["wq"])
    assert not np.array_equal(a["layers"]["wq"], other["layers"]["wq"])
    assert not np.array_equal(a["layers"]["wk"], a["layers"]["wv"])
    assert np.asarray(a["layers"]["w_up"]).std() == pytest.approx(CONFIG.init_std, rel=0.05)
    assert np.all(a["final_norm"] == 1) and np.all(a["layers"]["attn_norm"] == 1)


def compile_step(num_layers: int):
    """(seconds to trace and compile a training step, bytes of its program)."""
    config = ModelConfig(97, 64, 128, num_layers, 4, 4, 16)
    params = jax.eval_shape(lambda: init_params(config, 0))
    tokens = jax.ShapeDtypeStruct((2, 32), jnp.int32)
    scale = 1 + time.time_ns() % 10**6  # a program that no compilation cache has seen

    def loss(params, tokens):
        model = Transformer(config, params=params)
        return jax.nn.log_softmax(model(tokens))[..., 0].mean() * scale

    jax.clear_caches()
    start = time.perf_counter()
    compiled = jax.jit(jax.value_and_grad(loss)).lower(params, tokens).compile()
    return time.perf_counter() - start, len(compiled.as_text())


def test_compiling_30_layers_costs_no_more_than_1_5_times_4():
    shallow, deep = [], []
    for _ in range(3):  # a busy machine may spoil one round
        shallow.append(compile_step(4))
        deep.append(compile_step(30))
        assert deep[-1][1] < 1.1 * shallow[-1][1]
        if min(deep)[0] <= 1.5 * min(shallow)[0]:
            return
    pytest.fail(f"30 layers: {min(deep)[0]:.2f} s, 4 layers: {min(shallow)[0]:.2f} s")
