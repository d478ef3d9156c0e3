"""Hugging Face checkpoint directories to this project's, and back: what launch/convert.py runs."""

from __future__ import annotations

import argparse
import functools
import json
import logging
import os
import pathlib
import resource
import shutil
import signal
import sys
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec, Sharding

from dsmath_jax.models.checkpoint import load_params, read_config, write_params
from dsmath_jax.models.hf import load_hf_params, write_hf
from dsmath_jax.models.hf_files import is_hf_checkpoint, open_hf
from dsmath_jax.models.new_directory import new_directory
from dsmath_jax.models.parameters import ParamSpec
from dsmath_jax.models.sharding import MESH_AXES, make_mesh, param_sharding
from dsmath_jax.models.tensor_file import DTYPES

# Copied along in both directions.
TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "tokenizer.model",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "chat_template.jinja",
    "generation_config.json",
)
# The Hugging Face config.json from which a checkpoint came; its token ids go back into the next.
SOURCE_CONFIG = "hf_config.json"
TOKEN_IDS = ("bos_token_id", "eos_token_id", "pad_token_id")

PIECES = 16

ShardingOf = Callable[[ParamSpec], Sharding] | None


class ProgressLines:
    """Prints "reading: 3.2 of 13.8 GB, 830 MB/s, 13 s left" every few seconds and at the end."""

    def __init__(
        self, label: str, total: int, measure: Callable[[], int] | None = None, every: float = 5.0
    ):
        self.label, self.total, self.every = label, total, every
        self.done = 0
        self._measure = measure or (lambda: self.done)
        self._stop = threading.Event()

    def __call__(self, nbytes: int) -> None:
        self.done += nbytes

    def __enter__(self) -> ProgressLines:
        self._start = time.monotonic()
        self._thread = threading.Thread(target=self._tick, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: Any) -> None:
        self._stop.set()
        self._thread.join()
        if kind is None:
            seconds = time.monotonic() - self._start
            rate = self.total / max(seconds, 1e-9)
            took = f"{self.total / 1e9:.1f} GB in {seconds:.1f} s"
            print(f"{self.label}: {took}, {rate / 1e6:.0f} MB/s", flush=True)

    def _tick(self) -> None:
        while not self._stop.wait(self.every):
            done = min(self._measure(), self.total)
            rate = done / (time.monotonic() - self._start)
            left = f"{(self.total - done) / rate:.0f} s left" if rate else "starting"
            print(
                f"{self.label}: {done / 1e9:.1f} of {self.total / 1e9:.1f} GB, "
                f"{rate / 1e6:.0f} MB/s, {left}",
                flush=True,
            )


def convert(
    source: pathlib.Path,
    target: pathlib.Path,
    *,
    dtype: str | None = None,
    sharding_of: ShardingOf = None,
    max_shard_bytes: int = 5_000_000_000,
) -> None:
    """Writes `target` from `source`, whose files tell its kind: Hugging Face, converted, or a run.

    Raises:
      FileNotFoundError, ValueError: `source` is neither kind, incomplete or damaged, or the disk
        too small. Nothing is left at `target` then.
      FileExistsError: `target` is there and not empty.
    """
    if (source / "model.json").exists():
        _to_hf(source, target, dtype, sharding_of, max_shard_bytes)
    elif is_hf_checkpoint(source):
        _from_hf(source, target, dtype, sharding_of)
    else:
        raise FileNotFoundError(
            f"{source} holds no checkpoint: neither model.json (converted) nor config.json with "
            "*.safetensors or *.bin (Hugging Face)"
        )


def _from_hf(
    source: pathlib.Path, target: pathlib.Path, dtype: str | None, sharding_of: ShardingOf
) -> None:
    checkpoint = open_hf(source)
    nbytes = checkpoint.nbytes
    if dtype is not None:
        nbytes = checkpoint.config.num_params * DTYPES[dtype].itemsize
    with new_directory(target) as partial:
        _check_space(partial, target, nbytes)
        with ProgressLines("reading", checkpoint.nbytes) as progress:
            params, config = load_hf_params(source, sharding_of, dtype, progress=progress)
        with ProgressLines("writing", nbytes, measure=lambda: _size(partial)):
            write_params(params, config, partial)
        _copy_files(source, partial)
        shutil.copyfile(source / "config.json", partial / SOURCE_CONFIG)


def _to_hf(
    source: pathlib.Path,
    target: pathlib.Path,
    dtype: str | None,
    sharding_of: ShardingOf,
    max_shard_bytes: int,
) -> None:
    stored = 4 * read_config(source).num_params
    if (source / "params").is_dir():
        stored = _size(source / "params")
    with new_directory(target) as partial:
        nbytes = stored
        if dtype is not None:
            nbytes = read_config(source).num_params * DTYPES[dtype].itemsize
        _check_space(partial, target, nbytes)
        with ProgressLines("reading", stored) as progress:
            params, config = load_params(
                source, dtype=dtype, sharding_of=sharding_of, progress=progress
            )
        nbytes = sum(x.nbytes for x in jax.tree.leaves(params))
        with ProgressLines("writing", nbytes) as progress:
            write_hf(
                params,
                config,
                partial,
                max_shard_bytes=max_shard_bytes,
                extra_config=_token_ids(source),
                progress=progress,
            )
        _copy_files(source, partial)


def _token_ids(source: pathlib.Path) -> dict[str, Any]:
    path = source / SOURCE_CONFIG
    if not path.exists():
        return {}
    try:
        config = json.loads(path.read_bytes())
        return {key: config[key] for key in TOKEN_IDS if key in config}
    except (ValueError, TypeError):
        raise ValueError(f"{path} is not valid JSON: correct or remove it") from None


def _copy_files(source: pathlib.Path, target: pathlib.Path) -> None:
    if jax.process_index() == 0:
        for name in TOKENIZER_FILES:
            for path in (source / name, source / "tokenizer" / name):  # a run's lie in a folder
                if path.exists():
                    shutil.copyfile(path, target / name)


def _check_space(partial: pathlib.Path, target: pathlib.Path, nbytes: int) -> None:
    free = shutil.disk_usage(partial).free
    if free < nbytes:
        raise ValueError(
            f"{target} needs {nbytes / 1e9:.1f} GB and its disk has {free / 1e9:.1f} GB free: make "
            "room or choose another place"
        )


def _size(directory: pathlib.Path) -> int:
    total = 0
    for path in directory.rglob("*"):
        try:
            total += path.stat().st_size if path.is_file() else 0
        except FileNotFoundError:  # Orbax renames its files while this looks at them
            continue
    return total


def in_pieces(spec: ParamSpec) -> Sharding:
    """Spreads a parameter over the host's virtual devices, by whole layers if it can be.

    Orbax copies what it is about to write, and takes a device's slice at a time: from one device it
    would copy the 2.7 GB that a 7B model's largest parameter has.
    """
    devices = np.asarray(jax.devices())
    ways = [max(w for w in range(1, len(devices) + 1) if n % w == 0) for n in spec.shape]
    axis = 0 if ways[0] >= 4 else int(np.argmax(ways))
    mesh = Mesh(devices[: ways[axis]], ("pieces",))
    return NamedSharding(mesh, PartitionSpec(*[None] * axis, "pieces"))


def _placement(mesh: str | None) -> ShardingOf:
    if mesh is None:
        return in_pieces
    return functools.partial(param_sharding, mesh=parse_mesh(mesh))


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        fail(message)


def fail(message: str) -> NoReturn:
    """One sentence on standard error, exit status 2."""
    print(f"convert: {message}", file=sys.stderr)
    sys.exit(2)


def parse_mesh(text: str) -> Mesh:
    """ "fsdp=4,tensor=2" -> the mesh.

    Raises:
      ValueError: an unknown axis, or sizes that do not multiply to the number of devices.
    """
    sizes = {}
    for part in text.split(","):
        axis, _, size = part.partition("=")
        if axis not in MESH_AXES or not size.lstrip("-").isdigit():
            raise ValueError(f"--mesh={text}: give AXIS=SIZE,... with axes {', '.join(MESH_AXES)}")
        sizes[axis] = int(size)
    return make_mesh(**sizes)


def main(description: str, argv: Sequence[str] | None = None) -> None:
    """Parses the command line and converts; bad input ends with status 2."""
    parser = _Parser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--from", dest="source", type=pathlib.Path, required=True, metavar="DIR")
    parser.add_argument("--to", dest="target", type=pathlib.Path, required=True, metavar="DIR")
    parser.add_argument("--dtype", choices=list(DTYPES), help="by default that of the source")
    parser.add_argument("--mesh", metavar="AXIS=SIZE,...", help="by default the host's memory")
    parser.add_argument("--max_shard_gb", type=float, default=5.0, help="of safetensors files")
    args = parser.parse_args(argv)
    logging.getLogger("absl").setLevel(logging.ERROR)  # Orbax's advice on its own use
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the partial directory goes
    if args.mesh is None:
        # Accelerators may be smaller than the model.
        jax.config.update("jax_platforms", "cpu")
        jax.config.update("jax_num_cpu_devices", PIECES)
    start = time.monotonic()
    try:
        convert(
            args.source,
            args.target,
            dtype=args.dtype,
            sharding_of=_placement(args.mesh),
            max_shard_bytes=int(args.max_shard_gb * 1e9),
        )
    except (ValueError, OSError) as e:
        fail(str(e))
    except SystemExit as e:  # the signal's; threads of a library must not hold the process up
        os._exit(int(e.code or 0))
    # Kilobytes, but bytes on macOS.
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    peak *= 1 if sys.platform == "darwin" else 1024
    print(
        f"wrote {args.target} in {time.monotonic() - start:.1f} s, peak memory {peak / 1e9:.2f} GB"
    )
