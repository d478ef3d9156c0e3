"""The benchmark of the training step: what it runs, what it counts, what it writes."""

import importlib.util
import json

import pytest

from tests.conftest import REPO

SMALL = [
    "--config=configs/bench/train_step.py:cpu",
    "--config.length=32",
    "--config.model=tiny",
    "--config.model_changes={'num_layers': 2}",
    "--config.measure.steps=2",
    "--config.measure.rounds=3",
]


def test_numbers_fit_together_and_are_written_down(launch, tmp_path):
    out = tmp_path / "result.json"
    process = launch("bench.py", *SMALL, f"--out={out}", check=True)
    result = json.loads(out.read_text())
    numbers, seconds = result["numbers"], result["numbers"]["seconds"]
    assert numbers["tokens_per_step"] == 4 * 32
    assert numbers["tokens_per_s"] == pytest.approx(4 * 32 / seconds["step"])
    matrices = 2 * (4 * 128 * 128 + 3 * 128 * 384) + 128 * 512  # parameters in matrix products
    pairs = 32 * 33 / 2
    flops = 3 * 4 * (32 * 2 * matrices + pairs * 4 * 2 * 128)
    assert numbers["flops_per_step"] == flops
    peak = numbers["peak_flops_per_device"]
    assert numbers["mfu"] == pytest.approx(flops / seconds["step"] / peak)
    assert numbers["tokens_per_s_lowest"] <= numbers["tokens_per_s"]
    assert all(seconds[name] > 0 for name in ("compile", "feed", "forward", "optimizer"))
    weights_and_moments = 3 * 4 * numbers["parameters"]
    assert numbers["memory"]["state_and_batch"] >= weights_and_moments
    assert "--config.length=32" in result["command"]
    assert result["config"]["length"] == 32
    assert result["versions"]["jax"] and result["machine"]["cores"] >= 1
    assert "tokens_per_s" in process.stdout
    if importlib.util.find_spec("torch") and importlib.util.find_spec("transformers"):
        low, middle, high = (
            numbers["torch"][f"ours_over_torch{end}"] for end in ("_lowest", "", "_highest")
        )
        assert 0 < low <= middle <= high


def test_unknown_benchmark_is_refused(launch):
    process = launch("bench.py", "--config=configs/bench/train_step.py", "--config.bench=speed")
    assert process.returncode == 2
    assert "config.bench='speed'" in process.stderr and "train_step" in process.stderr


def test_unknown_variant_is_refused(launch):
    process = launch("bench.py", "--config=configs/bench/train_step.py:70b")
    assert process.returncode == 2
    assert "'70b'" in process.stderr and "1_3b" in process.stderr


def test_torch_side_answers_until_it_is_closed():
    pytest.importorskip("transformers")
    from dsmath_jax.benchmarks.torch_step import TorchStep
    from dsmath_jax.models import preset
    from dsmath_jax.stages.defaults import get_defaults

    config = get_defaults("pretrain")
    config.batch_size, config.length = 2, 8
    with TorchStep(config, preset("tiny", num_layers=1, vocab_size=64)) as side:
        assert side.steps(2) > 0
    assert side.process.returncode == 0


def test_every_benchmark_has_a_config():
    from dsmath_jax.benchmarks.command import BENCHMARKS

    configs = {p.stem for p in (REPO / "configs" / "bench").glob("*.py")}
    assert set(BENCHMARKS) <= configs
