"""Rows: full, with segments that end where documents end, the same for a number and a seed."""

import json
import pickle

import numpy as np
import pytest

from dsmath_jax.data.documents import Documents, Encoding, encode
from dsmath_jax.data.errors import InputError
from dsmath_jax.data.packing import (
    DocumentRows,
    ExampleRows,
    best_fit,
    empty_batch,
    permutation,
)
from dsmath_jax.data.tokenizers import load_tokenizer


def documents(lengths, starts=None):
    """Documents whose tokens are all different, so that a token tells where it is from."""
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    starts = None if starts is None else np.array(starts, np.int32)
    return Documents(np.arange(offsets[-1], dtype=np.uint32), offsets, starts)


def filled(rows, numbers):
    batch = empty_batch(len(numbers), rows.length)
    for at, row in enumerate(numbers):
        rows.fill(row, batch, at)
    return batch


class NoTokenizer:
    def decode(self, ids):
        return " ".join(map(str, ids))


def segments(batch):
    """(tokens, positions, mask) of each."""
    for row in range(len(batch["tokens"])):
        for segment in range(1, batch["segment_ids"][row].max() + 1):
            on = batch["segment_ids"][row] == segment
            assert (np.diff(np.flatnonzero(on)) == 1).all()
            yield tuple(batch[k][row][on] for k in ("tokens", "positions", "loss_mask"))


# ---- Pretraining ------------------------------------------------------------------------------


def stream(rows, epochs):
    """The concatenation that rows are cut from, by the definition."""
    parts = []
    for epoch in range(epochs):
        order = permutation(len(rows.documents), rows.seed, rows.name, epoch)
        parts += [rows.documents.ids(int(d)) for d in order]
    return np.concatenate(parts)


@pytest.mark.parametrize("length", [5, 16, 64, 300])
def test_rows_are_the_shuffled_documents_cut_in_pieces(length):
    lengths = np.random.default_rng(0).integers(1, 40, 50)
    rows = DocumentRows("a", documents(lengths), length=length, seed=3)
    epochs = 4
    expected = stream(rows, epochs)
    numbers = list(range(len(expected) // length))
    batch = filled(rows, numbers)
    np.testing.assert_array_equal(batch["tokens"].ravel(), expected[: len(numbers) * length])
    assert batch["segment_ids"].min() == 1 and batch["loss_mask"].all()
    owner = np.searchsorted(rows.documents.offsets, batch["tokens"], side="right")
    # A segment ends where the document does: there the next token is not the one that follows.
    changes = (np.diff(owner, axis=1) != 0) | (np.diff(batch["tokens"].astype(int), axis=1) != 1)
    np.testing.assert_array_equal(np.diff(batch["segment_ids"], axis=1) == 1, changes)
    for _, positions, _ in segments(batch):
        np.testing.assert_array_equal(positions, np.arange(len(positions)))
    assert rows.tokens_before(7) == 7 * length


def test_each_epoch_has_every_document_in_another_order():
    rows = DocumentRows("a", documents([3] * 40), length=12, seed=0)
    first, second = (filled(rows, range(10 * e, 10 * e + 10))["tokens"].ravel() for e in (0, 1))
    assert sorted(first) == sorted(second) == list(range(120))
    assert list(first) != list(second)


def test_heldout_documents_come_once_and_the_last_row_is_padded():
    rows = DocumentRows("a", documents([7, 5, 9]), length=8, seed=0, repeat=False)
    assert rows.per_epoch == 3
    batch = filled(rows, range(5))
    np.testing.assert_array_equal(batch["tokens"].ravel()[:21], np.arange(21))
    assert (batch["segment_ids"][2] > 0).sum() == 5 and not batch["segment_ids"][3:].any()
    np.testing.assert_array_equal(batch["loss_mask"], batch["segment_ids"] > 0)
    assert [rows.tokens_before(r) for r in range(5)] == [0, 8, 16, 21, 21]


# ---- Fine-tuning ------------------------------------------------------------------------------


def example_rows(lengths, length, starts=None, **options):
    starts = [0] * len(lengths) if starts is None else starts
    options = {"seed": 0} | options
    return ExampleRows("a", documents(lengths, starts), NoTokenizer(), length=length, **options)


def test_every_example_comes_whole_and_once_an_epoch():
    rng = np.random.default_rng(1)
    lengths = rng.integers(1, 60, 700)
    starts = (lengths * rng.random(700)).astype(int)
    rows = example_rows(lengths, 128, starts)
    seen = []
    for epoch in range(3):
        batch = filled(rows, range(epoch * rows.per_epoch, (epoch + 1) * rows.per_epoch))
        found = []
        for tokens, positions, mask in segments(batch):
            index = int(np.searchsorted(rows.documents.offsets, tokens[0]))
            np.testing.assert_array_equal(tokens, rows.documents.ids(index))
            np.testing.assert_array_equal(positions, np.arange(lengths[index]))
            np.testing.assert_array_equal(mask, np.arange(lengths[index]) >= starts[index])
            found.append(index)
        assert sorted(found) == list(range(700))
        assert not batch["loss_mask"][batch["segment_ids"] == 0].any()
        used = (batch["segment_ids"] > 0).sum(axis=1)
        before = [rows.tokens_before(epoch * rows.per_epoch + r) for r in range(rows.per_epoch)]
        np.testing.assert_array_equal(np.diff([*before, (epoch + 1) * rows.total]), used)
        seen.append(found)
    assert seen[0] != seen[1] != seen[2]


def share_used(lengths, length=4096):
    rows = best_fit(np.random.default_rng(5).permutation(lengths), length)
    fills = np.bincount(rows, weights=np.random.default_rng(5).permutation(lengths))
    assert fills.max() <= length
    return fills.sum() / (len(fills) * length)


@pytest.mark.parametrize(
    "lengths",
    [
        lambda rng: rng.lognormal(5.5, 0.6, 20_000),  # short answers
        lambda rng: rng.lognormal(6.5, 0.8, 5_000),  # some long
        lambda rng: rng.exponential(700, 5_000),
        lambda rng: rng.integers(1, 4097, 5_000),  # up to a whole row
        lambda rng: np.where(rng.random(5_000) < 0.1, 2500, rng.integers(50, 400, 5_000)),
    ],
)
def test_rows_of_4096_are_97_percent_used(lengths):
    drawn = lengths(np.random.default_rng(0))
    assert share_used(np.clip(drawn, 1, 4096).astype(int)) >= 0.97


def test_gsm8k_and_math_solutions_fill_97_percent_of_4096(data_dir):
    tokenizer = load_tokenizer(data_dir / "tokenizer")
    examples = []
    for name, question, solution in (
        ("gsm8k/train", "question", "answer"),
        ("math/train", "problem", "solution"),
    ):
        with (data_dir / "benchmarks" / f"{name}.jsonl").open() as lines:
            for line in [next(lines) for _ in range(1500)]:
                record = json.loads(line)
                examples.append({"question": record[question], "solution": record[solution]})
    encoded = encode(examples, tokenizer, Encoding("cot_en"))
    rows = ExampleRows("sft", encoded, tokenizer, length=4096, seed=0)
    batch = filled(rows, range(rows.per_epoch))
    assert (batch["segment_ids"] > 0).mean() >= 0.97


def test_too_long_an_example_is_refused():
    with pytest.raises(InputError, match=r"starts '3 4 5.* has 9 tokens, more than"):
        example_rows([3, 9, 8], 8)


def test_too_long_examples_are_left_out_up_to_a_share_and_listed(tmp_path):
    listed = tmp_path / "too_long.jsonl"
    lengths = [3, 9, 8, 5, 4, 12, 8, 2]
    with pytest.raises(InputError, match=r"2 of 8 are too long.*max_rejected_share=0.2"):
        example_rows(lengths, 8, max_rejected_share=0.2, rejected=listed)
    assert not listed.exists()
    rows = example_rows(lengths, 8, max_rejected_share=0.25, rejected=listed)
    assert [json.loads(line)["index"] for line in listed.open()] == [1, 5]
    batch = filled(rows, range(rows.per_epoch))
    same = example_rows([n for n in lengths if n <= 8], 8)
    assert rows.per_epoch == same.per_epoch and rows.total == same.total == 30
    assert (batch["segment_ids"] > 0).sum() == 30
    shown = sorted(batch["tokens"][batch["segment_ids"] > 0].tolist())
    kept = documents(lengths)
    assert shown == sorted(t for i, n in enumerate(lengths) if n <= 8 for t in kept.ids(i).tolist())


# ---- Both -------------------------------------------------------------------------------------


def test_no_documents_is_an_error():
    with pytest.raises(InputError, match="data set is empty"):
        DocumentRows("a", documents([]), length=8, seed=0)
    with pytest.raises(InputError, match="data set is empty"):
        example_rows([], 8)


@pytest.mark.parametrize("kind", [DocumentRows, ExampleRows])
def test_rows_travel_to_other_processes_and_depend_on_seed_and_name(kind):
    def make(**changes):
        options = {"length": 32, "seed": 0} | changes
        name = options.pop("name", "a")
        more = (NoTokenizer(),) if kind is ExampleRows else ()
        return kind(name, documents([3, 9, 4, 7] * 20, [1] * 80), *more, **options)

    rows = make()
    numbers = list(range(40))
    expected = filled(rows, numbers)["tokens"]
    copied = pickle.loads(pickle.dumps(rows))
    np.testing.assert_array_equal(filled(copied, numbers[::-1])["tokens"][::-1], expected)
    for changes in ({"seed": 1}, {"name": "b"}):
        assert (filled(make(**changes), numbers)["tokens"] != expected).any()


def test_permutations_stay_the_same_for_ever():
    assert permutation(8, 0, "a", 1).tolist() == [3, 4, 0, 6, 5, 1, 7, 2]
    assert sorted(permutation(1000, 1)) == list(range(1000))
