"""DeepSeekMath-RL 7B (paper 4.2): GRPO on GSM8K and MATH questions, 64 samples a question.

    python launch/train.py --config=configs/grpo_tpu.py          on every host of a TPU pod
    python launch/train.py --config=configs/grpo_tpu.py:smoke    anywhere, one minute

Needs: the instruct checkpoint, converted with launch/convert.py, and a JSONL file of questions with
their answers. Weights, moments, gradient and reference are 138 GB, split over fsdp=16: 8.6 GB a
chip. To sample, each chip holds all weights in bfloat16, 13.8 GB, and the keys and values of 16
samples, 0.5 MB a token: 16 GB when all are full. Planned for 64 chips of 95 GiB (a v5p-128 slice),
of which the dry run needs at most 34 GiB; not yet run on one.
Paper's results: GSM8K 82.9 -> 88.2, MATH 46.8 -> 51.7.

As in the paper: rate 1e-6, KL coefficient 0.04, 64 samples a question of at most 1024 tokens, batch
1024, one update per exploration. Chosen here: 1024 counts samples (16 questions), clip 0.2,
temperature 1, a rule's reward in place of the reward model's, 1300 steps (the first round in
figure 6).
"""

from dsmath_jax.stages.defaults import get_defaults, with_argument


def get_config(arg=""):
    c = get_defaults("rl")
    c.distributed = True
    c.model = "deepseek_7b"
    c.init.checkpoint = "checkpoints/deepseek-math-7b-instruct"
    c.length = 2048
    c.micro_batches = 8  # two rows of 2048 a chip
    c.steps = 1300
    c.remat = "attention"
    c.mesh = {"data": -1, "fsdp": 16, "tensor": 1, "sequence": 1}
    c.data.path = "data/rl_questions.jsonl"
    c.data.heldout_path = "data/rl_heldout.jsonl"
    c.data.prompt = "cot_en"
    c.rl.questions = 16
    c.rl.group = 64
    c.rl.max_new_tokens = 1024
    c.rl.kl_coef = 0.04
    c.rl.max_rows = 1024
    c.optimizer.learning_rate = 1e-6
    c.optimizer.schedule = "constant"
    c.optimizer.warmup_steps = 10
    c.checkpoint.every = 50
    c.eval.every = 100
    return with_argument(c, arg)
