"""GRPO on GSM8K's questions, from the model of configs/sft_gsm8k.py: minutes on two CPU cores.

    python launch/train.py --config=configs/sft_gsm8k.py     first: the model to start from
    python launch/train.py --config=configs/grpo_gsm8k.py
    python launch/train.py --config=configs/grpo_gsm8k.py:smoke    without any file, one minute

Needs: the files of configs/sft_gsm8k.py, and a checkpoint: by default that run's; any other with
--config.init.checkpoint=DIR, which also brings the tokenizer.

A sample's reward is 1 when the number after its "####" (or in its \\boxed{}) is the one after the
"####" of GSM8K's own solution, else 0. A model of this size gets nearly every question wrong (0 of
320 samples were right, docs/results/gsm8k.md), groups without a right answer teach nothing, and 10
steps change no accuracy. This shows the machinery on real input; configs/grpo_tiny.py is where a
small model learns, and configs/grpo_tpu.py, with the same data flags, is the paper's 7B run.
"""

from dsmath_jax.stages.defaults import get_defaults, with_argument


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
    c.rl.max_new_tokens = 128  # 60% of GSM8K's solutions fit
    c.optimizer.learning_rate = 1e-5  # higher: where no sample is right, Adam enlarges rounding
    c.optimizer.schedule = "constant"
    c.optimizer.warmup_steps = 0
    c.checkpoint.every = 5
    c.eval.every = 10
    c.log.samples_every = 1
    return with_argument(c, arg)
