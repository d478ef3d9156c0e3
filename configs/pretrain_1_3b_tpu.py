"""One corpus of the paper's comparison (2.2): a 1.3B model on 150B tokens, from random weights.

    python launch/train.py --config=configs/pretrain_1_3b_tpu.py        on every host of a TPU pod
        --config.data.path=data/math --config.data.heldout_path=data/math_heldout
        --workdir=runs/corpus_math
    python launch/train.py --config=configs/pretrain_1_3b_tpu.py:smoke  anywhere, one minute

Once for each corpus, with its own --workdir; then `python launch/report.py runs/corpus_*` prints
them side by side. Needs the corpus (docs/data.md) and data/tokenizer with the tokenizer.json of any
DeepSeek LLM checkpoint.
Paper's results (few-shot GSM8K / MATH): no math training 2.9 / 3.0, MathPile 2.7 / 3.3, OpenWebMath
11.5 / 8.9, Proof-Pile-2 14.3 / 11.2, DeepSeekMath Corpus 23.8 / 13.6.

As in the paper: AdamW 0.9, 0.95, weight decay 0.1; peak rate 5.3e-4 after 2,000 warm-up steps,
steps down at 80% and 90%; 4M tokens a batch, context 4096. The paper starts from a DeepSeek-LLM
1.3B, which was never released: give yours with --config.init.checkpoint. Chosen here: 1024 rows a
batch, its mesh and rematerialisation, for 64 chips.
"""

from dsmath_jax.stages.defaults import get_defaults, with_argument


def get_config(arg=""):
    c = get_defaults("pretrain")
    c.distributed = True
    c.model = "deepseek_1_3b"
    c.tokenizer = "data/tokenizer"
    c.length = 4096
    c.batch_size = 1024  # x 4096 = 4.2M tokens
    c.steps = 35_800  # 150B tokens
    c.remat = "attention"
    c.mesh = {"data": -1, "fsdp": 16, "tensor": 1, "sequence": 1}
    c.data.path = "data/corpus"
    c.data.heldout_path = "data/corpus_heldout"
    c.data.text_field = "text"
    c.optimizer.learning_rate = 5.3e-4
    c.optimizer.schedule = "multi_step"
    c.optimizer.warmup_steps = 2000
    c.spikes.skip = True
    c.checkpoint.every = 500
    c.eval.every = 1000
    c.eval.batch_size = 128
    return with_argument(c, arg)
