"""PPO: advantages by hand and by the defining sum, clipping, gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from finite_differences import numerical_gradient

from dsmath_jax.losses import gae, ppo_loss, value_loss


def random_inputs(seed=0, rows=3, length=7):
    rng = np.random.default_rng(seed)
    mask = np.zeros((rows, length), np.float32)
    for row, (start, end) in enumerate([(0, 7), (2, 6), (3, 4)]):
        mask[row, start:end] = 1
    return {
        name: rng.normal(scale=0.3, size=(rows, length)).astype(np.float32)
        for name in ("logp", "old_logp", "advantages", "rewards", "values", "returns")
    } | {"mask": mask}


def test_two_tokens_by_hand():
    # The last: 1 - 0.5 = 0.5. The first: 0 + 0.5 - 0.2 + 0.9 * 0.5 = 0.75.
    advantages, returns = gae(
        jnp.array([[0.0, 1.0, 9.0]]),
        jnp.array([[0.2, 0.5, 7.0]]),
        jnp.array([[1.0, 1.0, 0.0]]),
        decay=0.9,
    )
    np.testing.assert_allclose(advantages, [[0.75, 0.5, 0.0]], rtol=1e-6)
    np.testing.assert_allclose(returns, [[0.95, 1.0, 0.0]], rtol=1e-6)


@pytest.mark.parametrize("discount, decay", [(1.0, 0.95), (0.9, 0.5), (1.0, 1.0), (0.99, 0.0)])
def test_advantages_are_the_discounted_sum_of_errors(discount, decay):
    x = random_inputs()
    expected = np.zeros_like(x["rewards"], dtype=np.float64)
    for row in range(len(expected)):
        on = np.flatnonzero(x["mask"][row])
        rewards, values = (x[k][row, on].astype(np.float64) for k in ("rewards", "values"))
        errors = rewards + discount * np.append(values[1:], 0) - values
        for n, t in enumerate(on):
            expected[row, t] = sum((discount * decay) ** k * e for k, e in enumerate(errors[n:]))
    got, returns = jax.jit(lambda: gae(*args(x), discount=discount, decay=decay))()
    np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(returns, expected + x["values"] * x["mask"], rtol=1e-5, atol=1e-6)


def args(x):
    return x["rewards"], x["values"], x["mask"]


def test_with_decay_1_the_return_is_the_sum_of_rewards_to_come():
    x = random_inputs(1)
    _, returns = gae(*args(x), decay=1.0)
    rewards = x["rewards"] * x["mask"]
    expected = np.flip(np.cumsum(np.flip(rewards, 1), 1), 1) * x["mask"]
    np.testing.assert_allclose(returns, expected, rtol=1e-5, atol=1e-6)


def test_what_lies_beyond_the_mask_changes_nothing():
    x = random_inputs()
    off = x["mask"] == 0
    other = {k: np.where(off, 1e6, v) for k, v in x.items() if k in ("rewards", "values")}
    for got, expected in zip(gae(*args(x | other)), gae(*args(x)), strict=True):
        np.testing.assert_array_equal(got, expected)


def test_the_ratio_is_clipped_on_the_side_that_would_gain():
    # ratio 1.5 counts as 1.2 for a positive advantage, in full for a negative one.
    logp, old = jnp.log(jnp.array([[1.5, 1.5]])), jnp.zeros((1, 2))
    loss, metrics = ppo_loss(logp, old, jnp.array([[2.0, -1.0]]), jnp.ones((1, 2)))
    np.testing.assert_allclose(loss, -(1.2 * 2 - 1.5) / 2, rtol=1e-6)
    assert float(metrics["clip_fraction"][0]) == 1


def numpy_ppo(logp, x, low=0.2, high=0.2, aggregation="sequence_mean"):
    ratio = np.exp(logp - x["old_logp"])
    clipped = np.clip(ratio, 1 - low, 1 + high)
    by_row = (-np.minimum(ratio * x["advantages"], clipped * x["advantages"]) * x["mask"]).sum(1)
    if aggregation == "token_mean":
        return by_row.sum() / x["mask"].sum()
    return (by_row / x["mask"].sum(1)).mean()


def numpy_value(values, x, clip):
    near = x["values"] + np.clip(values - x["values"], -clip, clip)
    squares = np.maximum((values - x["returns"]) ** 2, (near - x["returns"]) ** 2) / 2
    return ((squares * x["mask"]).sum(1) / x["mask"].sum(1)).mean()


@pytest.mark.parametrize("aggregation", ["sequence_mean", "token_mean"])
def test_ppo_loss_is_that_of_numpy(aggregation):
    x = {k: v.astype(np.float64) for k, v in random_inputs(2).items()}
    expected = numpy_ppo(x["logp"], x, 0.1, 0.3, aggregation)
    inputs = [jnp.array(x[k], jnp.float32) for k in ("logp", "old_logp", "advantages", "mask")]
    loss, _ = ppo_loss(*inputs, clip_low=0.1, clip_high=0.3, aggregation=aggregation)
    np.testing.assert_allclose(loss, expected, rtol=1e-5)


def test_gradients_are_those_of_finite_differences():
    x = {k: v.astype(np.float64) for k, v in random_inputs(3).items()}
    f32 = {k: jnp.array(v, jnp.float32) for k, v in x.items()}
    policy = jax.grad(
        lambda logp: ppo_loss(logp, f32["old_logp"], f32["advantages"], f32["mask"])[0]
    )(f32["logp"])
    expected = numerical_gradient(lambda logp: numpy_ppo(logp, x), x["logp"])
    np.testing.assert_allclose(policy, expected, rtol=1e-4, atol=1e-6)
    start = x["values"] + 0.3 * x["advantages"]
    critic = jax.grad(
        lambda values: value_loss(values, f32["values"], f32["returns"], f32["mask"])[0]
    )(jnp.array(start, jnp.float32))
    expected = numerical_gradient(lambda values: numpy_value(values, x, 0.2), start)
    np.testing.assert_allclose(critic, expected, rtol=1e-4, atol=1e-6)


def test_where_ratios_are_1_the_gradient_is_the_advantage():
    x = random_inputs(4)
    grad = jax.grad(
        lambda logp: ppo_loss(
            logp, x["logp"], x["advantages"], x["mask"], aggregation="token_mean"
        )[0]
    )(x["logp"])
    np.testing.assert_allclose(grad, -x["advantages"] * x["mask"] / 12, rtol=1e-5, atol=1e-7)


def test_a_value_gains_nothing_by_moving_beyond_the_clip():
    loss, metrics = value_loss(
        jnp.array([[1.0, 0.1]]), jnp.zeros((1, 2)), jnp.array([[1.0, 1.0]]), jnp.ones((1, 2))
    )
    # 1.0 is held at 0.2: error 0.8; 0.1 is near enough: error 0.9.
    np.testing.assert_allclose(loss, 0.5 * (0.64 + 0.81) / 2, rtol=1e-6)
    np.testing.assert_allclose(metrics["value_error"][0], 0.9, rtol=1e-6)


@pytest.mark.parametrize("bad", [{"advantages": np.zeros((3, 1))}, {"mask": np.ones(7)}])
def test_shapes_that_would_broadcast_are_refused(bad):
    x = random_inputs() | bad
    with pytest.raises(ValueError, match=r"must all be \[batch, length\]"):
        ppo_loss(x["logp"], x["old_logp"], x["advantages"], x["mask"])
