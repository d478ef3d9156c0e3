"""draft"""

from dsmath_jax.stages.defaults import get_defaults, shrink


def get_config(arg=""):
    c = get_defaults("rl")
    c.init.checkpoint = "runs/sft_gsm8k"
    c.dtype = "float32"
    c.length = 384  # the longest question has 236 tokens with its prompt
    c.steps = 10
    c.data.path = "data/gsm8k/train.jsonl"
    c.data.heldout_path = "data/gsm8k/test.jsonl"
    c.data.num_heldout = 32
    c.data.prompt = "cot_en"
    c.rl.questions = 4
    c.rl.group = 8
    c.rl.max_new_tokens = 128
    c.optimizer.learning_rate = 1e-4
    c.optimizer.schedule = "constant"
    c.optimizer.warmup_steps = 1
    c.checkpoint.every = 5
    c.eval.every = 10
    c.log.samples_every = 1
    return shrink(c) if arg == "smoke" else c
