"""Trains one model on each of several corpora, for the same tokens, and compares held-out losses.

    python launch/compare.py --config=FILE[:smoke] --corpora=NAME=PATH,... --heldout=NAME=PATH,...
        [--config.FIELD=VALUE ...] [--workdir=DIR]

    python launch/compare.py --config=configs/compare_corpora.py
        --corpora=mined=runs/mine/corpus,random=runs/mine/corpora/random/corpus
        --heldout=mined_hosts=runs/mine/corpus,gsm8k=gsm8k/test.jsonl:question+answer

PATH is what config.data.path may be (docs/data.md): of a TFDS directory --corpora takes the split
"train" and --heldout the split "heldout". After it may follow, behind a colon, the field that holds
the text (by default config.data.text_field, else "text"), or two fields, QUESTION+SOLUTION.

Model, seed, batches and schedule are those of the configuration, a pretraining one (on a pod
configs/pretrain_1_3b_tpu.py, the same command on every host); the tokenizer is config.tokenizer's,
else one trained on equal parts of all corpora. Each corpus is a run in WORKDIR/NAME; the same
command goes on where it stopped. The result: WORKDIR/comparison.html, .png, .json and .md
(docs/corpus_comparison.md). Exit status as of launch/train.py.
"""

from absl import flags

from dsmath_jax.stages.corpora import main

flags.DEFINE_string("corpora", "", "NAME=PATH[:FIELD] of each corpus, separated by commas.")
flags.DEFINE_string("heldout", "", "NAME=PATH[:FIELD] of each held-out set, separated by commas.")
flags.DEFINE_string("workdir", "", "Directory of all; by default runs/NAME of the config file.")

if __name__ == "__main__":
    main(__doc__)
