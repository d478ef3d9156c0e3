"""Greedy samples equal those of transformers' own generate, token for token."""

import numpy as np
import pytest

from dsmath_jax.models import Transformer, preset, save_hf
from dsmath_jax.rollout import Sampler


def test_64_prompts_of_unequal_lengths(tmp_path):
    torch = pytest.importorskip("torch", reason="needs torch: pip install -e '.[parity]'")
    transformers = pytest.importorskip("transformers", reason="pip install -e '.[parity]'")
    config = preset(
        "tiny", vocab_size=211, num_layers=3, num_heads=4, num_kv_heads=2, max_positions=256,
        init_std=0.1,
    )  # fmt: skip
    model = Transformer(config, seed=1)
    save_hf(model, tmp_path)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32)
    rng = np.random.default_rng(0)
    prompts = [rng.integers(3, 211, n).tolist() for n in rng.permutation(np.arange(1, 129, 2))]
    eos = [7, 19, 100, 150]
    ours = Sampler(model, max_rows=24)(prompts, max_new_tokens=32, eos_ids=eos, temperature=0.0)
    lengths = set()
    for n, prompt in enumerate(prompts):
        ids = torch.tensor([prompt])
        with torch.no_grad():
            out = theirs.generate(
                ids,
                attention_mask=torch.ones_like(ids),
                do_sample=False,
                max_new_tokens=32,
                eos_token_id=eos,
                pad_token_id=0,
            )
        assert ours.ids(n, 0) == out[0, len(prompt) :].tolist(), n
        lengths.add(int(ours.lengths[n, 0]))
    assert len(lengths) > 10 and max(lengths) == 32
