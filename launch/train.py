"""Trains one stage: pretrain, sft or rl, as the configuration says.

    python launch/train.py --config=FILE[:smoke] [--config.FIELD=VALUE ...] [--workdir=DIR]

    python launch/train.py --config=configs/grpo_tiny.py
    python launch/train.py --config=configs/sft_7b_tpu.py:smoke --config.steps=3 --workdir=runs/try

    python launch/train.py --config=configs/pretrain_7b_tpu.py --dry_run=v5p:4x4x4

The last compiles all programs for a TPU slice that is not there and prints what they need of it
(docs/dry_run.md); it ends with 1 when something does not fit. --tokenise, on any machine that sees
the data, only makes the caches of tokens, which else the first host makes while the others wait
(docs/data.md).

All fields, with their meaning: dsmath_jax/stages/defaults.py. The same command goes on where a
stopped or killed run was. Exit status: 0 done or stopped by a signal (and saved), 1 the run failed,
2 something in the command or its input is wrong.
"""

from absl import flags

from dsmath_jax.stages.command import main

flags.DEFINE_string("workdir", "", "Directory of the run; by default runs/NAME of the config file.")
flags.DEFINE_string("profile", "", "Steps to trace, STEP[:COUNT]; alone: the next ones.")
flags.DEFINE_string("dry_run", "", "Run nothing, compile for this TPU slice: v5p:4x4x4.")
flags.DEFINE_bool("tokenise", False, "Train nothing, tokenise the data of pretraining or SFT.")
flags.DEFINE_bool("largest_batch", True, "In a dry run, look for the largest batch that fits.")

if __name__ == "__main__":
    main(__doc__)
