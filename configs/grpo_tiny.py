"""SFT, then GRPO, of a small model on generated word problems.

python launch/train.py --config=configs/grpo_tiny.py
"""

from dsmath_jax.stages.defaults import get_defaults


def get_config(arg=""):
    sft = get_defaults("sft")
    sft.model = "tiny"
    sft.model_changes = {
        "hidden_size": 96,
        "intermediate_size": 288,
        "num_layers": 3,
        "head_dim": 24,
        "init_std": 0.08,
        "max_positions": 128,
    }
    sft.dtype = "float32"
    sft.length = 128
    sft.batch_size = 16
    sft.steps = 600
    sft.data.chain_share = 0.5
    sft.optimizer.learning_rate = 4e-3
    sft.optimizer.schedule = "cosine"
    sft.optimizer.warmup_steps = 50

    c = get_defaults("rl")
    c.init.stage = sft
    sft.seed = c.get_ref("seed")  # --config.seed=1 changes both stages
    c.dtype = "float32"
    c.length = 72
    c.steps = 40
    c.rl.questions = 32
    c.rl.group = 16
    c.rl.max_new_tokens = 40
    c.optimizer.learning_rate = 5e-4
    c.optimizer.schedule = "constant"
    c.optimizer.warmup_steps = 5
    c.eval.every = 20
    if arg == "smoke":
        sft.steps = c.steps = 3
        sft.data.num_examples = c.data.num_examples = 300
        sft.data.num_heldout = c.data.num_heldout = 16
        c.rl.questions = c.rl.group = 4
    return c
