"""GRPO and the plain policy gradient: values, gradients, and the paper's coefficients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from finite_differences import numerical_gradient

from dsmath_jax.losses import grpo_loss, policy_gradient_loss
from dsmath_jax.losses.aggregation import AGGREGATIONS

VARIANTS = [
    {},
    {"kl_coef": 0.0},
    {"clip_low": 0.1, "clip_high": 0.28},
    {"aggregation": "token_mean", "kl_coef": 0.5},
]


def reference(
    logp,
    old_logp,
    ref_logp,
    advantages,
    mask,
    clip_low=0.2,
    clip_high=None,
    kl_coef=0.04,
    aggregation="sequence_mean",
):
    """Eq. 3, token by token in float64."""
    high = 1 + (clip_low if clip_high is None else clip_high)
    per_sequence, per_token = [], []
    for i in range(mask.shape[0]):
        objective = []
        for t in range(mask.shape[1]):
            if mask[i, t]:
                ratio = np.exp(np.float64(logp[i, t]) - np.float64(old_logp[i, t]))
                a = np.float64(advantages[i, t])
                gain = min(ratio * a, min(max(ratio, 1 - clip_low), high) * a)
                x = np.float64(ref_logp[i, t]) - np.float64(logp[i, t])
                objective.append(gain - kl_coef * (np.exp(x) - x - 1))
        per_token += objective
        if objective:
            per_sequence.append(np.mean(objective))
    return -np.mean(per_token if aggregation == "token_mean" else per_sequence)


def random_batch(rows=6, length=7):
    random = np.random.RandomState(0)
    logp = -random.exponential(1.5, (rows, length))
    old = logp + random.normal(0, 0.3, logp.shape)
    ref = logp + random.normal(0, 0.5, logp.shape)
    advantages = np.broadcast_to(random.normal(size=(rows, 1)), logp.shape)
    mask = np.arange(length) < random.randint(1, length + 1, (rows, 1))
    return *(x.astype(np.float32) for x in (logp, old, ref, advantages)), mask


def test_two_tokens_by_hand():
    # Ratio 1.5 clips at 1.2 for a positive advantage, not for a negative: -(1.2 * 2 + 1.5 * -1) / 2
    zeros, ones = jnp.zeros((1, 2)), jnp.ones((1, 2))
    logp, advantages = jnp.log(jnp.array([[1.5, 1.5]])), jnp.array([[2.0, -1.0]])
    loss, metrics = grpo_loss(logp, zeros, zeros, advantages, ones, kl_coef=0.0)
    assert float(loss) == pytest.approx(-0.45)
    assert [float(x) for x in metrics["clip_fraction"]] == [1.0, 2.0]
    assert float(metrics["ratio"][0]) == pytest.approx(3.0)
    # Ratio 0.5 is the mirror image: -(0.5 * 2 + 0.8 * -1) / 2
    loss, _ = grpo_loss(jnp.log(jnp.array([[0.5, 0.5]])), zeros, zeros, advantages, ones, kl_coef=0)
    assert float(loss) == pytest.approx(-0.1)


def test_lengths_weigh_as_the_aggregation_says():
    # On policy the loss is -mean of advantages; sequences of 1 and 3 tokens with advantages 1 and 2
    zeros = jnp.zeros((2, 3))
    mask, advantages = jnp.array([[1, 0, 0], [1, 1, 1]]), jnp.array([[1.0], [2.0]])
    loss, _ = grpo_loss(zeros, zeros, zeros, advantages, mask)
    assert float(loss) == pytest.approx(-1.5)
    loss, _ = grpo_loss(zeros, zeros, zeros, advantages, mask, aggregation="token_mean")
    assert float(loss) == pytest.approx(-7 / 4)


@pytest.mark.parametrize("options", VARIANTS)
def test_grpo_equals_float64_numpy_in_value_and_gradient(options):
    logp, *rest = random_batch()
    loss = jax.value_and_grad(lambda x: grpo_loss(x, *rest, **options)[0])
    value, gradient = loss(jnp.array(logp))
    np.testing.assert_allclose(value, reference(logp, *rest, **options), rtol=1e-5, atol=1e-6)
    expected = numerical_gradient(lambda x: reference(x, *rest, **options), logp)
    np.testing.assert_allclose(gradient, expected, atol=1e-5)
    compiled_value, compiled_gradient = jax.jit(loss)(logp)
    np.testing.assert_allclose(compiled_value, value, rtol=1e-5)
    np.testing.assert_allclose(compiled_gradient, gradient, atol=1e-6)


@pytest.mark.parametrize("beta", [0.0, 0.04, 1.0])
def test_gradient_is_the_papers_coefficient(beta):  # eq. 21, when old == new
    logp, _, ref, advantages, mask = random_batch()
    gradient = jax.grad(lambda x: grpo_loss(x, logp, ref, advantages, mask, kl_coef=beta)[0])(logp)
    coefficient = advantages + beta * (np.exp(ref - logp) - 1)
    lengths = mask.sum(axis=1, keepdims=True)
    expected = -np.where(mask, coefficient, 0) / lengths / len(mask)
    np.testing.assert_allclose(gradient, expected, rtol=1e-4, atol=1e-6)


def test_clipped_tokens_have_no_gradient_but_that_of_the_kl():
    zeros, mask = jnp.zeros((1, 4)), jnp.ones((1, 4))
    logp = jnp.log(jnp.array([[1.5, 0.5, 1.5, 0.5]]))
    advantages = jnp.array([[1.0, -1.0, -1.0, 1.0]])
    gradient = jax.grad(lambda x: grpo_loss(x, zeros, zeros, advantages, mask, kl_coef=0.0)[0])(
        logp
    )
    np.testing.assert_allclose(gradient, [[0, 0, 1.5 / 4, -0.5 / 4]], atol=1e-6)
    with_kl = jax.grad(lambda x: grpo_loss(x, zeros, zeros, advantages, mask, kl_coef=0.4)[0])(logp)
    np.testing.assert_allclose(with_kl - gradient, 0.1 * (1 - np.exp(-logp)), atol=1e-6)


def test_nothing_but_the_new_log_probabilities_gets_a_gradient():
    logp, old, ref, advantages, mask = random_batch()
    d_old, d_advantages = jax.grad(
        lambda o, a: grpo_loss(logp, o, ref, a, mask)[0], argnums=(0, 1)
    )(old, advantages)
    assert not np.any(d_old) and not np.any(d_advantages)
    d_coefficients = jax.grad(lambda a: policy_gradient_loss(logp, a, mask)[0])(advantages)
    assert not np.any(d_coefficients)


@pytest.mark.parametrize("splits", [1, 2, 3])
@pytest.mark.parametrize("aggregation", AGGREGATIONS)
def test_micro_batches_add_up_in_metrics_and_gradient(splits, aggregation):
    batch = random_batch()
    loss, metrics = grpo_loss(*batch, aggregation=aggregation)
    pieces = [
        tuple(np.split(x, splits)[i] for x in batch)  # one micro-batch
        for i in range(splits)
    ]
    parts = [grpo_loss(*piece, aggregation=aggregation)[1] for piece in pieces]
    for name, (total, count) in metrics.items():
        np.testing.assert_allclose(sum(p[name][0] for p in parts), total, rtol=1e-5, atol=1e-6)
        assert sum(float(p[name][1]) for p in parts) == float(count)
    total, count = metrics["loss"]
    np.testing.assert_allclose(loss, total / count, rtol=1e-6)

    def loss_sum(x, piece):
        return grpo_loss(x, *piece[1:], aggregation=aggregation)[1]["loss"][0]

    gradients = [jax.grad(loss_sum)(piece[0], piece) for piece in pieces]
    whole = jax.grad(lambda x: grpo_loss(x, *batch[1:], aggregation=aggregation)[0])(batch[0])
    np.testing.assert_allclose(np.concatenate(gradients) / count, whole, rtol=1e-5, atol=1e-7)


def test_metrics_are_means_over_completion_tokens():
    logp, old, ref, advantages, mask = random_batch()
    _, metrics = grpo_loss(logp, old, ref, advantages, mask)
    means = {name: float(total / count) for name, (total, count) in metrics.items()}
    x, ratio = ref - logp, np.exp(logp - old)
    clipped = np.where(advantages > 0, ratio > 1.2, ratio < 0.8)
    assert 0 < clipped[mask].mean() < 1
    expected = {"kl": np.exp(x) - x - 1, "clip_fraction": clipped, "entropy": -logp, "ratio": ratio}
    for name, values in expected.items():
        assert means[name] == pytest.approx(values[mask].mean(), rel=1e-4), name


@pytest.mark.parametrize("garbage", [np.nan, np.inf, -np.inf, 1e30, -1e30])
@pytest.mark.parametrize("which", [(0,), (1,), (2,), (3,), (0, 1, 2, 3)])
def test_masked_garbage_reaches_neither_value_nor_gradient(garbage, which):
    *arrays, mask = random_batch()
    spoiled = [
        np.where(mask, x, np.float32(garbage)) if i in which else x for i, x in enumerate(arrays)
    ]

    def grpo(x, rest):
        return grpo_loss(x, *rest, mask)

    def plain(x, rest):
        return policy_gradient_loss(x, rest[-1], mask)

    for f in (grpo, plain):
        step = jax.value_and_grad(f, has_aux=True)
        (value, metrics), gradient = step(spoiled[0], spoiled[1:])
        (clean_value, clean_metrics), clean_gradient = step(arrays[0], arrays[1:])
        assert float(value) == float(clean_value)
        assert np.array_equal(gradient, clean_gradient)
        assert jax.tree.all(jax.tree.map(lambda a, b: float(a) == float(b), metrics, clean_metrics))


def test_advantages_broadcast_over_tokens():
    logp, old, ref, advantages, mask = random_batch()
    column = advantages[:, :1]
    assert float(grpo_loss(logp, old, ref, column, mask)[0]) == float(
        grpo_loss(logp, old, ref, advantages, mask)[0]
    )
    assert float(policy_gradient_loss(logp, column, mask)[0]) == float(
        policy_gradient_loss(logp, advantages, mask)[0]
    )


@pytest.mark.parametrize("aggregation", AGGREGATIONS)
def test_policy_gradient_equals_float64_numpy_in_value_and_gradient(aggregation):
    logp, _, _, coefficients, mask = random_batch()

    def expected_loss(x):
        values = [-c[m] * np.asarray(v)[m] for v, c, m in zip(x, coefficients, mask, strict=True)]
        if aggregation == "token_mean":
            return np.concatenate(values).mean()
        return np.mean([v.mean() for v in values])

    loss = jax.value_and_grad(
        lambda x: policy_gradient_loss(x, coefficients, mask, aggregation=aggregation)[0]
    )
    value, gradient = loss(jnp.array(logp))
    np.testing.assert_allclose(value, expected_loss(logp.astype(np.float64)), rtol=1e-5)
    np.testing.assert_allclose(gradient, numerical_gradient(expected_loss, logp), atol=1e-6)
    np.testing.assert_allclose(jax.jit(loss)(logp)[0], value, rtol=1e-6)


def test_on_policy_without_kl_grpo_is_the_policy_gradient():
    logp, _, _, advantages, mask = random_batch()
    grpo = jax.grad(lambda x: grpo_loss(x, logp, logp, advantages, mask, kl_coef=0.0)[0])(logp)
    plain = jax.grad(lambda x: policy_gradient_loss(x, advantages, mask)[0])(logp)
    np.testing.assert_allclose(grpo, plain, rtol=1e-6, atol=1e-8)
