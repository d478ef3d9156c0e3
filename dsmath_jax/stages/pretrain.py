"""Pretraining (DeepSeekMath 2.2 and 2.3): next-token prediction on documents in full rows.

Not in the paper, chosen here: documents that share a row do not attend to each other; each row
is of one source of the mixture. The paper's model was trained with gradients accumulated in
float32; here micro-batches are, while chips add up their parts of a matrix's gradient in bfloat16.
"""

from __future__ import annotations

import pathlib

from ml_collections import ConfigDict

from dsmath_jax.data.corpus import first_examples, load_documents, open_parts
from dsmath_jax.data.documents import Encoding
from dsmath_jax.data.mixture import Mixture
from dsmath_jax.data.packing import DocumentRows
from dsmath_jax.data.tokenizers import Tokenizer
from dsmath_jax.stages import setup
from dsmath_jax.stages.supervised import fit
from dsmath_jax.training.loop import Result


def train(config: ConfigDict, workdir: pathlib.Path) -> Result:
    """Trains on `config.data` for `config.steps` batches of batch_size x length tokens."""
    return fit(config, workdir, *open_data(config, workdir))


def open_data(
    config: ConfigDict, workdir: pathlib.Path
) -> tuple[Tokenizer, Mixture, list[DocumentRows]]:
    """The tokenizer, the mixture of documents to train on, and the held-out rows of each source;
    tokenises what is in no cache yet."""
    parts = open_parts(config.data, "train")
    heldout_parts = open_parts(config.data, "heldout")
    tokenizer = setup.open_tokenizer(config, workdir, first_examples(parts, config.data, workdir))

    def rows(parts, split):
        documents = load_documents(parts, config.data, split, tokenizer, Encoding(), workdir)
        options = {"length": config.length, "seed": config.seed, "repeat": split == "train"}
        return [DocumentRows(name, d, **options) for name, d in documents.items()]

    mixture = Mixture(rows(parts, "train"), {part.name: part.weight for part in parts})
    return tokenizer, mixture, rows(heldout_parts, "heldout")
