"""The benchmark of generation's log-probabilities: float32 agrees, coarser kinds less and less."""

import json


def test_differences_grow_as_precision_falls(launch, tmp_path):
    out = tmp_path / "result.json"
    flags = ["--config.rl.questions=3", "--config.rl.group=4", "--config.data.num_heldout=4"]
    flags += ["--config.model_changes={'init_std': 0.2, 'num_layers': 2}", f"--out={out}"]
    launch("bench.py", "--config=configs/bench/rollout_precision.py", *flags, check=True)
    numbers = json.loads(out.read_text())["numbers"]
    exact, half, eighth = (n["from_float32_training"] for n in numbers.values())
    assert exact["largest"] < 1e-4 < half["mean"] < eighth["mean"] < 0.5
    for n in numbers.values():
        assert n["tokens"] > 100
        s = n["from_training"]
        assert s["median"] <= s["99_percent_below"] <= s["largest"]
        assert abs(s["mean_ratio"] - 1) < 0.1
