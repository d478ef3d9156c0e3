"""Writes a Hugging Face checkpoint of random numbers, of any preset's shape, without torch.

    python tests/models/make_random_checkpoint.py --to=/tmp/random7b --model=deepseek_7b

`--format=bin` (the default) writes torch zip archives in the layout of DeepSeek-Math's own files,
`--format=safetensors` the other kind. The numbers are random bits of magnitude below 2.
"""

from __future__ import annotations

import argparse
import json
import math
import pathlib
import struct
import zipfile

import numpy as np

from dsmath_jax.models.config import PRESETS, ModelConfig
from dsmath_jax.models.hf_files import hf_names, hf_shape
from dsmath_jax.models.parameters import flat_specs
from dsmath_jax.models.safetensors_io import SafetensorsWriter

BLOCK = 1 << 24
STORAGES = {"bfloat16": "BFloat16Storage", "float16": "HalfStorage", "float32": "FloatStorage"}
SIZES = {"bfloat16": 2, "float16": 2, "float32": 4}
SHARD_PATTERNS = {
    "bin": "pytorch_model-{:05d}-of-{:05d}.bin",
    "safetensors": "model-{:05d}-of-{:05d}.safetensors",
}
INDEXES = {"bin": "pytorch_model.bin.index.json", "safetensors": "model.safetensors.index.json"}


def make(
    directory: pathlib.Path,
    config: ModelConfig,
    *,
    form: str = "bin",
    dtype: str = "bfloat16",
    shards: int = 2,
    seed: int = 0,
) -> None:
    """Writes config.json, the shards and their index."""
    directory.mkdir(parents=True, exist_ok=True)
    shapes = {}
    for spec in flat_specs(config).values():
        shapes |= dict.fromkeys(hf_names(spec, config), hf_shape(spec))
    names = list(shapes)
    rng = np.random.Generator(np.random.SFC64(seed))
    weight_map = {}
    for i in range(shards):
        of_shard = names[i * len(names) // shards : (i + 1) * len(names) // shards]
        file = SHARD_PATTERNS[form].format(i + 1, shards)
        weight_map |= dict.fromkeys(of_shard, file)
        write = write_torch if form == "bin" else write_safetensors
        write(directory / file, {n: shapes[n] for n in of_shard}, dtype, rng)
    total = sum(math.prod(shape) * SIZES[dtype] for shape in shapes.values())
    index = {"metadata": {"total_size": total}, "weight_map": weight_map}
    (directory / INDEXES[form]).write_text(json.dumps(index))
    ids = {"bos_token_id": 100000, "eos_token_id": 100001}
    (directory / "config.json").write_text(
        json.dumps(config.to_hf() | ids | {"torch_dtype": dtype})
    )


def random_blocks(rng, shape, dtype):
    """The tensor's bytes, a few at a time."""
    bits = np.dtype(f"u{SIZES[dtype]}")
    below_two = ~np.array(1 << (8 * SIZES[dtype] - 2), bits)  # clears the exponent's highest bit
    left = math.prod(shape)
    while left:
        n = min(left, BLOCK)
        words = rng.integers(0, 1 << 64, size=-(-n * SIZES[dtype] // 8), dtype=np.uint64)
        yield memoryview(words.view(bits)[:n] & below_two).cast("B")
        left -= n


def write_safetensors(path, shapes, dtype, rng):
    entries = [(name, dtype, shape) for name, shape in shapes.items()]
    with SafetensorsWriter(path, entries) as writer:
        for shape in shapes.values():
            for block in random_blocks(rng, shape, dtype):
                writer.write(block)


def write_torch(path, shapes, dtype, rng):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED, allowZip64=True) as archive:
        archive.writestr("archive/data.pkl", torch_pickle(shapes, dtype))
        archive.writestr("archive/byteorder", "little")
        for key, shape in enumerate(shapes.values()):
            with archive.open(f"archive/data/{key}", "w", force_zip64=True) as f:
                for block in random_blocks(rng, shape, dtype):
                    f.write(block)
        archive.writestr("archive/version", "3\n")


def torch_pickle(shapes: dict[str, tuple[int, ...]], dtype: str) -> bytes:
    """What torch.save writes of an OrderedDict of contiguous tensors."""
    ordered_dict = b"ccollections\nOrderedDict\n)R"
    out = [b"\x80\x02", ordered_dict, b"("]
    for key, (name, shape) in enumerate(shapes.items()):
        strides = [math.prod(shape[i + 1 :]) for i in range(len(shape))]
        storage = (
            b"("
            + text("storage")
            + f"ctorch\n{STORAGES[dtype]}\n".encode()
            + text(str(key))
            + text("cpu")
            + number(math.prod(shape))
            + b"tQ"
        )
        out += [
            text(name),
            b"ctorch._utils\n_rebuild_tensor_v2\n(",
            storage,
            number(0),
            b"(" + b"".join(map(number, shape)) + b"t",
            b"(" + b"".join(map(number, strides)) + b"t",
            b"\x89" + ordered_dict + b"tR",
        ]
    return b"".join([*out, b"u."])


def text(s: str) -> bytes:
    return b"X" + struct.pack("<I", len(s.encode())) + s.encode()


def number(n: int) -> bytes:
    return b"J" + struct.pack("<i", n)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--to", type=pathlib.Path, required=True)
    parser.add_argument("--model", choices=list(PRESETS), default="tiny")
    parser.add_argument("--format", choices=list(INDEXES), default="bin")
    parser.add_argument("--dtype", choices=list(SIZES), default="bfloat16")
    parser.add_argument("--shards", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    make(
        args.to,
        PRESETS[args.model],
        form=args.format,
        dtype=args.dtype,
        shards=args.shards,
        seed=args.seed,
    )
