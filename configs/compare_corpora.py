"""A small model for launch/compare.py: corpora beside each other in minutes on two CPU cores.

    python launch/compare.py --config=configs/compare_corpora.py --workdir=runs/compare
        --corpora=mined=runs/mine/corpus,random=runs/mine/corpora/random/corpus
        --heldout=mined=runs/mine/corpus

0.6M parameters and 0.8M tokens a corpus. What to expect: docs/corpus_comparison.md. The paper's
size is configs/pretrain_1_3b_tpu.py, with the same flags.
"""

from dsmath_jax.stages.defaults import get_defaults, with_argument


def get_config(arg=""):
    c = get_defaults("pretrain")
    c.model = "tiny"
    c.model_changes = {
        "hidden_size": 96,
        "intermediate_size": 288,
        "num_layers": 3,
        "head_dim": 24,
        "init_std": 0.05,
        "tie_embeddings": True,
        "max_positions": 256,
    }
    c.tokenizer_vocab = 2048
    c.dtype = "float32"
    c.length = 256
    c.batch_size = 16  # x 256 = 4096 tokens
    c.steps = 200
    c.data.text_field = "text"
    c.data.num_heldout = 32
    c.optimizer.learning_rate = 4e-3
    c.optimizer.schedule = "multi_step"
    c.optimizer.warmup_steps = 20
    c.checkpoint.every = 100
    c.eval.every = 25
    c.log.every = 5
    return with_argument(c, arg)
