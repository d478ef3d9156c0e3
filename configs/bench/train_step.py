"""Speed of the training step that `launch/train.py` runs, by shape of model.

    python launch/bench.py --config=configs/bench/train_step.py
    python launch/bench.py --config=configs/bench/train_step.py:1_3b
    python launch/bench.py --config=configs/bench/train_step.py:7b

":cpu" (the default): 34M parameters in float32, 4 rows of 512 tokens, any machine, two minutes;
side by side with transformers and torch's AdamW where they are installed (`pip install -e
'.[parity]'`). ":1_3b" and ":7b": DeepSeek's shapes in bfloat16 at 4K, sized for one chip of 140 GiB
(what fills it: docs/speed.md); on more chips raise batch_size.
"""

import importlib.util

from ml_collections import ConfigDict

from dsmath_jax.stages.defaults import get_defaults

VARIANTS = ("cpu", "1_3b", "7b")


def get_config(arg=""):
    if (arg or "cpu") not in VARIANTS:
        raise ValueError(f"the argument {arg!r} is unknown; choose one of {', '.join(VARIANTS)}")
    c = get_defaults("pretrain")
    c.bench = "train_step"
    c.measure = ConfigDict()
    c.measure.steps = 5  # timed together, once a round
    c.measure.rounds = 3
    c.measure.torch = False  # also time transformers and torch on the processor, in turn (":cpu")
    c.micro_batches = 1
    if arg in ("", "cpu"):
        c.model = "small"
        c.dtype = "float32"
        c.length = 512
        c.batch_size = 4
        c.measure.torch = all(map(importlib.util.find_spec, ("torch", "transformers")))
        c.remat = "dots"  # 5% faster than "none": what is written and read costs more than SiLU
        return c
    c.model = f"deepseek_{arg}"
    c.length = 4096
    c.batch_size = {"1_3b": 8, "7b": 2}[arg]
    c.remat = "dots"
    c.unroll = {"1_3b": 24, "7b": 30}[arg]
    return c
