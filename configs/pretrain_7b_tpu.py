"""DeepSeekMath-Base 7B (paper 2.3): 500B tokens from DeepSeek-Coder-Base-v1.5 7B's weights.

    python launch/train.py --config=configs/pretrain_7b_tpu.py          on every host of a TPU pod
    python launch/train.py --config=configs/pretrain_7b_tpu.py:smoke    anywhere, one minute

Needs: the Coder checkpoint (the paper starts from the one before its learning-rate decay, which is
not published; the decayed one is), converted with launch/convert.py, and the five sources below, as
TFDS datasets, JSONL or text (docs/data.md). Weights, gradient and moments are 110 GB, split over
fsdp=16. Planned for 64 chips of 95 GB (a v5p-128 slice); not yet run on one.
Paper's results: GSM8K 64.2, MATH 36.2 (4-shot and 8-shot, chain of thought).

As in the paper: peak rate 4.2e-4, 2,000 warm-up steps, steps down at 80% and 90%, 10M tokens a
batch, context 4096, shares of the sources. Chosen here: 5 micro-batches of 512 rows, remat
"attention", a spike's step is skipped, and fsdp over 16 chips beside data parallelism: on all 64
XLA gathers the weights by all-reduce, at twice the bytes (docs/dry_run.md).
"""

from dsmath_jax.stages.defaults import get_defaults, with_argument


def get_config(arg=""):
    c = get_defaults("pretrain")
    c.distributed = True
    c.model = "deepseek_7b"
    c.init.checkpoint = "checkpoints/deepseek-coder-7b-base-v1.5"
    c.length = 4096
    c.batch_size = 2560  # x 4096 = 10.5M tokens
    c.micro_batches = 5
    c.steps = 47_700  # 500B tokens
    c.remat = "attention"
    c.mesh = {"data": -1, "fsdp": 16, "tensor": 1, "sequence": 1}
    c.data.text_field = "text"
    weights = {"math": 0.56, "algebraic_stack": 0.04, "arxiv": 0.1, "code": 0.2, "language": 0.1}
    c.data.mixture = {
        name: {"path": f"data/{name}", "weight": weight, "heldout_path": f"data/{name}_heldout"}
        for name, weight in weights.items()
    }
    c.optimizer.learning_rate = 4.2e-4
    c.optimizer.schedule = "multi_step"
    c.optimizer.warmup_steps = 2000
    c.spikes.skip = True
    c.checkpoint.every = 500
    c.eval.every = 1000
    c.eval.batch_size = 128
    return with_argument(c, arg)
