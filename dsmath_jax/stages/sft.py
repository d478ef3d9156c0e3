"""Supervised fine-tuning (DeepSeekMath 3): worked solutions, packed; prompts are not trained.

Not in the paper, chosen here: examples packed into a row do not attend to each other, the loss is
on the solution and its EOS alone, and every trained token weighs the same.
"""

from __future__ import annotations

import pathlib

from ml_collections import ConfigDict

from dsmath_jax.data.batches import sft_batches
from dsmath_jax.data.examples import load_examples
from dsmath_jax.stages import setup
from dsmath_jax.stages.supervised import fit
from dsmath_jax.training.loop import Result


def train(config: ConfigDict, workdir: pathlib.Path) -> Result:
    """Trains on `config.data` for `config.steps` batches of batch_size x length tokens."""
    setup.refuse_text_field(config)
    # ---- Data: questions and solutions ----------------------------------------------------------
    examples = load_examples(config.data, "train", workdir)
    heldout = load_examples(config.data, "heldout", workdir)
    tokenizer = setup.open_tokenizer(config, workdir, examples)

    def batches(some, batch_size, repeat):
        return sft_batches(
            some,
            tokenizer,
            prompt=config.data.prompt,
            length=config.length,
            batch_size=batch_size,
            seed=config.seed,
            repeat=repeat,
        )

    # ---- Train ----------------------------------------------------------------------------------
    return fit(config, workdir, tokenizer, examples, heldout, batches)
