"""How far the log-probabilities of generation are from training's: float32, bfloat16, int8 keys.

    python launch/bench.py --config=configs/bench/rollout_precision.py --config.init.checkpoint=RUN

RUN: the directory of a run, or a Hugging Face checkpoint; without it random weights, whose
probabilities are too even to tell much. What came out: docs/generation.md.
"""

from dsmath_jax.stages.defaults import get_defaults


def get_config(arg=""):
    if arg:
        raise ValueError(f"the argument {arg!r} is unknown; there is none")
    c = get_defaults("rl")
    c.bench = "rollout_precision"
    c.model = "tiny"
    c.length = 72
    c.rl.questions = 64
    c.rl.group = 16
    c.rl.max_new_tokens = 40
    return c
