"""DeepSeekMath-Instruct 7B (paper 3): 500 steps of supervised fine-tuning.

    python launch/train.py --config=configs/sft_7b_tpu.py          on every host of a TPU pod
    python launch/train.py --config=configs/sft_7b_tpu.py:smoke    anywhere, one minute

Needs: the base checkpoint, converted with launch/convert.py, and a JSONL file with "question" and
"answer" (the paper's 776K examples are not published). 110 GB of state split over fsdp=16, as for
pretraining; planned for 64 chips of 95 GB (a v5p-128 slice), not yet run on one.
Paper's results: GSM8K 82.9, MATH 46.8.

As in the paper: batch 256, constant rate 5e-5, examples packed to 4096 tokens. Chosen here: packed
examples do not attend to each other; prompts are not trained; 10 warm-up steps.
"""

from dsmath_jax.stages.defaults import get_defaults, with_argument


def get_config(arg=""):
    c = get_defaults("sft")
    c.distributed = True
    c.model = "deepseek_7b"
    c.init.checkpoint = "checkpoints/deepseek-math-7b-base"
    c.length = 4096
    c.batch_size = 256
    c.steps = 500
    c.remat = "attention"
    c.mesh = {"data": -1, "fsdp": 16, "tensor": 1, "sequence": 1}
    c.data.path = "data/sft_train.jsonl"
    c.data.heldout_path = "data/sft_heldout.jsonl"
    c.data.prompt = "cot_en"
    c.optimizer.learning_rate = 5e-5
    c.optimizer.schedule = "constant"
    c.optimizer.warmup_steps = 10
    c.eval.every = 100
    c.eval.batch_size = 128
    return with_argument(c, arg)
