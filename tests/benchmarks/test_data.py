"""The benchmark of the data pipeline: the needed figure by hand, ratios that fit their parts."""

import json

import pytest


def test_needed_and_reached_fit_together(launch, tmp_path):
    out = tmp_path / "result.json"
    small = ("length=1024", "batch_size=8", "measure.megabytes=1")
    small += ("measure.batches=2", "measure.rounds=2")
    flags = [f"--config.{change}" for change in small]
    launch("bench.py", "--config=configs/bench/data.py", *flags, f"--out={out}", check=True)
    numbers = json.loads(out.read_text())["numbers"]
    # DeepSeek 7B: 30 layers of 4096 with 11008 inside, 102400 logits; 6 FLOPs a parameter and
    # token, 12 x layers x width for each of the (length + 1) / 2 keys that a token looks back on.
    per_token = 6 * (30 * (4 * 4096**2 + 3 * 4096 * 11008) + 4096 * 102_400)
    per_token += 12 * 30 * 4096 * 1025 / 2
    needed = numbers["needed_tokens_per_s"]
    assert needed["4 x v5p"] == pytest.approx(4 * 459e12 * 0.6 / per_token, rel=1e-3)
    assert max(needed, key=needed.get) == "8 x tpu7x"
    for part in ("pretraining", "fine_tuning"):
        reached = numbers[part]
        assert reached["tokens_per_s"] == pytest.approx(1024 * reached["rows_per_s"])
        ratio = reached["tokens_per_s"] / needed["4 x v5p"]
        assert reached["over_needed"]["4 x v5p"] == pytest.approx(ratio)
        lowest = reached["tokens_per_s_lowest"] / needed["8 x tpu7x"]
        assert reached["over_most_needed_lowest"] == pytest.approx(lowest)
        assert 0 < lowest <= reached["over_needed"]["8 x tpu7x"]
    assert numbers["pretraining"]["positions_used"] == 1
    assert numbers["fine_tuning"]["positions_used"] > 0.9
    assert numbers["tokenise"]["tokens_per_s"] > 0
