"""Compiler settings by accelerator, in one table, and how they reach the compiler.

They go into the environment before a backend starts. A flag that the user's environment sets
already stays as it is; one that the installed libraries do not know is left out, for XLA ends a
process that names an unknown flag. `--config.xla_flags=False` leaves the environment alone. What
each brought, and what brought nothing: docs/speed.md.
"""

from __future__ import annotations

import importlib.util
import mmap
import os
import pathlib
import re
from collections.abc import Iterable, MutableMapping
from typing import NamedTuple

import jax


class Setting(NamedTuple):
    """What an environment variable gets: "--NAME=VALUE" beside what it holds, or, without a name,
    VALUE if it is not set; why, and what that was seen to do. Without a variable it is an option of
    the programs that train alone, where XLA_FLAGS does not set it."""

    accelerator: str
    variable: str
    name: str
    value: str
    reason: str
    measured: str


TABLE = (
    Setting(
        "gpu",
        "XLA_PYTHON_CLIENT_MEM_FRACTION",
        "",
        "0.95",
        "JAX takes 75% of a GPU's memory by default; training has the GPU for itself",
        "H200: a step of 7B with AdamW and bfloat16 moments takes 129 to 132 of 150 GB",
    ),
    Setting(
        "gpu",
        "XLA_FLAGS",
        "xla_gpu_enable_latency_hiding_scheduler",
        "true",
        "weights of the next layer are gathered while this one computes; nothing on one GPU",
        "not measured here",
    ),
    Setting(
        "gpu",
        "XLA_FLAGS",
        "xla_gpu_dot_merger_threshold_mb",
        "0",
        "products of one operand are joined, and decoding copies their weights side by side for it",
        "7B, 64 rows: a step copied two of a layer's seven weights (compiled only)",
    ),
    Setting(
        "gpu",
        "",
        "xla_gpu_enable_dynamic_slice_fusion",
        "False",
        "products that the backward pass needs are computed twice, once where the scan over layers "
        "collects them",
        "1.3B, remat dots: three products a layer fewer, 0.77 of its forward pass (compiled only)",
    ),
    Setting(
        "gpu",
        "",
        "xla_gpu_enable_triton_gemm",
        "False",
        "cuBLAS' products are faster in a step; decoding's, of few rows, stay with Triton's",
        "H200, 1.3B: 47,386 tokens/s, 45,746 with Triton's (both with 10 chunks of the vocabulary)",
    ),
)

GPU = ("jax_plugins.xla_cuda12", "jax_plugins.xla_cuda13")
READERS = ("jaxlib", *GPU)  # the packages whose libraries read XLA_FLAGS, and must know its flags


_training: dict[str, str] = {}


def training_options() -> dict[str, str] | None:
    """`compiler_options` of `jax.jit` for programs that compute gradients, after `apply`."""
    return dict(_training) if jax.default_backend() == "gpu" else None


def apply(environment: MutableMapping[str, str] = os.environ) -> list[str]:
    """Adds the table's flags to the environment; call it before JAX starts a backend.

    Returns:
      The flags of this machine's accelerators that its libraries do not know, which are left out.
    """
    unknown = []
    for setting in TABLE:
        given = environment.get(setting.variable or "XLA_FLAGS", "")
        if setting.accelerator == "gpu" and not libraries(GPU):
            continue
        if not setting.name:
            environment.setdefault(setting.variable, setting.value)
        elif not re.search(rf"--{setting.name}\b", given):
            if not all(knows(file, setting.name) for file in libraries(READERS)):
                unknown.append(setting.name)
            elif setting.variable:
                environment[setting.variable] = f"{given} --{setting.name}={setting.value}".strip()
            else:
                _training[setting.name] = setting.value
    return unknown


def libraries(packages: Iterable[str]) -> list[pathlib.Path]:
    """The largest shared library of each package that is installed: the one with the compiler."""
    found = []
    for package in packages:
        try:
            spec = importlib.util.find_spec(package)
        except ModuleNotFoundError:  # of the package around it
            continue
        for folder in (spec.submodule_search_locations or ()) if spec else ():
            files = sorted(pathlib.Path(folder).glob("*.so"), key=lambda f: f.stat().st_size)
            found += files[-1:]
    return found


def knows(library: pathlib.Path, flag: str) -> bool:
    """Whether the compiler in a library has the flag: its name is then among the strings there
    (tens of milliseconds; to ask the compiler itself would end the process if it has not)."""
    with library.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        return data.find(flag.encode() + b"\0") >= 0
