"""Examples of RL: word problems without a file, with one the fields that are named."""

import pytest

from dsmath_jax.data.errors import InputError
from dsmath_jax.data.examples import load_examples
from dsmath_jax.stages.defaults import get_defaults


def test_gsm8k_needs_no_code(data_dir, tmp_path):
    config = get_defaults("sft").data
    config.path = str(data_dir / "benchmarks/gsm8k/train.jsonl")
    config.heldout_path = str(data_dir / "benchmarks/gsm8k/test.jsonl")
    train, heldout = (load_examples(config, s, tmp_path) for s in ("train", "heldout"))
    assert (len(train), len(heldout)) == (7473, 512)
    assert train[0]["question"].startswith("Natalia sold clips")
    assert train[0]["answer"].endswith("#### 72")


def test_word_problems_without_a_file(tmp_path):
    config = get_defaults("rl").data
    config.num_examples, config.num_heldout = 30, 7
    train, heldout = (load_examples(config, s, tmp_path) for s in ("train", "heldout"))
    assert (len(train), len(heldout)) == (30, 7)
    assert train[0]["solution"].endswith(f"#### {train[0]['answer']}")


def test_a_mixture_is_not_for_rl(tmp_path):
    config = get_defaults("rl").data
    config.mixture = {"math": {"path": "a.jsonl", "weight": 1.0}}
    with pytest.raises(InputError, match=r"data.mixture is for pretraining and fine-tuning"):
        load_examples(config, "train", tmp_path)
