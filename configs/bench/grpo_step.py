"""Samples/s of whole GRPO steps of the RL stage: generate, reward, reference, update.

    python launch/bench.py --config=configs/bench/grpo_step.py
    python launch/bench.py --config=configs/bench/grpo_step.py --config.measure.tunix=PYTHON

A model of 3.4M parameters with random weights, in float32, on generated word problems: any machine,
two minutes. With measure.tunix, the Python of an environment that has it (docs/speed.md), each
round is followed by one of tunix's GRPO learner with the same model shape, questions, batch, limit
and loss.
"""

from ml_collections import ConfigDict

from dsmath_jax.stages.defaults import get_defaults


def get_config(arg=""):
    if arg:
        raise ValueError(f"the argument {arg!r} is unknown; there is none")
    c = get_defaults("rl")
    c.bench = "grpo_step"
    c.measure = ConfigDict()
    c.measure.left_out = 4  # steps that compile
    c.measure.steps = 10  # timed, once a round
    c.measure.rounds = 3
    c.measure.tunix = ""  # the Python of an environment that holds google-tunix
    c.model = "tiny"
    c.model_changes = {
        "hidden_size": 256,
        "intermediate_size": 688,
        "num_layers": 4,
        "num_heads": 4,
        "num_kv_heads": 4,
        "head_dim": 64,
    }
    c.dtype = "float32"
    c.length = 128  # 64 of the longest prompt
    c.data.num_examples = 2000
    c.rl.questions = 8
    c.rl.group = 8
    c.rl.max_new_tokens = 64
    c.rl.advantage_ddof = 1  # as tunix has it
    c.optimizer.learning_rate = 1e-6
    c.optimizer.schedule = "constant"
    c.optimizer.warmup_steps = 0
    return c
