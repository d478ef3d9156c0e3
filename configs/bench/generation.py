"""Tokens/s of the Sampler that RL and evaluation use, by shape of model and of the call.

    python launch/bench.py --config=configs/bench/generation.py
    python launch/bench.py --config=configs/bench/generation.py:spread --config.measure.tunix=PYTHON
    python launch/bench.py --config=configs/bench/generation.py:7b

":equal" (the default) and ":spread": 34M parameters in float32 on any machine, beside transformers
where it is installed (`pip install -e '.[parity]'`), and beside tunix if measure.tunix names the
Python of an environment that has it (docs/speed.md). ":equal": 4 prompts of 128 tokens, 16 samples
each, nearly all 128 tokens long. ":spread": 32 prompts, and at each step 3% of the samples end.
":1_3b" and ":7b": DeepSeek's shapes in bfloat16 on one chip of 80 GB, 64 and 256 samples together.
"""

import importlib.util

from ml_collections import ConfigDict

from dsmath_jax.stages.defaults import get_defaults

VARIANTS = ("equal", "spread", "1_3b", "7b")


def get_config(arg=""):
    if (arg or "equal") not in VARIANTS:
        raise ValueError(f"the argument {arg!r} is unknown; choose one of {', '.join(VARIANTS)}")
    c = get_defaults("rl")
    c.bench = "generation"
    c.measure = ConfigDict()
    c.measure.rounds = 3
    c.measure.left_out = 1  # calls after the first that are not timed: some still compile
    c.measure.ending_ids = 1  # how many of the vocabulary's ids end a sample
    c.measure.batches = ()  # ours alone, with so many samples that decode together
    c.measure.tunix = ""  # the Python of an environment that holds google-tunix
    c.measure.torch = False  # also time transformers' generate on the processor
    c.rl.group = 16
    if arg in ("", "equal", "spread"):
        c.model = "small"
        c.dtype = "float32"
        c.length = 256
        c.rl.max_new_tokens = 128
        c.rl.questions, c.measure.ending_ids = (32, 250) if arg == "spread" else (4, 1)
        c.rl.max_rows = 64
        c.measure.torch = all(map(importlib.util.find_spec, ("torch", "transformers")))
        return c
    c.model = f"deepseek_{arg}"
    c.length = 512
    c.rl.max_new_tokens = 256
    c.measure.ending_ids = 0
    c.measure.batches = (64, 256)
    return c
