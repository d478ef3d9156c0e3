"""Samples/s of whole GRPO steps of the RL stage: generate, reward, reference, update.

    python launch/bench.py --config=configs/bench/grpo_step.py
    python launch/bench.py --config=configs/bench/grpo_step.py --config.measure.tunix=PYTHON
    python launch/bench.py --config=configs/bench/grpo_step.py:random

A model of 3.4M parameters, in float32, first learns from worked solutions of generated word
problems, as SFT has it, so that answers end by themselves. With measure.tunix, the Python of an
environment that has it (docs/speed.md), each round is followed by one of tunix's GRPO learner from
the same weights, with the same questions, batch, limit and loss.

The limit of an answer is four to five times its mean length, as the paper's 1024 tokens are to its
answers of 200 to 300. ":random" has no SFT: nearly all answers run to the limit, here 64, and all
rewards are 0.
"""

from ml_collections import ConfigDict

from dsmath_jax.stages.defaults import get_defaults


def get_config(arg=""):
    if arg not in ("", "random"):
        raise ValueError(f"the argument {arg!r} is unknown; the only one is ':random'")
    c = get_defaults("rl")
    c.bench = "grpo_step"
    c.measure = ConfigDict()
    c.measure.left_out = 6  # steps that compile, most of them
    c.measure.steps = 10  # timed, once a round
    c.measure.rounds = 3
    c.measure.tunix = ""  # the Python of an environment that holds google-tunix
    c.dtype = "float32"
    c.remat = "dots"
    c.data.num_examples = 2000
    c.rl.questions = 16
    c.rl.group = 8
    c.rl.max_new_tokens = 64 if arg else 128
    c.length = 64 + c.rl.max_new_tokens  # 64 of the longest prompt
    c.rl.advantage_ddof = 1  # as tunix has it
    c.optimizer.learning_rate = 1e-6 if arg else 1e-5
    c.optimizer.schedule = "constant"
    c.optimizer.warmup_steps = 0

    first = c if arg else get_defaults("sft")  # the stage that makes the model
    first.model = "tiny"
    first.model_changes = {
        "hidden_size": 256,
        "intermediate_size": 688,
        "num_layers": 4,
        "num_heads": 4,
        "num_kv_heads": 4,
        "head_dim": 64,
    }
    if not arg:
        c.init.stage = first
        first.seed = c.get_ref("seed")
        first.dtype = "float32"
        first.length = 128
        first.batch_size = 16
        first.steps = 200
        first.checkpoint.every = 1000
        first.data.num_examples = 10_000
        first.data.num_heldout = 64
        first.optimizer.learning_rate = 2e-3
        first.optimizer.schedule = "cosine"
        first.optimizer.warmup_steps = 20
    return c
