"""The update step: accumulation, safety, what it counts."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from dsmath_jax.losses import grpo_loss, next_token_loss
from dsmath_jax.models import Transformer, preset
from dsmath_jax.models.sharding import make_mesh
from dsmath_jax.training.optimizer import make_optimizer
from dsmath_jax.training.spikes import SpikeRule
from dsmath_jax.training.state import init_state
from dsmath_jax.training.update import accumulate, make_update, predicted_mask, sequence_logprobs

CONFIG = preset("tiny", vocab_size=61, num_layers=2, hidden_size=32, intermediate_size=48)
MODEL = Transformer(CONFIG)
GRAPH, PARAMS = nnx.split(MODEL)
PARAMS = nnx.to_pure_dict(PARAMS)


def make_batch(rows=8, length=24, seed=0):
    rng = np.random.default_rng(seed)
    lengths = rng.integers(5, length + 1, rows)
    segments = (np.arange(length) < lengths[:, None]).astype(np.int32)
    return {
        "tokens": jnp.array(rng.integers(0, 61, (rows, length)), jnp.int32),
        "segment_ids": jnp.array(segments),
        "loss_mask": jnp.array(segments * (np.arange(length) >= 3), jnp.float32),
        "old_logp": jnp.array(rng.normal(-4, 0.1, (rows, length)), jnp.float32),
        "advantages": jnp.array(rng.normal(size=rows), jnp.float32),
    }


def sft_loss(params, batch):
    loss, sums = next_token_loss(sequence_logprobs(GRAPH, params, batch), predicted_mask(batch))
    return loss, (sums, {"most": batch["loss_mask"].sum(axis=1).max()})


def rl_loss(params, batch):
    logp = sequence_logprobs(GRAPH, params, batch)
    loss, sums = grpo_loss(
        logp,
        batch["old_logp"],
        batch["old_logp"] - 0.1,
        batch["advantages"][:, None],
        predicted_mask(batch),
    )
    return loss, (sums, {})


gradient = jax.jit(
    lambda loss_fn, params, batch: jax.grad(lambda p: loss_fn(p, batch)[0])(params),
    static_argnums=0,
)
accumulated = jax.jit(accumulate, static_argnums=(0, 3))


@pytest.mark.parametrize("loss_fn", [sft_loss, rl_loss])
@pytest.mark.parametrize("parts", [2, 8])
def test_micro_batches_give_the_gradient_of_the_whole(loss_fn, parts):
    batch = make_batch()
    whole, sums, peaks = accumulated(loss_fn, PARAMS, batch, 1)
    split, split_sums, split_peaks = accumulated(loss_fn, PARAMS, batch, parts)
    expected = gradient(loss_fn, PARAMS, batch)
    for got in (whole, split):
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-4, atol=2e-6), got, expected
        )
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), sums, split_sums)
    jax.tree.map(np.testing.assert_allclose, peaks, split_peaks)


def test_logprobs_are_those_of_the_logits():
    batch = make_batch()
    logits = jax.jit(MODEL)(batch["tokens"], None, batch["segment_ids"])
    table = np.asarray(jax.nn.log_softmax(logits / 0.7, axis=-1))
    got = np.asarray(sequence_logprobs(GRAPH, PARAMS, batch, 0.7))
    batch = jax.device_get(batch)
    for row in range(3):
        for t in range(1, int(batch["segment_ids"][row].sum())):
            expected = table[row, t - 1, batch["tokens"][row, t]]
            np.testing.assert_allclose(got[row, t], expected, atol=1e-5)


def test_first_token_of_each_segment_is_not_predicted():
    batch = {
        "segment_ids": jnp.array([[1, 1, 2, 2, 2, 0, 0]]),
        "loss_mask": jnp.ones((1, 7)),
    }
    np.testing.assert_array_equal(predicted_mask(batch), [[0, 1, 0, 1, 1, 0, 0]])


@pytest.fixture
def optimizer(defaults):
    return make_optimizer(defaults.optimizer, 10)


@pytest.fixture
def defaults():
    from dsmath_jax.stages.defaults import get_defaults

    return get_defaults("sft")


def new_state(optimizer):
    mesh = make_mesh(devices=jax.devices()[:1])
    return init_state(jax.tree.map(jnp.copy, PARAMS), optimizer, mesh, CONFIG)


def test_non_finite_loss_changes_nothing_but_the_count(optimizer):
    def loss_fn(params, batch):
        loss, (sums, peaks) = sft_loss(params, batch)
        poison = jnp.where(batch["poison"][0] > 0, jnp.nan, 0.0)
        return loss + poison, ({"loss": (sums["loss"][0] + poison, sums["loss"][1])}, peaks)

    update = make_update(loss_fn, optimizer)
    good = make_batch() | {"poison": jnp.zeros(8)}
    bad = make_batch() | {"poison": jnp.ones(8)}
    state, metrics = update(new_state(optimizer), good)
    assert (int(metrics["skipped"]), int(state.bad_steps)) == (0, 0)
    before = jax.device_get((state.params, state.opt_state))
    for n in (1, 2):
        state, metrics = update(state, bad)
        assert (int(metrics["skipped"]), int(state.bad_steps)) == (n, n)
        assert float(metrics["update_ratio"]) == float(metrics["update_ratio_max"]) == 0.0
    after = jax.device_get((state.params, state.opt_state))
    jax.tree.map(np.testing.assert_array_equal, before, after)
    state, metrics = update(state, good)
    assert (int(state.step), int(state.bad_steps)) == (4, 0)


def test_a_skipped_spike_changes_nothing_but_the_counts(optimizer):
    def loss_fn(params, batch):
        loss, (sums, peaks) = sft_loss(params, batch)
        factor = batch["factor"][0]
        return loss * factor, ({"loss": (sums["loss"][0] * factor, sums["loss"][1])}, peaks)

    update = make_update(loss_fn, optimizer, rule=SpikeRule(window=8, skip=True))
    calm = make_batch() | {"factor": jnp.ones(8)}
    state = new_state(optimizer)
    for _ in range(6):
        state, metrics = update(state, calm)
    assert (int(metrics["spikes"]), int(metrics["skipped"])) == (0, 0)
    before = jax.device_get(state)
    state, metrics = update(state, calm | {"factor": jnp.full(8, 50.0)})
    assert (int(metrics["spikes"]), int(metrics["skipped"])) == (1, 1)
    assert bool(metrics["spike/now"]) and bool(metrics["spike/skipped"])
    assert float(metrics["loss"]) > float(metrics["spike/loss_limit"]) > 0
    after = jax.device_get(state)
    for name in ("params", "opt_state", "bad_steps"):
        jax.tree.map(np.testing.assert_array_equal, getattr(before, name), getattr(after, name))
    assert after.step == before.step + 1
    state, metrics = update(state, calm)
    assert (int(metrics["spikes"]), int(metrics["skipped"])) == (1, 1)
    assert float(metrics["update_ratio"]) > 0


def test_update_ratios_are_those_of_the_difference(optimizer):
    update = make_update(sft_loss, optimizer)
    state, metrics = update(new_state(optimizer), make_batch())
    old, new = (
        jax.tree.map(lambda x: np.asarray(x, np.float64), t) for t in (PARAMS, state.params)
    )
    change = jax.tree.map(np.subtract, new, old)
    size = np.sqrt(sum((x**2).sum() for x in jax.tree.leaves(old)))
    moved = np.sqrt(sum((x**2).sum() for x in jax.tree.leaves(change)))
    np.testing.assert_allclose(metrics["param_norm"], size, rtol=1e-5)
    np.testing.assert_allclose(metrics["update_ratio"], moved / size, rtol=1e-3)
    ratios = [
        np.linalg.norm(d) / np.linalg.norm(x)
        for name in old["layers"]
        for d, x in zip(change["layers"][name], old["layers"][name], strict=True)
        if x.ndim == 2
    ]
    ratios += [np.linalg.norm(change[k]) / np.linalg.norm(old[k]) for k in ("embed", "head")]
    np.testing.assert_allclose(metrics["update_ratio_max"], max(ratios), rtol=1e-3)


def at(tree, path):
    for key in path:
        tree = tree[key.key]
    return tree


def test_update_is_clipped_adamw(optimizer, defaults):
    """Against optax.adamw on the gradient clipped by hand."""
    batch = make_batch()
    defaults.optimizer.warmup_steps = 0
    update = make_update(sft_loss, make_optimizer(defaults.optimizer, 10))
    state, metrics = update(new_state(make_optimizer(defaults.optimizer, 10)), batch)
    grads = gradient(sft_loss, PARAMS, batch)
    norm = optax.tree.norm(grads)
    np.testing.assert_allclose(metrics["grad_norm"], norm, rtol=1e-5)
    grads = jax.tree.map(lambda g: g / jnp.maximum(norm, 1.0), grads)
    o = defaults.optimizer
    m = jax.tree.map(lambda g: (1 - o.b1) * g / (1 - o.b1), grads)
    v = jax.tree.map(lambda g: (1 - o.b2) * g * g / (1 - o.b2), grads)
    for path, value in jax.tree_util.tree_flatten_with_path(state.params)[0]:
        decay = 0.0 if "norm" in path[-1].key else o.weight_decay
        step = at(m, path) / (jnp.sqrt(at(v, path)) + o.eps) + decay * at(PARAMS, path)
        expected = at(PARAMS, path) - o.learning_rate * step
        # One step of Adam is the gradient's sign: compare where it is not lost in rounding.
        clear = np.abs(at(grads, path)) > 1e-5
        np.testing.assert_allclose(value[clear], expected[clear], rtol=1e-4, atol=1e-6)
