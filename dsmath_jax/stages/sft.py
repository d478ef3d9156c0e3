"""Supervised fine-tuning (DeepSeekMath 3): worked solutions, packed; prompts are not trained.

Not in the paper, chosen here: examples packed into a row do not attend to each other, the loss is
on the solution and its EOS alone, and every trained token weighs the same.
"""

from __future__ import annotations

import pathlib

from ml_collections import ConfigDict

from dsmath_jax.data.corpus import first_examples, left_out_file, load_documents, open_parts
from dsmath_jax.data.documents import Encoding
from dsmath_jax.data.mixture import Mixture
from dsmath_jax.data.packing import ExampleRows
from dsmath_jax.data.tokenizers import Tokenizer
from dsmath_jax.stages import setup
from dsmath_jax.stages.supervised import fit
from dsmath_jax.training.loop import Result


def train(config: ConfigDict, workdir: pathlib.Path) -> Result:
    """Trains on `config.data` for `config.steps` batches of batch_size x length tokens."""
    return fit(config, workdir, *open_data(config, workdir))


def open_data(
    config: ConfigDict, workdir: pathlib.Path
) -> tuple[Tokenizer, Mixture, list[ExampleRows]]:
    """The tokenizer, the mixture of examples to train on, and the held-out rows of each source;
    tokenises what is in no cache yet."""
    setup.refuse_text_field(config)
    parts = open_parts(config.data, "train")
    heldout_parts = open_parts(config.data, "heldout")
    encoding = Encoding(config.data.prompt)
    tokenizer = setup.open_tokenizer(config, workdir, first_examples(parts, config.data, workdir))

    def rows(parts, split):
        documents = load_documents(parts, config.data, split, tokenizer, encoding, workdir)
        return [
            ExampleRows(
                name,
                d,
                tokenizer,
                length=config.length,
                seed=config.seed,
                repeat=split == "train",
                max_rejected_share=config.data.max_rejected_share,
                rejected=left_out_file(workdir, "too_long", split, name, config.data),
            )
            for name, d in documents.items()
        ]

    mixture = Mixture(rows(parts, "train"), {part.name: part.weight for part in parts})
    return tokenizer, mixture, rows(heldout_parts, "heldout")
