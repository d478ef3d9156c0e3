"""draft"""

from dsmath_jax.stages.defaults import get_defaults, shrink


def get_config(arg=""):
    c = get_defaults("sft")
    c.model = "tiny"
    c.model_changes = {
        "hidden_size": 96,
        "intermediate_size": 288,
        "num_layers": 3,
        "head_dim": 24,
        "tie_embeddings": True,
        "max_positions": 1024,
    }
    c.dtype = "float32"
    c.length = 1024  # the longest example has 562 tokens
    c.batch_size = 2
    c.steps = 120
    c.tokenizer = "data/tokenizer"
    c.data.path = "data/gsm8k/train.jsonl"
    c.data.heldout_path = "data/gsm8k/test.jsonl"
    c.data.num_heldout = 128
    c.data.prompt = "cot_en"
    c.optimizer.learning_rate = 5e-3
    c.optimizer.schedule = "cosine"
    c.optimizer.warmup_steps = 10
    c.checkpoint.every = 60
    c.eval.every = 60
    return shrink(c) if arg == "smoke" else c
