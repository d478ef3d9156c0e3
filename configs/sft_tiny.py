"""SFT of a small model on generated word problems: two minutes on two CPU cores.

    python launch/train.py --config=configs/sft_tiny.py

Expect a held-out loss near 0.1 (`eval/loss`).
"""

from dsmath_jax.stages.defaults import get_defaults, with_argument


def get_config(arg=""):
    c = get_defaults("sft")
    c.model = "tiny"
    c.model_changes = {
        "hidden_size": 96,
        "intermediate_size": 288,
        "num_layers": 3,
        "head_dim": 24,
        "num_heads": 4,
        "num_kv_heads": 4,
        "init_std": 0.08,
        "max_positions": 128,
    }
    c.dtype = "float32"
    c.length = 128
    c.batch_size = 16
    c.steps = 1000
    c.data.chain_share = 0.5
    c.optimizer.learning_rate = 4e-3
    c.optimizer.schedule = "cosine"
    c.optimizer.warmup_steps = 50
    c.checkpoint.every = 500
    return with_argument(c, arg)
