"""Samples packed into rows give the losses and gradients that they give one to a row."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dsmath_jax.losses import (
    gae,
    grpo_loss,
    importance_weights,
    policy_gradient_loss,
    ppo_loss,
    value_loss,
)
from dsmath_jax.losses.aggregation import AGGREGATIONS

# (row, first position, tokens before the completion, its tokens) of each sample.
PLACES = [(0, 0, 2, 3), (0, 5, 1, 1), (0, 7, 3, 4), (1, 0, 1, 6), (1, 7, 2, 2), (2, 0, 4, 5)]
PACKED, LENGTH = (4, 14), 9  # the last row stays empty


def single_rows(seed, names):
    """[samples, LENGTH] each, and the mask."""
    random = np.random.default_rng(seed)
    arrays = {name: random.normal(0, 0.5, (len(PLACES), LENGTH)) for name in names}
    mask = np.zeros((len(PLACES), LENGTH), np.float32)
    for i, (_, _, start, count) in enumerate(PLACES):
        mask[i, start : start + count] = 1
    return {k: v.astype(np.float32) for k, v in arrays.items()} | {"mask": mask}


def packed(array):
    out = np.zeros(PACKED, array.dtype)
    for i, (row, first, start, count) in enumerate(PLACES):
        out[row, first : first + start + count] = array[i, : start + count]
    return out


def unpacked(array):
    out = np.zeros((len(PLACES), LENGTH), np.asarray(array).dtype)
    for i, (row, first, start, count) in enumerate(PLACES):
        out[i, : start + count] = array[row, first : first + start + count]
    return out


def segments_and_lengths():
    segments, lengths = np.zeros(PACKED, np.int32), np.zeros(PACKED, np.float32)
    for i, (row, first, start, count) in enumerate(PLACES):
        segments[row, first : first + start + count] = i + 1
        lengths[row, first + start : first + start + count] = count
    return segments, lengths


LOSSES = {
    "grpo": (grpo_loss, ["logp", "old_logp", "ref_logp", "advantages"], {}),
    "grpo_weighted": (grpo_loss, ["logp", "old_logp", "ref_logp", "advantages"], {"weights"}),
    "ppo": (ppo_loss, ["logp", "old_logp", "advantages"], {"weights"}),
    "value": (value_loss, ["values", "old_values", "returns"], {}),
    "policy_gradient": (policy_gradient_loss, ["logp", "coefficients"], {}),
}


@pytest.mark.parametrize("aggregation", AGGREGATIONS)
@pytest.mark.parametrize("name", LOSSES)
def test_loss_metrics_and_gradient_are_those_of_one_sample_a_row(name, aggregation):
    function, names, options = LOSSES[name]
    rows = single_rows(0, [*names, *options])  # advantages differ from token to token
    together = {k: packed(v) for k, v in rows.items()}

    def run(rows, **more):
        def loss(first):
            arguments = (first, *(rows[n] for n in names[1:]), rows["mask"])
            given = {n: rows[n] for n in options}
            return function(*arguments, aggregation=aggregation, **given, **more)

        return jax.value_and_grad(loss, has_aux=True)(jnp.array(rows[names[0]]))

    (expected, metrics), gradient = run(rows)
    (loss, packed_metrics), packed_gradient = run(together, lengths=segments_and_lengths()[1])
    np.testing.assert_allclose(loss, expected, rtol=1e-6)
    np.testing.assert_allclose(unpacked(packed_gradient), gradient, rtol=1e-5, atol=1e-8)
    assert not np.any(np.asarray(packed_gradient)[together["mask"] == 0])
    for key, pair in metrics.items():
        np.testing.assert_allclose(packed_metrics[key], pair, rtol=1e-5, err_msg=key)


def test_advantage_estimation_stays_within_a_segment():
    rows = single_rows(1, ["rewards", "values"])
    expected = gae(rows["rewards"], rows["values"], rows["mask"])
    together = {k: packed(v) for k, v in rows.items()}
    arguments = (together["rewards"], together["values"], together["mask"])
    got = gae(*arguments, segment_ids=segments_and_lengths()[0])
    for a, b in zip(got, expected, strict=True):
        np.testing.assert_allclose(unpacked(a), b, rtol=1e-6)
    across = gae(*arguments)
    assert not np.allclose(unpacked(across[0]), expected[0])


def test_importance_weights_are_capped_and_masked():
    old, rollout = jnp.log(jnp.array([[0.2, 0.9, 0.5]])), jnp.log(jnp.array([[0.4, 0.1, 0.1]]))
    weights = importance_weights(old, rollout, jnp.array([[1, 1, 0]]), cap=2.0)
    np.testing.assert_allclose(weights, [[0.5, 2.0, 0.0]], rtol=1e-6)


def test_weights_multiply_the_policys_term_and_not_the_divergence():
    zeros, ones = jnp.zeros((1, 2)), jnp.ones((1, 2))
    reference = jnp.full((1, 2), -1.0)
    weights = jnp.array([[0.5, 2.0]])
    loss, metrics = grpo_loss(zeros, zeros, reference, ones, ones, weights=weights, kl_coef=0.1)
    divergence = np.exp(-1.0)  # exp(-1) - (-1) - 1
    assert float(loss) == pytest.approx(-(0.5 + 2.0) / 2 + 0.1 * divergence)
    assert float(metrics["kl"][0]) == pytest.approx(2 * divergence)
