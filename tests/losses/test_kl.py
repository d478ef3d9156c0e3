"""Estimates of the divergence from the reference policy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from finite_differences import numerical_gradient

from dsmath_jax.losses import kl_estimate

KINDS = ("k1", "k2", "k3")


def reference(logp, ref_logp, kind):
    log_ratio = np.asarray(ref_logp, np.float64) - np.asarray(logp, np.float64)
    if kind == "k1":
        return -log_ratio
    if kind == "k2":
        return log_ratio**2 / 2
    return np.exp(log_ratio) - log_ratio - 1


def random_logps():
    random = np.random.RandomState(0)
    logp = -random.exponential(2.0, (3, 5)).astype(np.float32)
    return logp, (logp + random.normal(0, 0.7, logp.shape)).astype(np.float32)


def test_by_hand():
    # pi = 1/2, pi_ref = 1/4: the ratio is 1/2
    logp, ref = jnp.log(jnp.array([[0.5]])), jnp.log(jnp.array([[0.25]]))
    np.testing.assert_allclose(kl_estimate(logp, ref, "k1"), [[np.log(2)]], rtol=1e-6)
    np.testing.assert_allclose(kl_estimate(logp, ref, "k2"), [[np.log(2) ** 2 / 2]], rtol=1e-6)
    np.testing.assert_allclose(kl_estimate(logp, ref, "k3"), [[np.log(2) - 0.5]], rtol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_equals_float64_numpy(kind):
    logp, ref = random_logps()
    actual = kl_estimate(jnp.array(logp), jnp.array(ref), kind)
    np.testing.assert_allclose(actual, reference(logp, ref, kind), rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("kind", KINDS)
def test_gradient_equals_finite_differences(kind):
    logp, ref = random_logps()
    actual = jax.grad(lambda x: kl_estimate(x, jnp.array(ref), kind).sum())(jnp.array(logp))
    expected = numerical_gradient(lambda x: reference(x, ref, kind).sum(), logp)
    np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-5)


def test_k3_is_the_default_of_the_paper():
    logp, ref = random_logps()
    assert np.array_equal(kl_estimate(logp, ref), kl_estimate(logp, ref, "k3"))


@pytest.mark.parametrize("compiled", [False, True])
def test_k3_is_never_negative(compiled):
    size = np.logspace(-30, 1.9, 20001).astype(np.float32)
    difference = jnp.array(np.concatenate([-size, [0.0], size]))
    f = jax.jit(kl_estimate) if compiled else kl_estimate
    kl = np.asarray(f(jnp.zeros_like(difference), difference))
    assert np.all(np.isfinite(kl)) and kl.min() >= 0.0


def test_k3_of_close_policies_keeps_its_digits():
    # exp(x) - x - 1 in float32 would be 0 or noise here; x^2 / 2 is right.
    difference = jnp.array([1e-3, -1e-3])
    np.testing.assert_allclose(
        kl_estimate(jnp.zeros(2), difference), [5.0017e-7, 4.9983e-7], rtol=1e-3
    )


def test_equal_policies_have_zero_divergence_and_gradient():
    logp, _ = random_logps()
    for kind in KINDS:
        assert not np.any(kl_estimate(logp, logp, kind))
    assert not np.any(jax.grad(lambda x: kl_estimate(x, logp, "k3").sum())(jnp.array(logp)))


def test_k1_and_k3_estimate_the_divergence_without_bias():
    # The mean over the policy's own distribution is KL(pi || pi_ref) for k1 and k3.
    random = np.random.RandomState(3)
    p, q = random.dirichlet(np.ones(6)), random.dirichlet(np.ones(6))
    exact = np.sum(p * np.log(p / q))
    for kind in ("k1", "k3"):
        estimates = kl_estimate(jnp.log(jnp.array(p)), jnp.log(jnp.array(q)), kind)
        np.testing.assert_allclose(np.sum(p * np.asarray(estimates)), exact, rtol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_jit_agrees(kind):
    logp, ref = random_logps()
    compiled = jax.jit(kl_estimate, static_argnums=2)(logp, ref, kind)
    np.testing.assert_allclose(compiled, kl_estimate(logp, ref, kind), rtol=1e-5, atol=1e-7)


def test_an_unknown_kind_is_named():
    with pytest.raises(ValueError, match=r"'k4'.*k1.*k2.*k3"):
        kl_estimate(jnp.zeros(1), jnp.zeros(1), "k4")
