"""The benchmark of attention: what runs here is right, and what does not is left out."""

import json

import pytest


def test_chunked_is_right_and_kernels_of_other_devices_are_left_out(launch, tmp_path):
    out = tmp_path / "result.json"
    command = ("bench.py", "--config=configs/bench/attention.py", f"--out={out}")
    small = ("--config.length=64", "--config.model=tiny", "--config.measure.calls=2")
    process = launch(*command, *small, "--config.dtype=float32", check=True)
    numbers = json.loads(out.read_text())["numbers"]
    assert set(numbers) == {"device", "chunked"}
    assert "'splash' does not run on cpu" in process.stderr
    chunked = numbers["chunked"]
    errors = chunked["relative_error"]
    assert all(0 < e < 1e-5 for kind in ("segments", "prefixes") for e in errors[kind].values())
    flops = 4 * 4 * 32 * 4 * 64 * 65 / 2
    assert chunked["forward_flops_per_s"] * chunked["forward_ms"] == pytest.approx(1e3 * flops)
    assert chunked["backward_ms"] > 0
