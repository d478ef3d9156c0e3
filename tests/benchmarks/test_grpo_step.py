"""The benchmark of a GRPO step: numbers that fit together, and questions that both sides take."""

import json
import runpy

import jax
import numpy as np
import pytest

from dsmath_jax.benchmarks import grpo_step
from dsmath_jax.benchmarks.side import TunixSide
from dsmath_jax.data.errors import InputError
from dsmath_jax.models import Transformer, init_params, preset, save_hf
from dsmath_jax.stages import setup
from tests.conftest import REPO

SHAPE = {
    "num_layers": 2,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_heads": 1,
    "num_kv_heads": 1,
    "head_dim": 32,
}

CHANGES = {
    "data.num_examples": 50,
    "tokenizer_vocab": 320,
    "length": 76,
    "rl.questions": 2,
    "rl.group": 4,
    "rl.max_new_tokens": 8,
    "measure.left_out": 1,
    "measure.steps": 2,
    "measure.rounds": 1,
}
SFT = {"steps": 2, "length": 96, "data.num_examples": 50, "data.num_heldout": 2}
LEARNT = {f"init.stage.{k}": v for k, v in SFT.items()}
LEARNT |= {f"init.stage.model_changes.{k}": v for k, v in SHAPE.items()}
RANDOM = {f"model_changes.{k}": v for k, v in SHAPE.items()}


def small_config(argument="", **changes):
    get_config = runpy.run_path(str(REPO / "configs" / "bench" / "grpo_step.py"))["get_config"]
    config = get_config(argument)
    config.update_from_flattened_dict(CHANGES | (RANDOM if argument else LEARNT) | changes)
    return config


def check(side):
    assert side["samples_per_s"] == pytest.approx(2 * 4 / side["seconds_per_step"])
    assert side["first_step_s"] > side["seconds_per_step"]
    assert side["mean_seconds_per_step"] > 0
    assert 4 < side["completion_length"] <= 8
    assert 0 <= side["reward"] <= 1
    assert 0.05 < side["peak_memory_gb"] < 10


def test_numbers_fit_together_and_are_written_down(launch, tmp_path):
    out = tmp_path / "result.json"
    flags = [f"--config.{name}={value}" for name, value in (CHANGES | LEARNT).items()]
    launch("bench.py", "--config=configs/bench/grpo_step.py", *flags, f"--out={out}", check=True)
    numbers = json.loads(out.read_text())["numbers"]
    assert numbers["samples_per_step"] == 2 * 4
    check(numbers["ours"])
    assert 0 <= numbers["ours"]["ended"] <= 1
    shares = numbers["ours"]["shares"]
    assert sum(shares.values()) == pytest.approx(1)
    assert all(0 <= share < 1 for share in shares.values())
    assert all(
        shares[phase] > 0 for phase in ("reshard", "generate", "reward", "logprob", "update")
    )


def test_tunix_is_measured_alike(tunix_python):
    numbers = grpo_step.run(small_config("random", **{"measure.tunix": tunix_python}))
    check(numbers["tunix"])
    ratio = numbers["ours"]["samples_per_s"] / numbers["tunix"]["samples_per_s"]
    assert numbers["tunix"]["ours_over_theirs"] == pytest.approx(ratio)


def random_checkpoint(folder, config):
    """weights/ and tokenizer/ in the folder; gives the model."""
    examples = [{"question": f"{n} eggs", "answer": "#### 2"} for n in range(40)]
    tokenizer = setup.open_tokenizer(config, folder, examples)
    tokenizer.save(folder / "tokenizer")
    changes = SHAPE | {"num_heads": 4, "num_kv_heads": 2, "head_dim": 16, "init_std": 0.3}
    shape = preset("tiny", vocab_size=tokenizer.vocab_size, **changes)
    random = np.random.default_rng(0)
    params = jax.tree.map(  # no norm's weight is 1
        lambda x: x + 0.1 * random.standard_normal(x.shape, np.float32), init_params(shape, 0)
    )
    model = Transformer(shape, params=params)
    save_hf(model, folder / "weights")
    return model


def test_a_checkpoint_takes_the_place_of_sft(tmp_path):
    given, made = tmp_path / "given", tmp_path / "made"
    made.mkdir()
    config = small_config(length=136)
    random_checkpoint(given, config)
    config.init.checkpoint = str(given / "weights")
    config.tokenizer = str(given / "tokenizer")
    grpo_step.prepare(config, made)
    weights = [folder / "weights" / "model.safetensors" for folder in (given, made)]
    assert weights[0].read_bytes() == weights[1].read_bytes()
    assert not (made / "init").exists()


def test_tunix_has_our_weights(tunix_python, tmp_path):
    config = small_config("random", **{"measure.tunix": tunix_python})
    model = random_checkpoint(tmp_path, config)
    vocabulary = model.config.vocab_size
    tokens = np.random.default_rng(1).integers(0, vocabulary, (3, 17))
    settings = grpo_step.tunix_settings(config, tmp_path, 16) | {"steps": 1}
    with TunixSide(tunix_python, "tunix_grpo.py", settings) as side:
        theirs = np.array(side.ask({"tokens": tokens.tolist()}))
    ours = np.asarray(model(tokens))
    assert ours.std() > 0.5
    np.testing.assert_allclose(theirs, ours, rtol=1e-4, atol=1e-4)


def test_questions_are_those_that_the_steps_draw(tmp_path):
    config = small_config("random", **{"log.samples_every": 1})
    grpo_step.prepare(config, tmp_path)
    grpo_step.our_round(config, tmp_path, 1)
    lines = (tmp_path / "drawn.jsonl").read_text().splitlines()
    drawn = [json.loads(line)["question"] for line in lines]
    assert len(drawn) == 3 * 2
    for step in (1, 2, 3):
        samples = (tmp_path / "run_1" / "samples" / f"step_{step:06d}.jsonl").read_text()
        asked = [json.loads(line)["question"] for line in samples.splitlines()[::4]]
        assert asked == drawn[2 * (step - 1) : 2 * step]


def test_the_config_takes_one_argument():
    with pytest.raises(ValueError, match="the only one is ':random'"):
        small_config("tiny")


def test_a_question_that_does_not_fit_is_refused():
    with pytest.raises(InputError, match=r"the longest question has \d+ tokens, but config.length"):
        grpo_step.run(small_config(length=20))


def test_rounds_give_medians():
    rounds = [
        {"samples_per_s": s, "peak_memory_gb": None, "shares": {"update": t}}
        for s, t in ((3.0, 0.5), (1.0, 0.7), (2.0, 0.6))
    ]
    assert grpo_step.summary(rounds) == {
        "samples_per_s": 2.0,
        "samples_per_s_lowest": 1.0,
        "samples_per_s_highest": 3.0,
        "peak_memory_gb": None,
        "shares": {"update": 0.6},
    }


def test_shares_of_seconds():
    rows = [
        {"time/step": 3.0, "time/run": 9.0, "time/update": 2.0},
        {"time/step": 1.0, "time/run": 10.0, "time/generate": 1.0},
        {"time/step": 9.0, "time/run": 19.0, "time/update": 9.0},  # compiles
    ]
    shares = grpo_step.phase_shares(rows)
    assert shares == {"update": 0.5, "generate": 0.25, "other": 0.25}
