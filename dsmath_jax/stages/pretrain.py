"""Pretraining (DeepSeekMath 2.2 and 2.3): next-token prediction on documents in full rows."""

from __future__ import annotations

import pathlib

from ml_collections import ConfigDict

from dsmath_jax.data.batches import pretrain_batches
from dsmath_jax.data.examples import load_examples
from dsmath_jax.stages import setup
from dsmath_jax.stages.supervised import fit
from dsmath_jax.training.loop import Result


def train(config: ConfigDict, workdir: pathlib.Path) -> Result:
    """Trains on `config.data` for `config.steps` batches of batch_size x length tokens."""
    # ---- Data: documents ------------------------------------------------------------------------
    examples = load_examples(config.data, "train", workdir)
    heldout = load_examples(config.data, "heldout", workdir)
    tokenizer = setup.open_tokenizer(config, workdir, examples)

    def batches(some, batch_size, repeat):
        return pretrain_batches(
            some,
            tokenizer,
            length=config.length,
            batch_size=batch_size,
            seed=config.seed,
            repeat=repeat,
        )

    # ---- Train ----------------------------------------------------------------------------------
    return fit(config, workdir, tokenizer, examples, heldout, batches)
