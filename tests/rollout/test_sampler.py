"""Sampling: right tokens and log-probs, endings, and draws that depend on nothing around them."""

import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import chisquare

from dsmath_jax.models import Transformer, preset
from dsmath_jax.rollout import Sampler
from tests.conftest import cpu_devices

CONFIG = preset(
    "tiny", vocab_size=29, num_layers=2, hidden_size=32, intermediate_size=48, num_kv_heads=2,
    max_positions=96, init_std=0.3,
)  # fmt: skip
MODEL = Transformer(CONFIG, seed=3)
RNG = np.random.default_rng(0)
PROMPTS = [RNG.integers(0, 29, n).tolist() for n in (3, 11, 1, 7, 30, 33)]
EOS = [5, 17]


def sample(prompts=PROMPTS, *, interval=4, **options):
    options = dict(max_new_tokens=13, eos_ids=EOS, seed=1) | options
    return Sampler(MODEL, interval=interval)(prompts, **options)


@jax.jit
def all_logits(tokens, length):
    segment_ids = (jnp.arange(tokens.shape[1]) < length).astype(jnp.int32)[None]
    return MODEL(tokens, None, segment_ids)[0]


def reference_logits(ids):
    """[len(ids), vocab] by the full forward pass, padded to one length to compile once."""
    tokens = jnp.zeros((1, 48), jnp.int32).at[0, : len(ids)].set(jnp.array(ids))
    return all_logits(tokens, len(ids))[: len(ids)]


def reference_logprobs(prompt, ids, temperature):
    table = jax.nn.log_softmax(reference_logits(prompt + ids) / temperature, axis=-1)
    return [float(table[len(prompt) + t - 1, token]) for t, token in enumerate(ids)]


@pytest.mark.parametrize("temperature", [1.0, 0.6])
def test_logprobs_are_the_models(temperature):
    samples = sample(samples_per_prompt=3, temperature=temperature)
    for q, prompt in enumerate(PROMPTS):
        for g in range(3):
            ids = samples.ids(q, g)
            expected = reference_logprobs(prompt, ids, temperature)
            np.testing.assert_allclose(samples.logprobs[q, g, : len(ids)], expected, atol=1e-4)


def test_greedy_takes_the_likeliest_token():
    samples = sample(temperature=0.0)
    for q, prompt in enumerate(PROMPTS):
        ids = list(prompt)
        for token in samples.ids(q, 0):
            assert token == int(reference_logits(ids)[-1].argmax())
            ids.append(token)


def test_a_sample_ends_with_its_first_eos_or_at_the_limit():
    samples = sample(samples_per_prompt=8)
    reasons = set()
    for q in range(len(PROMPTS)):
        for g in range(8):
            ids = samples.ids(q, g)
            reasons.add(samples.reason(q, g))
            assert not set(ids[:-1]) & set(EOS)
            assert (ids[-1] in EOS) == samples.stopped[q, g]
            assert samples.stopped[q, g] or len(ids) == 13
            assert not samples.tokens[q, g, len(ids) :].any()
            assert not samples.logprobs[q, g, len(ids) :].any()
    assert reasons == {"stop", "length"}


def test_text_does_not_depend_on_batch_order_intervals_or_turns():
    options = dict(samples_per_prompt=2, seed=4, step=9)
    whole = sample(example_ids=range(6), **options)
    order = [4, 0, 5, 1]
    part = sample([PROMPTS[i] for i in order], example_ids=order, interval=16, **options)
    turns = Sampler(MODEL, interval=4, max_rows=4)(
        PROMPTS, max_new_tokens=13, eos_ids=EOS, **options
    )
    for row, i in enumerate(order):
        for g in range(2):
            assert part.ids(row, g) == whole.ids(i, g)
    np.testing.assert_array_equal(turns.tokens, whole.tokens)
    np.testing.assert_allclose(turns.logprobs, whole.logprobs, atol=1e-5)


@pytest.mark.parametrize("change", [{"seed": 2}, {"step": 1}, {"example_ids": range(10, 16)}])
def test_seed_step_and_example_change_the_draws(change):
    same, other = sample(samples_per_prompt=2), sample(samples_per_prompt=2, **change)
    assert (same.tokens != other.tokens).any()
    np.testing.assert_array_equal(same.tokens, sample(samples_per_prompt=2).tokens)


def test_samples_of_a_group_differ():
    samples = sample(PROMPTS[:1], samples_per_prompt=16, eos_ids=[])
    assert len({tuple(samples.ids(0, g)) for g in range(16)}) == 16


@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_frequencies_are_the_models_probabilities(temperature):
    n = 4000
    samples = Sampler(MODEL, max_rows=n)(
        [[1, 2, 3]],
        samples_per_prompt=n,
        max_new_tokens=1,
        temperature=temperature,
        eos_ids=[],
        seed=7,
    )
    expected = n * jax.nn.softmax(reference_logits([1, 2, 3])[-1] / temperature)
    counts = np.bincount(samples.tokens[0, :, 0], minlength=29)
    often = np.asarray(expected) > 5
    observed = np.append(counts[often], counts[~often].sum())
    wanted = np.append(np.asarray(expected)[often], float(expected[~often].sum()))
    if wanted[-1] == 0:
        observed, wanted = observed[:-1], wanted[:-1]
    assert chisquare(observed, wanted * observed.sum() / wanted.sum()).pvalue > 1e-3


def test_other_parameters_may_be_given():
    other = Transformer(CONFIG, seed=8)
    params = Sampler(other).params
    np.testing.assert_array_equal(
        sample(params=params, temperature=0.0).tokens,
        Sampler(other, interval=4)(PROMPTS, max_new_tokens=13, eos_ids=EOS, temperature=0.0).tokens,
    )


def test_empty_and_too_long_prompts_are_refused():
    with pytest.raises(ValueError, match="prompt 1 is empty"):
        sample([[1], []])
    with pytest.raises(ValueError, match=r"prompt 0 has 90 tokens.*context of 96"):
        sample([[1] * 90])


def test_no_prompts_and_no_eos_are_refused():
    with pytest.raises(ValueError, match="no prompts"):
        sample([])
    with pytest.raises(ValueError, match="give a list"):
        sample("Hello")
    with pytest.raises(ValueError, match="give eos_ids"):
        sample(eos_ids=None)


SPREAD = """
from dsmath_jax.models import Transformer, preset
from dsmath_jax.models.sharding import make_mesh
from dsmath_jax.rollout import Sampler

model = Transformer(preset("tiny", vocab_size=29, num_layers=2, hidden_size=32, num_kv_heads=2))
for questions, group, mesh in ((8, 3, {}), (3, 8, {}), (2, 4, {"data": 2}), (20, 3, {"tensor": 2})):
    many = Sampler(model, interval=4, max_rows=32, mesh=make_mesh(**mesh))
    prompts = [[1, 2, 3 + n] for n in range(questions)]
    options = dict(samples_per_prompt=group, max_new_tokens=9, eos_ids=[5], seed=1)
    expected = Sampler(model)(prompts, **options)
    got = many(prompts, **options)
    assert (expected.tokens == got.tokens).all()
    assert abs(expected.logprobs - got.logprobs).max() < 1e-5
    assert (expected.stopped == got.stopped).all()
"""


def test_samples_are_the_same_over_any_mesh():
    process = subprocess.run(
        [sys.executable, "-c", SPREAD], env=cpu_devices(8), capture_output=True, text=True
    )
    assert process.returncode == 0, process.stderr[-2000:]
