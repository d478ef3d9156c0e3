"""Examples in memory, for reinforcement learning: its questions are few."""

from __future__ import annotations

import pathlib

from ml_collections import ConfigDict

from dsmath_jax.data.corpus import wanted_fields, word_problems
from dsmath_jax.data.errors import InputError
from dsmath_jax.data.sources import Example, open_source, read_examples


def load_examples(config: ConfigDict, split: str, workdir: pathlib.Path) -> list[Example]:
    """The examples of a split ("train" or "heldout"), as {"question", "solution", "answer"}.

    `config.path` names the files (held-out: `config.heldout_path`); without one, word problems are
    generated. Bad lines go to `workdir`/rejected_SPLIT.jsonl.

    Raises:
      InputError: a file is missing, empty, or has too many bad lines.
    """
    if config.mixture:
        raise InputError("config.data.mixture is for pretraining and fine-tuning: set data.path")
    name = "path" if split == "train" else "heldout_path"
    if not config.path:
        return list(word_problems(config, split))
    if not config[name]:
        return []
    fields = wanted_fields(config)
    fields["answer"] = config.answer_field or config.solution_field
    source = open_source(config[name], fields, name=name, split=split)
    rejected = workdir / f"rejected_{split}.jsonl"
    examples = list(read_examples(source, config.max_rejected_share, rejected))
    return examples[: config.num_heldout] if split == "heldout" else examples
