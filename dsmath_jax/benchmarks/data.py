"""Rows/s of the data pipeline on one host, against what that host's chips need at 7B."""

from __future__ import annotations

import json
import pathlib
import random
import statistics
import tempfile
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from dsmath_jax.data.batches import Batches
from dsmath_jax.data.corpus import first_examples, load_documents, open_parts
from dsmath_jax.data.documents import Documents, Encoding
from dsmath_jax.data.errors import InputError
from dsmath_jax.data.mixture import Mixture
from dsmath_jax.data.packing import DocumentRows, ExampleRows
from dsmath_jax.data.word_problems import generate
from dsmath_jax.models.config import preset
from dsmath_jax.models.flops import causal_pairs, train_flops
from dsmath_jax.stages import setup
from dsmath_jax.training.hardware import CHIPS

# JAX devices of the largest host of each kind (TPU7x: two a chip).
HOST_DEVICES = {"v5e": 8, "v5p": 4, "v6e": 8, "tpu7x": 8}

# DeepSeekMath 2.3, with the median and spread (of the logarithm) of documents' lengths in
# characters: pages are a few thousand, papers tens of thousands.
PARTS = {
    "math": (0.56, 6000, 1.0),
    "stack": (0.04, 4000, 1.2),
    "arxiv": (0.10, 40_000, 0.8),
    "code": (0.20, 3000, 1.2),
    "language": (0.10, 3000, 1.0),
}


def run(config: ConfigDict) -> dict[str, Any]:
    """Numbers of `config.measure.rounds` rounds of `config.measure.batches` batches of
    `config.batch_size` x `config.length`, by pretraining's rows and by fine-tuning's."""
    if config.measure.batches < 1 or config.measure.rounds < 1:
        raise InputError("config.measure.batches and config.measure.rounds must be at least 1")
    needed = needed_tokens(config)
    with tempfile.TemporaryDirectory() as folder:
        workdir = pathlib.Path(folder) / "run"
        data = config.data.copy_and_resolve_references()
        with data.unlocked():
            data.text_field = "text"
            data.mixture = write_corpus(workdir.parent, config.measure.megabytes * 1e6)
        parts = open_parts(data, "train")
        tokenizer = setup.open_tokenizer(config, workdir, first_examples(parts, data, workdir))
        start = time.perf_counter()
        documents = load_documents(parts, data, "train", tokenizer, Encoding(), workdir)
        tokenising = time.perf_counter() - start
        start = time.perf_counter()
        documents = load_documents(parts, data, "train", tokenizer, Encoding(), workdir)
        opening = time.perf_counter() - start
        tokens = sum(len(d.tokens) for d in documents.values())
        rows = [
            DocumentRows(name, d, length=config.length, seed=config.seed)
            for name, d in documents.items()
        ]
        pretraining = Mixture(rows, {part.name: part.weight for part in parts})
        examples = ExampleRows(
            "sft", _short(documents["math"]), tokenizer, length=config.length, seed=config.seed
        )
        numbers = {
            "needed_tokens_per_s": needed,
            "pretraining": feed(config, pretraining, needed),
            "fine_tuning": feed(config, Mixture([examples], {"sft": 1}), needed),
            "tokenise": {
                "tokens": tokens,
                "tokens_per_s": tokens / tokenising,
                "seconds_when_cached": opening,
            },
        }
    return numbers


def needed_tokens(config: ConfigDict) -> dict[str, float]:
    """Tokens/s that the chips of one host train on: devices x peak x MFU / FLOPs of a token, in
    full rows of `config.length` with causal attention."""
    shape = preset(config.model, **config.model_changes)
    flops = train_flops(shape, config.length, causal_pairs([config.length])) / config.length
    flops_per_s = {kind: n * CHIPS[kind].flops for kind, n in HOST_DEVICES.items()}
    return {
        f"{HOST_DEVICES[kind]} x {kind}": config.measure.mfu * total / flops
        for kind, total in flops_per_s.items()
    }


def feed(config: ConfigDict, mixture: Mixture, needed: dict[str, float]) -> dict[str, Any]:
    """Speed of batches as they come from the iterator that training uses."""
    batches = Batches(mixture, config.batch_size, workers=config.data.workers)
    used = [float((next(batches)["segment_ids"] > 0).mean()) for _ in range(4)]
    times = []
    for _ in range(config.measure.rounds):
        start = time.perf_counter()
        for _ in range(config.measure.batches):
            next(batches)
        times.append((time.perf_counter() - start) / config.measure.batches)
    batches.close()
    tokens = config.batch_size * config.length
    most = max(needed.values())
    return {
        "rows_per_s": config.batch_size / statistics.median(times),
        "tokens_per_s": tokens / statistics.median(times),
        "tokens_per_s_lowest": tokens / max(times),
        "over_needed": {k: tokens / statistics.median(times) / v for k, v in needed.items()},
        "over_most_needed_lowest": tokens / max(times) / most,
        "positions_used": statistics.mean(used),
    }


def write_corpus(folder: pathlib.Path, size: float) -> dict[str, dict[str, Any]]:
    """Writes JSONL files of generated text, shares by PARTS; returns `config.data.mixture`."""
    words = list(_words())
    mixture = {}
    for name, (weight, median, spread) in PARTS.items():
        path = folder / f"{name}.jsonl"
        draw = random.Random(name)
        with path.open("w", encoding="utf-8") as file:
            while file.tell() < size * weight:
                length = int(draw.lognormvariate(np.log(median), spread)) + 20
                pieces: list[str] = []
                while sum(map(len, pieces)) < length and len(pieces) < 2000:
                    pieces += draw.choices(words, k=max(1, length // 100))
                file.write(json.dumps({"text": "\n".join(pieces)[:length]}) + "\n")
        mixture[name] = {"path": str(path), "weight": weight}
    return mixture


def _words() -> Iterator[str]:
    for p in generate(20_000):
        yield f"{p.question}\n{p.solution}"


def _short(documents: Documents) -> Documents:
    """The same tokens as examples of 30 to 1000, trained from their middle."""
    draw = np.random.default_rng(0)
    total = len(documents.tokens)
    lengths = np.clip(draw.lognormal(5.6, 0.6, total // 100), 30, 1000).astype(np.int64)
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    offsets = offsets[offsets <= total]
    starts = (np.diff(offsets) // 2).astype(np.int32)
    return Documents(documents.tokens, offsets, starts)
