"""Measures one part of the project and writes the numbers down.

    python launch/bench.py --config=configs/bench/NAME.py[:VARIANT] [--config.FIELD=VALUE ...]

    python launch/bench.py --config=configs/bench/train_step.py:cpu
    python launch/bench.py --config=configs/bench/train_step.py:7b --out=7b.json

Prints a table and writes JSON: the numbers, with command, commit, versions, machine and
configuration. What is measured, and how: docs/speed.md.
"""

from absl import flags

from dsmath_jax.benchmarks.command import main

flags.DEFINE_string("out", "", "JSON file of the result; by default runs/bench/NAME-VARIANT.json.")

if __name__ == "__main__":
    main(__doc__)
