"""Draws from given probabilities."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import chisquare

from dsmath_jax.rollout.draw import draw, keep_likely


@pytest.mark.parametrize("vocab", [1, 5, 128, 129, 1000])
def test_it_is_the_inverse_of_the_running_sum(vocab):
    rng = np.random.default_rng(vocab)
    probs = rng.random((64, vocab)).astype(np.float32) ** 4
    uniform = rng.random(64).astype(np.float32)
    ends = np.cumsum(probs.astype(np.float64), axis=1)
    tokens = np.asarray(jax.jit(draw)(probs, uniform))
    target = uniform * ends[:, -1]
    slack = 1e-5 * ends[:, -1]
    rows = np.arange(64)
    assert (target <= ends[rows, tokens] + slack).all()
    assert (target >= ends[rows, tokens] - probs[rows, tokens] - slack).all()


@pytest.mark.parametrize("uniform", [0.0, 0.25, np.nextafter(np.float32(1), np.float32(0))])
def test_impossible_tokens_never_come(uniform):
    probs = np.zeros((3, 700), np.float32)
    probs[0, [140, 500]] = 1e-30, 0.3
    probs[1, 699] = 1.0
    probs[2, 0] = 1.0
    tokens = np.asarray(draw(jnp.array(probs), jnp.full(3, uniform, jnp.float32)))
    assert (probs[np.arange(3), tokens] > 0).all()


def test_frequencies_over_several_chunks():
    rng = np.random.default_rng(0)
    probs = rng.dirichlet(np.full(300, 0.5)).astype(np.float32)
    uniform = jax.random.uniform(jax.random.key(1), (200_000,))
    tokens = jax.jit(jax.vmap(lambda u: draw(probs[None], u[None])[0]))(uniform)
    common = probs * 200_000 > 20
    counts = np.bincount(tokens, minlength=300)[common]
    expected = probs[common].astype(float)
    expected *= counts.sum() / expected.sum()
    assert chisquare(counts, expected).pvalue > 1e-3


@pytest.mark.parametrize(("top_k", "top_p"), [(1, 1.0), (5, 1.0), (0, 0.7), (40, 0.9), (0, 1.0)])
def test_the_likely_tokens_are_those_a_sort_would_keep(top_k, top_p):
    rng = np.random.default_rng(2)
    probs = rng.dirichlet(np.full(200, 0.1), size=16).astype(np.float32)
    kept = np.asarray(jax.jit(keep_likely)(probs, top_k, top_p))
    for row, got in zip(probs.astype(np.float64), kept, strict=True):
        order = np.argsort(-row)[: top_k or None]
        if top_p < 1:
            sums = np.cumsum(row[order])
            order = order[: 1 + int((sums < top_p * sums[-1]).sum())]
        wanted = np.zeros_like(row)
        wanted[order] = row[order]
        np.testing.assert_allclose(got, wanted, rtol=1e-6)


def test_tokens_as_likely_as_the_last_one_stay():
    probs = jnp.array([[0.25, 0.25, 0.25, 0.125, 0.125]])
    np.testing.assert_array_equal(
        keep_likely(probs, jnp.int32(2), jnp.float32(1.0))[0] > 0, [True] * 3 + [False] * 2
    )
