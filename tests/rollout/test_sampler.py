"""Sampling: right tokens and log-probs, endings, and draws that depend on nothing around them."""

import gc
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import log_softmax
from scipy.stats import chisquare

from dsmath_jax.models import Transformer, preset
from dsmath_jax.rollout import Sampler
from dsmath_jax.rollout.cache import move, resize
from dsmath_jax.rollout.decode import decode, prefill
from dsmath_jax.training.usage import memory
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
    tokens = np.zeros((1, 48), np.int32)
    tokens[0, : len(ids)] = ids
    return np.asarray(all_logits(tokens, len(ids)))[: len(ids)]


def reference_logprobs(prompt, ids, temperature):
    table = log_softmax(reference_logits(prompt + ids) / temperature, axis=-1)
    return [table[len(prompt) + t - 1, token] for t, token in enumerate(ids)]


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


@pytest.mark.parametrize("options", [{"top_k": 3}, {"top_p": 0.8}, {"top_k": 6, "top_p": 0.7}])
def test_the_likely_tokens_alone_are_drawn_in_proportion(options):
    n = 4000
    samples = Sampler(MODEL, max_rows=n)(
        [[1, 2, 3]], samples_per_prompt=n, max_new_tokens=1, eos_ids=[], seed=7, **options
    )
    probs = np.asarray(jax.nn.softmax(reference_logits([1, 2, 3])[-1]), np.float64)
    order = np.argsort(-probs)[: options.get("top_k") or None]
    sums = np.cumsum(probs[order])
    order = order[: 1 + int((sums < options.get("top_p", 1.0) * sums[-1] - 1e-6).sum())]
    counts = np.bincount(samples.tokens[0, :, 0], minlength=29)
    assert counts[order].sum() == n
    expected = n * probs[order] / probs[order].sum()
    assert chisquare(counts[order], expected).pvalue > 1e-3
    logprobs = np.log(probs)[samples.tokens[0, :, 0]]
    np.testing.assert_allclose(samples.logprobs[0, :, 0], logprobs, atol=1e-4)


def test_each_sample_has_its_own_limit():
    whole = sample(samples_per_prompt=2, eos_ids=[])
    limits = [[1 + q + 5 * g for g in range(2)] for q in range(6)]
    cut = sample(samples_per_prompt=2, eos_ids=[], max_new_tokens=limits)
    np.testing.assert_array_equal(cut.lengths, limits)
    for q, g in np.ndindex(6, 2):
        assert cut.ids(q, g) == whole.ids(q, g)[: limits[q][g]]
    assert sample(eos_ids=[], max_new_tokens=range(1, 7)).lengths[:, 0].tolist() == [*range(1, 7)]


class Letters:
    """A tokenizer whose token n is a text of its own: one to three characters, of 1 to 4 bytes."""

    eos_id, pad_id = 5, 0
    texts = ("a", "b", " ab", "#", "##", "\u00e9", "\u6570", "ca", "x\n", "\n\n")

    def encode(self, text, add_bos=False):
        return [1, 2, 3]

    def decode(self, ids):
        return "".join(self.texts[i % len(self.texts)] for i in ids)


@pytest.mark.parametrize("stop", [["#"], ["ab"], ["aab", "\n\n"], ["\u6570\u00e9"], ["b##"]])
@pytest.mark.parametrize("interval", [1, 8])
def test_a_stop_string_ends_a_sample_with_the_token_that_completes_it(stop, interval):
    tokenizer = Letters()
    sampler = Sampler(MODEL, tokenizer, interval=interval)
    options = dict(samples_per_prompt=30, max_new_tokens=40, eos_ids=[], seed=3)
    whole, ended = sampler(["q"], **options), sampler(["q"], stop=stop, **options)
    for g in range(30):
        ids = whole.ids(0, g)
        ends = [n for n in range(41) if any(s in tokenizer.decode(ids[:n]) for s in stop)]
        wanted = ids[: ends[0]] if ends else ids
        assert ended.ids(0, g) == wanted
        assert ended.reason(0, g) == ("stop" if ends else "length")
        assert not ended.tokens[0, g, len(wanted) :].any()
        assert not ended.logprobs[0, g, len(wanted) :].any()
        np.testing.assert_array_equal(
            ended.logprobs[0, g, : len(wanted)] != 0, [True] * len(wanted)
        )
    assert ended.stopped.any()


def test_each_sample_is_handed_over_when_it_ends():
    seen = {}
    whole = sample(samples_per_prompt=3, on_sample=lambda q, g, ids: seen.update({(q, g): ids}))
    assert seen == {(q, g): whole.ids(q, g) for q in range(6) for g in range(3)}
    assert list(seen) != sorted(seen)


def test_keys_in_8_bits_change_logprobs_a_little():
    options = dict(samples_per_prompt=4, max_new_tokens=60, eos_ids=[], seed=1)
    rough = Sampler(MODEL, interval=4, kv_dtype=jnp.int8)(PROMPTS[:5], **options)
    ids = [[rough.ids(q, g) for g in range(4)] for q in range(5)]
    gaps = np.abs(rough.logprobs - Sampler(MODEL).score(PROMPTS[:5], ids))
    assert 1e-5 < gaps.mean() < 0.02 and gaps.max() < 0.3


def test_programs_are_compiled_once():
    sampler = Sampler(MODEL, interval=4, max_rows=16)
    options = dict(samples_per_prompt=8, max_new_tokens=60, eos_ids=EOS, example_ids=range(6))
    programs, before = (prefill, decode, move, resize), [0] * 4
    for f in programs:
        f.clear_cache()
    sampler(PROMPTS, **options | {"eos_ids": [97, 98]})  # which never come
    sampler(PROMPTS, **options)
    before = [f._cache_size() for f in programs]
    for seed in range(1, 25):
        sampler(PROMPTS[::-1], seed=seed, step=seed, **options)
    after = [f._cache_size() for f in programs]
    assert after[:3] == before[:3]
    assert after[3] <= 5  # where the cache grows, and is cut at the end from either size
    assert sum(after) <= 15


def test_one_sample_of_a_model_that_never_ends_and_one_that_ends_at_once():
    lone = sample(PROMPTS[:1], eos_ids=[], max_new_tokens=90)
    assert lone.lengths.tolist() == [[90]] and lone.reason(0, 0) == "length"
    first = lone.ids(0, 0)[0]
    ended = sample(PROMPTS[:1], eos_ids=[first], max_new_tokens=90)
    assert ended.ids(0, 0) == [first] and ended.reason(0, 0) == "stop"


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_logits_that_are_not_finite_are_reported(value, temperature):
    params = Sampler(MODEL).params
    params = params | {"final_norm": params["final_norm"].at[3].set(value)}
    with pytest.raises(FloatingPointError, match=r"not finite at token 0 of sample 0 of question"):
        sample(params=params, temperature=temperature)


def test_many_samples_leave_no_memory_behind():
    sampler = Sampler(MODEL, max_rows=256)
    options = dict(samples_per_prompt=100, max_new_tokens=12, eos_ids=EOS)
    held = []
    for seed in range(20):  # 10,000 samples
        sampler(PROMPTS[:5], seed=seed, **options)
        gc.collect()
        device = sum(x.nbytes for x in jax.live_arrays())
        held.append((device, memory()["memory/host"]))
    assert held[-1][0] <= held[4][0]
    assert held[-1][1] < held[4][1] + 0.02  # GB


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


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"temperature": -1.0}, "temperature=-1.0"),
        ({"top_k": -1}, "top_k=-1"),
        ({"top_p": 0.0}, "top_p=0.0"),
        ({"stop": ["x"]}, "need a tokenizer"),
        ({"samples_per_prompt": 0}, "samples_per_prompt=0"),
        ({"max_new_tokens": 0}, "max_new_tokens=0"),
        ({"max_new_tokens": [3, 4]}, r"shape \(2,\): give one number, 6"),
    ],
)
def test_options_out_of_range_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        sample(**options)


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
from dsmath_jax.rollout.cache import move, resize
from dsmath_jax.rollout.decode import decode, prefill
from dsmath_jax.training.usage import memory

model = Transformer(preset("tiny", vocab_size=29, num_layers=2, hidden_size=32, num_kv_heads=2))
meshes = ({}, {}, {"data": 2}, {"tensor": 2}, {"data": 2, "fsdp": 2, "tensor": 2})
for (questions, group), mesh in zip(((8, 3), (3, 8), (2, 4), (20, 3), (7, 3)), meshes):
    many = Sampler(model, interval=4, max_rows=32, mesh=make_mesh(**mesh))
    prompts = [[1, 2, 3 + n] for n in range(questions)]
    limits = [3 + 2 * (n % 4) for n in range(questions)]  # shards end at different tokens
    options = dict(samples_per_prompt=group, max_new_tokens=limits, eos_ids=[5], seed=1)
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
