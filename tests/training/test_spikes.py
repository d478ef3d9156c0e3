"""The spike rule, against numpy float64 and by hand."""

import jax
import numpy as np
import pytest

from dsmath_jax.training.spikes import SpikeRule, judge, limits, new_history

RULE = SpikeRule(sigmas=4.0, window=16, skip=True, max_in_a_row=3)
judged = jax.jit(judge, static_argnums=0)


def run(values, rule=RULE, history=None):
    """(which are spikes, which are taken, history) of losses, or of (loss, norm) pairs."""
    history = new_history() if history is None else history
    spikes, taken = [], []
    for value in values:
        loss, norm = value if np.ndim(value) else (value, 1.0)
        spike, take, history = judged(rule, history, np.float32(loss), np.float32(norm))
        spikes.append(bool(spike))
        taken.append(bool(take))
    return spikes, taken, history


def calm(count, seed=0):
    return np.random.default_rng(seed).normal(2.0, 0.1, count).clip(1.8, 2.2)


def test_averages_are_those_of_numpy():
    values = np.stack([calm(40), calm(40, seed=1)], axis=1)
    for count in (1, 2, 7, 16):  # up to the window: plain mean and standard deviation
        _, _, history = run(values[:count])
        np.testing.assert_allclose(history.mean, values[:count].mean(axis=0), rtol=1e-6)
        np.testing.assert_allclose(history.variance, values[:count].var(axis=0), rtol=1e-4)
    # after it: the 16 steps' average decays by 15/16 a step
    _, _, history = run(values)
    weights = np.r_[np.full(16, (15 / 16) ** 24 / 16), (15 / 16) ** np.arange(23, -1, -1) / 16]
    mean = weights @ values
    np.testing.assert_allclose(weights.sum(), 1)
    np.testing.assert_allclose(history.mean, mean, rtol=1e-6)
    np.testing.assert_allclose(history.variance, weights @ (values - mean) ** 2, rtol=1e-4)
    expected = mean + 4 * np.sqrt(weights @ (values - mean) ** 2)
    np.testing.assert_allclose(limits(RULE, history), expected, rtol=1e-5)


@pytest.mark.parametrize("where", [0, 1])
def test_a_spike_of_either_number_is_skipped_and_leaves_no_trace(where):
    before = [(x, y) for x, y in zip(calm(20), calm(20, seed=1), strict=True)]
    spike = [(2.0, 2.0), (2.0, 2.0)]
    spike[0] = tuple(3.0 if i == where else 2.0 for i in range(2))
    spikes, taken, history = run([*before, *spike])
    assert spikes == [False] * 20 + [True, False]
    assert taken == [True] * 20 + [False, True]
    _, _, without = run([*before, spike[1]])
    assert (int(history.spikes), int(history.skipped), int(history.in_a_row)) == (1, 1, 0)
    for name in ("steps", "mean", "variance"):
        np.testing.assert_array_equal(getattr(history, name), getattr(without, name))


def test_nothing_is_a_spike_before_half_a_window():
    assert not any(run([2.0, 2.1, 2.0, 9.0, 2.0, 99.0, 2.0])[0])
    assert run([*calm(8), 9.0])[0][-1]


def test_without_skip_spikes_are_counted_and_taken():
    spikes, taken, history = run([*calm(20), 9.0, 2.0], RULE._replace(skip=False))
    assert spikes[20] and all(taken)
    assert (int(history.spikes), int(history.skipped), int(history.steps)) == (1, 0, 22)


def test_a_lasting_change_of_level_is_accepted_and_the_rule_begins_anew():
    spikes, taken, history = run([*calm(20), *[5.0] * 4])
    assert spikes[20:] == [True] * 4
    assert taken[20:] == [False, False, False, True]
    assert (int(history.steps), int(history.in_a_row)) == (1, 0)
    np.testing.assert_array_equal(history.mean, [5.0, 1.0])
    np.testing.assert_array_equal(history.variance, [0.0, 0.0])
    assert all(run(calm(30) + 3, history=history)[1])


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_value_that_is_not_finite_is_no_spike_and_not_taken(bad):
    _, _, before = run(calm(20))
    spikes, taken, history = run([bad, (2.0, bad)], history=before)
    assert not any(spikes) and not any(taken)
    assert int(history.skipped) == 2
    np.testing.assert_array_equal(history.mean, before.mean)


def test_rounding_of_a_constant_loss_is_no_spike():
    assert not any(run([2.0 + 1e-7 * (i % 7 == 6) for i in range(40)])[0])


def test_falling_losses_are_no_spikes():
    losses = 2 + 8 * np.exp(-np.arange(400) / 60) + np.random.default_rng(0).normal(0, 0.05, 400)
    assert not any(run(losses, SpikeRule(skip=True))[0])
