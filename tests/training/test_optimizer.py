"""Schedules against the paper's numbers; the moments' precision; the critic's rate."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dsmath_jax.data.errors import InputError
from dsmath_jax.stages.defaults import get_defaults
from dsmath_jax.training.optimizer import make_optimizer, make_schedule


def options(**changes):
    config = get_defaults("pretrain").optimizer
    config.update(changes)
    return config


def test_multi_step_is_the_papers():
    # 2.2: 2,000 warm-up steps to 5.3e-4, x 0.316 after 80%, x 0.1 after 90%
    schedule = make_schedule(
        options(learning_rate=5.3e-4, warmup_steps=2000, schedule="multi_step"), 37_500
    )
    steps = [0, 999, 1999, 2000, 29_999, 30_000, 33_749, 33_750, 37_499]
    factors = [1 / 2000, 0.5, 1, 1, 1, 0.316, 0.316, 0.1, 0.1]
    expected = [5.3e-4 * factor for factor in factors]
    np.testing.assert_allclose([schedule(jnp.int32(s)) for s in steps], expected, rtol=1e-5)


def test_constant_warms_up_and_stays():
    schedule = make_schedule(options(learning_rate=5e-5, warmup_steps=10, schedule="constant"), 500)
    np.testing.assert_allclose(
        [schedule(s) for s in (0, 4, 9, 499)], [5e-6, 2.5e-5, 5e-5, 5e-5], rtol=1e-5
    )


def test_cosine_ends_at_a_tenth():
    schedule = make_schedule(options(learning_rate=1.0, warmup_steps=10, schedule="cosine"), 110)
    np.testing.assert_allclose([schedule(s) for s in (10, 60, 110)], [1.0, 0.55, 0.1], rtol=1e-6)


@pytest.mark.parametrize("name", ["multi_step", "constant", "cosine"])
@pytest.mark.parametrize("warmup", [0, 1])
def test_without_warmup_the_first_step_has_the_peak(name, warmup):
    schedule = make_schedule(options(learning_rate=1.0, warmup_steps=warmup, schedule=name), 3)
    np.testing.assert_allclose(schedule(jnp.int32(0)), 1.0)


def test_unknown_schedule_is_named():
    with pytest.raises(InputError, match=r"config.optimizer.schedule='linear'"):
        make_schedule(options(schedule="linear"), 10)


def run_optimizer(steps=50, **changes):
    """Parameters after noisy steps towards 1, and the last state."""
    config = options(learning_rate=0.02, warmup_steps=0, schedule="constant", **changes)
    optimizer = make_optimizer(config, steps)
    params = {"wq": jnp.zeros((4, 8)), "final_norm": jnp.zeros(8)}
    rng, state = np.random.default_rng(0), optimizer.init(params)
    for _ in range(steps):
        grads = jax.tree.map(lambda p: p - 1 + rng.normal(size=p.shape), params)
        updates, state = optimizer.update(grads, state, params)
        params = jax.tree.map(jnp.add, params, updates)
    return params, state


def test_bfloat16_moments_take_half_the_memory_and_hardly_change_the_steps():
    exact, exact_state = run_optimizer()
    params, state = run_optimizer(moments="bfloat16")
    assert {x.dtype for x in jax.tree.leaves((state[1].mu, state[1].nu))} == {jnp.dtype("bfloat16")}
    assert {x.dtype for x in jax.tree.leaves((exact_state[1].mu,))} == {jnp.dtype("float32")}
    for name in exact:
        moved = np.abs(exact[name]).max()
        difference = np.abs(params[name] - exact[name]).max()
        assert 0 < difference < 0.02 * moved


def test_unknown_precision_of_moments_is_named():
    with pytest.raises(InputError, match=r"config.optimizer.moments='int8'.*float32, bfloat16"):
        make_optimizer(options(moments="int8"), 10)


def test_the_critic_learns_at_its_own_rate():
    config = options(warmup_steps=0, schedule="constant", weight_decay=0.0, learning_rate=1e-3)
    optimizer = make_optimizer(config, 10, critic_rate=4.0)
    params = {"policy": {"wq": jnp.zeros(3)}, "critic": {"value": jnp.zeros(3)}}
    grads = jax.tree.map(jnp.ones_like, params)
    updates, _ = optimizer.update(grads, optimizer.init(params), params)
    np.testing.assert_allclose(updates["policy"]["wq"], -1e-3, rtol=1e-4)
    np.testing.assert_allclose(updates["critic"]["value"], -4e-3, rtol=1e-4)
