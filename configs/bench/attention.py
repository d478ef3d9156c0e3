"""Each attention backend that runs here: its error against a dense float32 version, and its speed.

    python launch/bench.py --config=configs/bench/attention.py         a minute on two CPU cores
    python launch/bench.py --config=configs/bench/attention.py:1_3b    DeepSeek 1.3B's shape at 4K
    python launch/bench.py --config=configs/bench/attention.py:7b

The default is small enough for a CPU. ":1_3b" and ":7b": bfloat16, 8 and 4 rows of one segment.
"""

from ml_collections import ConfigDict

from dsmath_jax.stages.defaults import get_defaults

VARIANTS = ("small", "1_3b", "7b")


def get_config(arg=""):
    if (arg or "small") not in VARIANTS:
        raise ValueError(f"the argument {arg!r} is unknown; choose one of {', '.join(VARIANTS)}")
    c = get_defaults("pretrain")
    c.bench = "attention"
    c.measure = ConfigDict({"rounds": 3, "calls": 10})  # calls: in a row, timed together
    c.model = "small" if arg in ("", "small") else f"deepseek_{arg}"
    c.length = 512 if arg in ("", "small") else 4096
    c.batch_size = {"1_3b": 8}.get(arg, 4)
    return c
