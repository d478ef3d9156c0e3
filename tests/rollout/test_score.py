"""Log-probabilities of given completions against the model's full forward pass."""

import numpy as np
import pytest

from dsmath_jax.rollout import Sampler
from tests.rollout.test_sampler import MODEL, PROMPTS, reference_logprobs, sample

RNG = np.random.default_rng(5)
COMPLETIONS = [
    [RNG.integers(0, 29, n).tolist() for n in lengths]
    for lengths in ((3, 1), (7, 2, 14), (), (0, 5), (12,), (4, 4, 4))
]


@pytest.mark.parametrize("max_rows", [256, 3])
@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_scores_are_the_models(temperature, max_rows):
    sampler = Sampler(MODEL, max_rows=max_rows)
    got = sampler.score(PROMPTS, COMPLETIONS, temperature=temperature)
    assert got.shape == (6, 3, 14)
    for q, completions in enumerate(COMPLETIONS):
        for g in range(3):
            ids = completions[g] if g < len(completions) else []
            expected = reference_logprobs(PROMPTS[q], ids, temperature)
            np.testing.assert_allclose(got[q, g, : len(ids)], expected, atol=1e-4)
            assert not got[q, g, len(ids) :].any()


def test_what_was_sampled_scores_as_it_did():
    samples = sample(samples_per_prompt=4)
    ids = [[samples.ids(q, g) for g in range(4)] for q in range(len(PROMPTS))]
    got = Sampler(MODEL).score(PROMPTS, ids)
    np.testing.assert_allclose(got, samples.logprobs[:, :, : got.shape[2]], atol=1e-4)


def test_wrong_input_is_refused():
    sampler = Sampler(MODEL)
    with pytest.raises(ValueError, match="2 prompts and 1 lists"):
        sampler.score([[1], [2]], [[[3]]])
    with pytest.raises(ValueError, match="context of 96"):
        sampler.score([[1] * 90], [[[3] * 7]])
    with pytest.raises(ValueError, match="temperature"):
        sampler.score([[1]], [[[3]]], temperature=0.0)
