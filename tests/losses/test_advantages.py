"""Group advantages: DeepSeekMath 4.1.2."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dsmath_jax.losses import group_advantages


def reference(rewards, ddof=0, eps=1e-6):
    rows = []
    for row in np.asarray(rewards, np.float64):
        if len(set(row.tolist())) == 1:
            rows.append(np.zeros_like(row))
        else:
            rows.append((row - np.mean(row)) / (np.std(row, ddof=ddof) + eps))
    return np.array(rows)


def test_two_groups_by_hand():
    # mean 0.5 and std 0.5; mean 2 and std sqrt(2 / 3)
    assert np.allclose(
        group_advantages(jnp.array([[0.0, 1.0, 1.0, 0.0]]), eps=0.0), [[-1, 1, 1, -1]]
    )
    assert np.allclose(
        group_advantages(jnp.array([[1.0, 2.0, 3.0]]), eps=0.0),
        [[-np.sqrt(1.5), 0.0, np.sqrt(1.5)]],
    )


@pytest.mark.parametrize("ddof", [0, 1])
@pytest.mark.parametrize("eps", [1e-6, 1e-4])
@pytest.mark.parametrize("group", [2, 7, 64])
def test_equals_float64_numpy(ddof, eps, group):
    rewards = np.random.RandomState(group).normal(3.0, 2.0, (5, group)).astype(np.float32)
    actual = group_advantages(jnp.array(rewards), ddof=ddof, eps=eps)
    np.testing.assert_allclose(actual, reference(rewards, ddof, eps), rtol=1e-4, atol=1e-5)


def test_ddof_one_divides_by_one_less():
    got = group_advantages(jnp.array([[0.0, 2.0]]), ddof=1, eps=0.0)
    np.testing.assert_allclose(got, [[-1 / np.sqrt(2), 1 / np.sqrt(2)]], rtol=1e-6)


@pytest.mark.parametrize("reward", [0.0, 1.0, 0.1, -0.3, 1 / 3, 1e-8, 12345.678])
@pytest.mark.parametrize("group", [3, 64])
@pytest.mark.parametrize("ddof", [0, 1])
def test_all_equal_rewards_teach_exactly_nothing(reward, group, ddof):
    rewards = jnp.full((2, group), reward)
    assert not np.any(group_advantages(rewards, ddof=ddof))
    assert not np.any(jax.jit(group_advantages, static_argnames="ddof")(rewards, ddof=ddof))


@pytest.mark.parametrize("ddof", [0, 1])
def test_a_group_of_one_gets_zero(ddof):
    assert np.array_equal(group_advantages(jnp.array([[0.7], [1.0]]), ddof=ddof), [[0.0], [0.0]])


def test_groups_do_not_mix():
    rewards = np.random.RandomState(0).normal(size=(3, 8)).astype(np.float32)
    together = group_advantages(jnp.array(rewards))
    alone = [group_advantages(jnp.array(rewards[i : i + 1]))[0] for i in range(3)]
    np.testing.assert_allclose(together, alone, rtol=1e-6)
    shuffled = group_advantages(jnp.array(rewards[[2, 0, 1]]))
    np.testing.assert_allclose(shuffled, together[jnp.array([2, 0, 1])], rtol=1e-6)


def test_mean_zero_and_deviation_one():
    rewards = np.random.RandomState(1).normal(size=(4, 32)).astype(np.float32)
    advantages = np.asarray(group_advantages(jnp.array(rewards), eps=0.0))
    np.testing.assert_allclose(advantages.mean(axis=1), 0.0, atol=1e-6)
    np.testing.assert_allclose(advantages.std(axis=1), 1.0, atol=1e-5)


@pytest.mark.parametrize("dtype", [jnp.int32, jnp.bool_, jnp.bfloat16])
def test_rewards_of_any_dtype_give_float32(dtype):
    advantages = group_advantages(jnp.array([[0, 1, 1, 1]], dtype))
    assert advantages.dtype == jnp.float32
    np.testing.assert_allclose(advantages, reference([[0, 1, 1, 1]]), rtol=1e-5)


def test_jit_agrees():
    rewards = jnp.array(np.random.RandomState(2).normal(size=(4, 16)), jnp.float32)
    np.testing.assert_allclose(
        jax.jit(group_advantages)(rewards), group_advantages(rewards), rtol=1e-6
    )
