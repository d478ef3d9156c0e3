"""The command line of launch/bench.py: runs the benchmark that the configuration names."""

from __future__ import annotations

import importlib
import pathlib
import sys

from absl import flags
from ml_collections import ConfigDict

from dsmath_jax import command_line
from dsmath_jax.benchmarks import results
from dsmath_jax.data.errors import InputError
from dsmath_jax.stages import command

# Each is a module beside this one with run(config) -> dict of numbers (nested for groups of them).
BENCHMARKS = (
    "train_step",
    "attention",
    "data",
    "generation",
    "grpo_step",
    "rollout_precision",
    "mining",
)


def main(description: str) -> None:
    """Runs `config.bench` on the parsed flags; ends the process with its status."""
    command.main(description, _run)


def _run(config: ConfigDict) -> None:
    name = command_line.config_name()
    numbers = run(config)
    out = pathlib.Path(flags.FLAGS.out or f"runs/bench/{name}.json")
    print(results.table(numbers), flush=True)
    results.write(out, name, numbers, config)
    print(f"written: {out}", file=sys.stderr)


def run(config: ConfigDict) -> dict:
    """The numbers of `config.bench`.

    Raises:
      InputError: there is no such benchmark, or what it reports about its fields.
    """
    if config.get("bench") not in BENCHMARKS:
        raise InputError(
            f"config.bench={config.get('bench')!r} is not a benchmark: start from a file of "
            f"configs/bench, whose config.bench is one of {', '.join(BENCHMARKS)}"
        )
    return importlib.import_module(f"dsmath_jax.benchmarks.{config.bench}").run(config)
