"""From examples to batches of {tokens, positions, segment_ids, loss_mask}, all [batch, length], by
Grain: shuffled anew each epoch, packed, and resumable from an iterator's small state."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import grain
import numpy as np

from dsmath_jax.data.errors import InputError
from dsmath_jax.data.examples import Example
from dsmath_jax.data.prompts import encode_example, encode_prompt, get_prompt
from dsmath_jax.data.tokenizers import Tokenizer

Batch = dict[str, np.ndarray]


def sft_batches(
    examples: Sequence[Example],
    tokenizer: Tokenizer,
    *,
    prompt: str,
    length: int,
    batch_size: int,
    seed: int,
    repeat: bool = True,
) -> grain.DatasetIterator:
    """Prompts and solutions, whole examples packed into rows; the mask is on the solution and EOS.

    Raises:
      InputError: an example does not fit in `length`.
    """

    check_prompt(prompt)

    def encode(example: Example) -> Batch:
        ids, start = encode_example(tokenizer, example["question"], example["solution"], prompt)
        return {"tokens": np.array(ids, np.int32), "loss_mask": _mask(len(ids), start)}

    encoded = [encode(e) for e in examples]
    for example, row in zip(examples, encoded, strict=True):
        if len(row["tokens"]) > length:
            raise InputError(
                f"the example that starts {example['question'][:60]!r} has {len(row['tokens'])} "
                f"tokens, more than config.length={length}: raise it, or shorten the example"
            )
    dataset = _shuffled(encoded, seed, repeat).to_iter_dataset()
    packed = grain.experimental.FirstFitPackIterDataset(
        dataset,
        length_struct={"tokens": length, "loss_mask": length},
        num_packing_bins=max(batch_size, 16),
        shuffle_bins=False,
    )
    return iter(packed.map(_layout).batch(batch_size, drop_remainder=repeat))


def pretrain_batches(
    examples: Sequence[Example],
    tokenizer: Tokenizer,
    *,
    length: int,
    batch_size: int,
    seed: int,
    repeat: bool = True,
) -> grain.DatasetIterator:
    """Documents with BOS and EOS one after another, cut into full rows; the mask is on all."""

    def encode(example: Example) -> Batch:
        text = example.get("text") or f"{example['question']}\n{example['solution']}"
        ids = [*tokenizer.encode(text, add_bos=True), tokenizer.eos_id]
        return {"tokens": np.array(ids, np.int32), "loss_mask": _mask(len(ids), 0)}

    dataset = _shuffled([encode(e) for e in examples], seed, repeat).to_iter_dataset()
    rows = grain.experimental.ConcatThenSplitIterDataset(
        dataset, length_struct={"tokens": length, "loss_mask": length}
    )
    return iter(rows.map(_layout).batch(batch_size, drop_remainder=repeat))


def encode_questions(
    examples: Sequence[Example], tokenizer: Tokenizer, *, prompt: str, max_tokens: int
) -> list[dict[str, Any]]:
    """{"index", "ids" of the prompt, and the example's fields} each, for RL.

    Raises:
      InputError: a question has more than `max_tokens`.
    """
    check_prompt(prompt)
    rows = []
    for index, example in enumerate(examples):
        ids = encode_prompt(tokenizer, example["question"], prompt)
        if len(ids) > max_tokens:
            raise InputError(
                f"the question that starts {example['question'][:60]!r} has {len(ids)} tokens with "
                f"its prompt; config.length less config.rl.max_new_tokens leaves {max_tokens}"
            )
        rows.append({"index": index, "ids": ids, **example})
    return rows


def question_batches(
    rows: list[dict[str, Any]], *, batch_size: int, seed: int
) -> grain.DatasetIterator:
    """Lists of `batch_size` encoded questions, shuffled anew each epoch."""
    return iter(_shuffled(rows, seed, True).batch(batch_size, batch_fn=list).to_iter_dataset())


def set_position(iterator: grain.DatasetIterator, state: Any) -> None:
    """`iterator.set_state` with a state that went through JSON, where Grain's tuples became lists
    (it compares some of them)."""

    def tuples(value):
        if isinstance(value, dict):
            return {k: tuples(v) for k, v in value.items()}
        return tuple(map(tuples, value)) if isinstance(value, list) else value

    iterator.set_state(tuples(state))


def check_prompt(name: str) -> None:
    try:
        get_prompt(name)
    except ValueError as e:
        raise InputError(f"config.data.prompt={name!r}: {e}") from None


def padded_batches(iterator: Iterator[Batch], batch_size: int) -> Iterator[Batch]:
    """Fills the last, smaller batch with empty rows, so that all have one shape."""
    for batch in iterator:
        missing = batch_size - len(batch["tokens"])
        yield {k: np.pad(v, ((0, missing), (0, 0))) for k, v in batch.items()}


def _shuffled(rows: list, seed: int, repeat: bool) -> grain.MapDataset:
    if not rows:
        raise InputError("the data set is empty: config.data gives no examples")
    dataset = grain.MapDataset.source(rows)
    return dataset.seed(seed).shuffle().repeat() if repeat else dataset


def _mask(length: int, start: int) -> np.ndarray:
    return (np.arange(length) >= start).astype(np.float32)


def _layout(row: dict[str, Any]) -> Batch:
    return {
        "tokens": row["tokens"],
        "positions": row["tokens_positions"],
        "segment_ids": row["tokens_segment_ids"],
        "loss_mask": row["loss_mask"],
    }
