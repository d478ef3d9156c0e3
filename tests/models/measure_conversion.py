"""Measures launch/convert.py both ways on a checkpoint of random numbers, and compares all bits.

    python tests/models/measure_conversion.py --work=/tmp/convert7b --model=deepseek_7b

Makes torch .bin shards, converts them to Orbax and that to safetensors, and compares every tensor
with torch's and safetensors' own readers. Needs three times the checkpoint's size on disk, which is
freed at the end, and the extra parity. Prints the figures as JSON (--json=FILE to keep them).
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import pathlib
import platform
import shutil
import subprocess
import sys
import time

import make_random_checkpoint

from dsmath_jax.models.config import PRESETS

ROOT = pathlib.Path(__file__).parents[2]


def run(command: list[str]) -> dict:
    """Runs it; seconds, and the peak of resident memory: all, anonymous, of mapped files."""
    start = time.monotonic()
    process = subprocess.Popen(command, cwd=ROOT)
    peaks = {"RssAnon": 0, "RssFile": 0}
    while (waited := os.wait4(process.pid, os.WNOHANG))[0] == 0:
        for line in pathlib.Path(f"/proc/{process.pid}/status").read_text().splitlines():
            key, _, value = line.partition(":")
            if key in peaks:
                peaks[key] = max(peaks[key], int(value.split()[0]) * 1024)
        time.sleep(0.1)
    _, status, usage = waited
    if status:
        raise SystemExit(f"{command} failed: {os.waitstatus_to_exitcode(status)}")
    return {
        "seconds": round(time.monotonic() - start, 1),
        "peak_bytes": usage.ru_maxrss * 1024,
        "peak_anonymous_bytes": peaks["RssAnon"],
        "peak_mapped_bytes": peaks["RssFile"],
        "cpu_seconds": round(usage.ru_utime + usage.ru_stime, 1),
    }


def compare(before: pathlib.Path, after: pathlib.Path) -> int:
    """Number of tensors, all equal bit for bit."""
    import safetensors
    import torch

    weight_map = json.loads((before / "pytorch_model.bin.index.json").read_text())["weight_map"]
    found = {}
    for path in sorted(after.glob("*.safetensors")):
        file = safetensors.safe_open(path, "pt")
        found |= dict.fromkeys(file.keys(), file)
    assert found.keys() == weight_map.keys()
    bits = {2: torch.int16, 4: torch.int32}
    for shard in sorted(set(weight_map.values())):
        tensors = torch.load(before / shard, weights_only=True, mmap=True)
        for name, tensor in tensors.items():
            other = found[name].get_tensor(name)
            assert tensor.dtype == other.dtype and tensor.shape == other.shape, name
            as_bits = bits[tensor.itemsize]
            assert torch.equal(tensor.view(as_bits), other.view(as_bits)), name
    return len(found)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=pathlib.Path, required=True, help="a new directory")
    parser.add_argument("--model", choices=list(PRESETS), default="deepseek_7b")
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--json", type=pathlib.Path)
    args = parser.parse_args()
    args.work.mkdir(parents=True)
    hf, orbax, back = (args.work / name for name in ("hf", "orbax", "back"))
    try:
        make_random_checkpoint.make(hf, PRESETS[args.model], dtype=args.dtype)
        convert = [sys.executable, "launch/convert.py"]
        nbytes = PRESETS[args.model].num_params * make_random_checkpoint.SIZES[args.dtype]
        figures = {
            "model": args.model,
            "dtype": args.dtype,
            "array_bytes": nbytes,
            "hf_to_orbax": run([*convert, f"--from={hf}", f"--to={orbax}"]),
            "orbax_to_hf": run([*convert, f"--from={orbax}", f"--to={back}"]),
        }
        for way in ("hf_to_orbax", "orbax_to_hf"):
            figures[way]["mb_per_second"] = round(nbytes / 1e6 / figures[way]["seconds"])
            figures[way]["beyond_arrays_bytes"] = figures[way]["peak_bytes"] - nbytes
        shutil.rmtree(orbax)
        figures["tensors_equal_bit_for_bit"] = compare(hf, back)
    finally:
        shutil.rmtree(args.work, ignore_errors=True)
    figures["python"] = platform.python_version()
    for package in ("jax", "orbax-checkpoint", "tensorstore", "numpy"):
        figures[package] = importlib.metadata.version(package)
    figures["cores"] = os.cpu_count()
    figures["memory_bytes"] = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    text = json.dumps(figures, indent=2)
    print(text)
    if args.json:
        args.json.write_text(text + "\n")


if __name__ == "__main__":
    main()
