"""SFT of a small model on GSM8K's 7473 solutions with DeepSeek's tokenizer, on two CPU cores.

    python launch/train.py --config=configs/sft_gsm8k.py
    python launch/train.py --config=configs/sft_gsm8k.py:smoke    without any file, one minute

Needs: train.jsonl and test.jsonl of github.com/openai/grade-school-math (grade_school_math/data) in
data/gsm8k, and in data/tokenizer the tokenizer.json of any DeepSeek LLM or DeepSeekMath checkpoint.
For other places: --config.data.path=FILE --config.data.heldout_path=FILE --config.tokenizer=DIR;
for other field names --config.data.question_field=... --config.data.solution_field=....

The model starts from random numbers. In a seventh of an epoch its loss falls from 11.5 (the
logarithm of the vocabulary) to 3.8: it has the words and marks of a solution, but no sense yet.
Measured in docs/results/gsm8k.md: 8 minutes on two busy cores, 1.5 GB. The 7B model's configuration
is configs/sft_7b_tpu.py, with the same flags.
"""

from dsmath_jax.stages.defaults import get_defaults, with_argument


def get_config(arg=""):
    c = get_defaults("sft")
    c.model = "tiny"
    c.model_changes = {  # 9.6M of its 10.0M parameters are the embedding
        "hidden_size": 96,
        "intermediate_size": 288,
        "num_layers": 3,
        "head_dim": 24,
        "tie_embeddings": True,
        "max_positions": 1024,
    }
    c.tokenizer = "data/tokenizer"
    c.dtype = "float32"
    c.length = 1024  # the longest question with its solution has 562 tokens; rows are packed
    c.batch_size = 2
    c.steps = 120
    c.data.path = "data/gsm8k/train.jsonl"
    c.data.heldout_path = "data/gsm8k/test.jsonl"
    c.data.num_heldout = 128
    c.data.prompt = "cot_en"
    c.optimizer.learning_rate = 5e-3
    c.optimizer.schedule = "cosine"
    c.checkpoint.every = 60
    c.eval.every = 60
    c.eval.batch_size = 2
    return with_argument(c, arg)
