"""The benchmark of a GRPO step: numbers that fit together, and questions that both sides take."""

import json
import runpy

import pytest

from dsmath_jax.benchmarks import grpo_step
from dsmath_jax.data.errors import InputError
from tests.conftest import REPO

CHANGES = {
    "data.num_examples": 50,
    "tokenizer_vocab": 320,
    "length": 76,
    "rl.questions": 2,
    "rl.group": 4,
    "rl.max_new_tokens": 8,
    "model_changes.num_layers": 2,
    "model_changes.hidden_size": 32,
    "model_changes.intermediate_size": 48,
    "model_changes.num_heads": 1,
    "model_changes.num_kv_heads": 1,
    "model_changes.head_dim": 32,
    "measure.left_out": 1,
    "measure.steps": 2,
    "measure.rounds": 1,
}


def small_config(**changes):
    config = runpy.run_path(str(REPO / "configs" / "bench" / "grpo_step.py"))["get_config"]()
    config.update_from_flattened_dict(CHANGES | changes)
    return config


def check(side):
    assert side["samples_per_s"] == pytest.approx(2 * 4 / side["seconds_per_step"])
    assert side["first_step_s"] > side["seconds_per_step"]
    assert 4 < side["completion_length"] <= 8
    assert 0 <= side["reward"] <= 1
    assert 0.05 < side["peak_memory_gb"] < 10


def test_numbers_fit_together_and_are_written_down(launch, tmp_path):
    out = tmp_path / "result.json"
    flags = [f"--config.{name}={value}" for name, value in CHANGES.items()]
    launch("bench.py", "--config=configs/bench/grpo_step.py", *flags, f"--out={out}", check=True)
    numbers = json.loads(out.read_text())["numbers"]
    assert numbers["samples_per_step"] == 2 * 4
    check(numbers["ours"])
    shares = numbers["ours"]["shares"]
    assert sum(shares.values()) == pytest.approx(1)
    assert all(0 <= share < 1 for share in shares.values())
    assert all(shares[phase] > 0 for phase in ("generate", "reward", "logprob", "train"))


def test_tunix_is_measured_alike(tunix_python):
    numbers = grpo_step.run(small_config(**{"measure.tunix": tunix_python}))
    check(numbers["tunix"])
    ratio = numbers["ours"]["samples_per_s"] / numbers["tunix"]["samples_per_s"]
    assert numbers["tunix"]["ours_over_theirs"] == pytest.approx(ratio)


def test_a_question_that_does_not_fit_is_refused():
    with pytest.raises(InputError, match=r"the longest question has \d+ tokens, but config.length"):
        grpo_step.run(small_config(length=20))


def test_rounds_give_medians():
    rounds = [
        {"samples_per_s": s, "peak_memory_gb": None, "shares": {"train": t}}
        for s, t in ((3.0, 0.5), (1.0, 0.7), (2.0, 0.6))
    ]
    assert grpo_step.summary(rounds) == {
        "samples_per_s": 2.0,
        "samples_per_s_lowest": 1.0,
        "samples_per_s_highest": 3.0,
        "peak_memory_gb": None,
        "shares": {"train": 0.6},
    }


def test_shares_of_seconds():
    rows = [
        {"time/step": 3.0, "time/run": 9.0, "time/train": 2.0},
        {"time/step": 1.0, "time/run": 10.0, "time/generate": 1.0},
    ]
    shares = grpo_step.phase_shares(rows)
    assert shares == {"train": 0.5, "generate": 0.25, "other": 0.25}
