"""Log-probabilities of given tokens: dense, chunked, and an independent float64 version."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from finite_differences import numerical_gradient

from dsmath_jax.compilation.topologies import open_topology
from dsmath_jax.losses import logprobs, token_logprobs

HIDDEN, VOCAB = 8, 37
CHUNKS = [1, 5, 16, 36, 37, 64]  # one column, non-divisors, all but one, all, more than all


def reference(hidden, head, targets, temperature=1.0):
    scores = np.asarray(hidden, np.float64) @ np.asarray(head, np.float64) / temperature
    scores -= scores.max(axis=-1, keepdims=True)
    all_logps = scores - np.log(np.exp(scores).sum(axis=-1, keepdims=True))
    return np.take_along_axis(all_logps, np.asarray(targets)[..., None], axis=-1)[..., 0]


def random_inputs(batch=(2, 5), hidden=HIDDEN, vocab=VOCAB, scale=1.0, dtype=np.float32):
    random = np.random.RandomState(vocab)
    x = jnp.array(random.normal(size=(*batch, hidden)) * scale, dtype)
    head = jnp.array(random.normal(size=(hidden, vocab)), dtype)
    return x, head, jnp.array(random.randint(0, vocab, batch))


def test_by_hand():
    # scores 0 and log 3: probabilities 1/4 and 3/4; at temperature 1/2 they are 1/10 and 9/10
    hidden, head = jnp.ones((1, 1)), jnp.array([[0.0, np.log(3.0)]])
    for target, cold, colder in [(0, 1 / 4, 1 / 10), (1, 3 / 4, 9 / 10)]:
        at = jnp.array([target])
        for chunk in (1, 2):
            logp = token_logprobs(hidden, head, at, chunk=chunk)
            np.testing.assert_allclose(logp, [np.log(cold)], rtol=1e-6)
            logp = token_logprobs(hidden, head, at, 0.5, chunk=chunk)
            np.testing.assert_allclose(logp, [np.log(colder)], rtol=1e-6)


@pytest.mark.parametrize("chunk", [None, *CHUNKS])
@pytest.mark.parametrize("temperature", [1.0, 0.6])
def test_equals_float64_numpy(chunk, temperature):
    hidden, head, targets = random_inputs()
    actual = token_logprobs(hidden, head, targets, temperature, chunk=chunk)
    assert actual.shape == targets.shape and actual.dtype == jnp.float32
    np.testing.assert_allclose(actual, reference(hidden, head, targets, temperature), atol=1e-5)


@pytest.mark.parametrize("chunk", CHUNKS)
@pytest.mark.parametrize("temperature", [1.0, 1.7])
def test_chunked_equals_dense_in_value_and_gradient(chunk, temperature):
    hidden, head, targets = random_inputs()
    weights = jnp.array(np.random.RandomState(1).normal(size=targets.shape), jnp.float32)

    def loss(hidden, head, chunk):
        return (token_logprobs(hidden, head, targets, temperature, chunk=chunk) * weights).sum()

    value_and_gradient = jax.value_and_grad(loss, argnums=(0, 1))
    value, gradients = value_and_gradient(hidden, head, chunk)
    dense_value, dense_gradients = value_and_gradient(hidden, head, VOCAB)
    np.testing.assert_allclose(value, dense_value, rtol=1e-5)
    for actual, expected in zip(gradients, dense_gradients, strict=True):
        np.testing.assert_allclose(actual, expected, atol=1e-5)


@pytest.mark.parametrize("chunk", [5, VOCAB])
def test_gradient_equals_finite_differences(chunk):
    hidden, head, targets = random_inputs((3,), hidden=4, vocab=11)
    weights = np.array([1.0, -2.0, 0.5])

    def loss(hidden, head):
        return (token_logprobs(hidden, head, targets, 0.8, chunk=min(chunk, 11)) * weights).sum()

    d_hidden, d_head = jax.grad(loss, argnums=(0, 1))(hidden, head)
    expected = numerical_gradient(
        lambda x: (reference(x, head, targets, 0.8) * weights).sum(), hidden
    )
    np.testing.assert_allclose(d_hidden, expected, atol=2e-5)
    expected = numerical_gradient(
        lambda x: (reference(hidden, x, targets, 0.8) * weights).sum(), head
    )
    np.testing.assert_allclose(d_head, expected, atol=2e-5)


@pytest.mark.parametrize("chunk", [5, 16, VOCAB])
def test_every_target_has_its_own_column(chunk):
    hidden, head, _ = random_inputs((1,))
    every = jnp.arange(VOCAB)
    logps = token_logprobs(jnp.repeat(hidden, VOCAB, axis=0), head, every, chunk=chunk)
    np.testing.assert_allclose(np.exp(logps).sum(), 1.0, rtol=1e-5)
    np.testing.assert_allclose(
        logps, reference(np.repeat(hidden, VOCAB, axis=0), head, every), atol=1e-5
    )


@pytest.mark.parametrize("chunk", [5, VOCAB])
@pytest.mark.parametrize("scale", [1e3, 1e6])
def test_extreme_logits_stay_finite(chunk, scale):
    hidden, head, targets = random_inputs(scale=scale)
    logps, pull = jax.vjp(lambda h, w: token_logprobs(h, w, targets, chunk=chunk), hidden, head)
    np.testing.assert_allclose(logps, reference(hidden, head, targets), rtol=1e-5, atol=scale / 1e6)
    assert all(np.all(np.isfinite(g)) for g in pull(jnp.ones_like(logps)))


@pytest.mark.parametrize("chunk", [5, VOCAB])
def test_equal_logits_share_the_probability(chunk):
    logps = token_logprobs(
        jnp.full((3, HIDDEN), 100.0), jnp.ones((HIDDEN, VOCAB)), jnp.arange(3), chunk=chunk
    )
    np.testing.assert_allclose(logps, -np.log(VOCAB), atol=1e-4)


@pytest.mark.parametrize("chunk", [None, 5])
def test_bfloat16_inputs_give_float32_of_their_products(chunk):
    hidden, head, targets = random_inputs(dtype=jnp.bfloat16)
    actual, pull = jax.vjp(lambda h, w: token_logprobs(h, w, targets, chunk=chunk), hidden, head)
    assert actual.dtype == jnp.float32
    np.testing.assert_allclose(actual, reference(hidden, head, targets), atol=1e-5)
    gradients = pull(jnp.ones_like(actual))
    assert [g.dtype for g in gradients] == [jnp.bfloat16, jnp.bfloat16]
    exact_pull = jax.vjp(
        lambda h, w: token_logprobs(h, w, targets),
        hidden.astype(jnp.float32),
        head.astype(jnp.float32),
    )[1]
    for got, exact in zip(gradients, exact_pull(jnp.ones_like(actual)), strict=True):
        np.testing.assert_allclose(got.astype(jnp.float32), exact, atol=0.05)


@pytest.mark.parametrize("chunk", [None, 5])
def test_jit_agrees_and_takes_a_traced_temperature(chunk):
    hidden, head, targets = random_inputs()
    compiled = jax.jit(lambda t: token_logprobs(hidden, head, targets, t, chunk=chunk))
    for temperature in (0.5, 1.0, 2.0):
        np.testing.assert_allclose(
            compiled(temperature), token_logprobs(hidden, head, targets, temperature), atol=1e-5
        )


@pytest.mark.parametrize("chunk", [None, 5])
@pytest.mark.parametrize("batch", [(), (4,), (2, 3), (2, 3, 2)])
def test_any_number_of_leading_axes(chunk, batch):
    hidden, head, targets = random_inputs(batch)
    actual = token_logprobs(hidden, head, targets, chunk=chunk)
    assert actual.shape == batch
    np.testing.assert_allclose(actual, reference(hidden, head, targets), atol=1e-5)


def test_default_goes_through_large_vocabularies_in_chunks(monkeypatch):
    monkeypatch.setattr(logprobs, "DENSE_LIMIT", 100)
    hidden, head, targets = random_inputs(vocab=1300)
    text = str(jax.make_jaxpr(lambda h: token_logprobs(h, head, targets))(hidden))
    assert "scan" in text and "[2,5,1300]" not in text and "[10,1300]" not in text
    np.testing.assert_allclose(
        token_logprobs(hidden, head, targets), reference(hidden, head, targets), atol=1e-5
    )


def gradient_bytes_over_logits(hidden, dtype, sharding=None):
    """Temporary memory of the gradient at 4096 tokens and 102400 entries, over all logits'."""
    tokens, vocab = 4096, 102400
    shapes = [
        jax.ShapeDtypeStruct((tokens, hidden), dtype, sharding=sharding),
        jax.ShapeDtypeStruct((hidden, vocab), dtype, sharding=sharding),
        jax.ShapeDtypeStruct((tokens,), jnp.int32, sharding=sharding),
    ]
    step = jax.grad(lambda h, w, t: token_logprobs(h, w, t).sum(), argnums=(0, 1))
    memory = jax.jit(step).lower(*shapes).compile().memory_analysis()
    return memory.temp_size_in_bytes / (tokens * vocab * 4)


@pytest.mark.parametrize("hidden", [64, 2048])
def test_peak_memory_is_under_a_twentieth_of_the_logits(hidden):
    assert gradient_bytes_over_logits(hidden, jnp.float32) < 1 / 20


@pytest.mark.parametrize("hidden", [2048, 4096])
def test_peak_memory_on_a_tpu_in_bfloat16(hidden):
    pytest.importorskip("libtpu", reason="the TPU compiler: pip install -e '.[tpu]'")
    chip = jax.sharding.SingleDeviceSharding(open_topology("v5e:2x2")[0][0])
    assert gradient_bytes_over_logits(hidden, jnp.bfloat16, chip) < 1 / 20


def test_peak_memory_is_of_the_hidden_gradients_size_where_that_is_large():
    # 1/25 of the logits is its sum; without a fused multiply-add a CPU makes another such array.
    assert gradient_bytes_over_logits(4096, jnp.float32) < 1 / 16


def test_the_dense_gradient_adds_nothing_element_by_element():
    hidden, head, targets = random_inputs()

    def loss(hidden, head):
        return token_logprobs(hidden, head, targets).sum()

    text = str(jax.make_jaxpr(jax.grad(loss, (0, 1)))(hidden, head))
    assert "scatter" not in text
