"""Batches: what is masked, what is packed, and that an iterator's state is enough to go on."""

import json

import numpy as np
import pytest

from dsmath_jax.data.batches import (
    encode_questions,
    padded_batches,
    pretrain_batches,
    question_batches,
    set_position,
    sft_batches,
)
from dsmath_jax.data.errors import InputError
from dsmath_jax.data.tokenizers import train_sentencepiece
from dsmath_jax.data.word_problems import generate

EXAMPLES = [
    {"question": p.question, "solution": p.solution, "answer": p.answer} for p in generate(200)
]


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    texts = [text for e in EXAMPLES for text in e.values()]
    return train_sentencepiece(texts, tmp_path_factory.mktemp("tokenizer"), vocab_size=400)


def sft(tokenizer, **changes):
    options = dict(prompt="sft", length=128, batch_size=4, seed=0) | changes
    return sft_batches(EXAMPLES, tokenizer, **options)


def questions(tokenizer, max_tokens=100):
    return encode_questions(EXAMPLES, tokenizer, prompt="plain", max_tokens=max_tokens)


def segments(batch):
    """(ids, mask, positions) of each packed example."""
    for row in range(len(batch["tokens"])):
        for segment in range(1, batch["segment_ids"][row].max() + 1):
            on = batch["segment_ids"][row] == segment
            yield batch["tokens"][row][on], batch["loss_mask"][row][on], batch["positions"][row][on]


def test_sft_masks_the_prompt_and_trains_solution_and_eos(tokenizer):
    wanted = {e["question"]: e["solution"] for e in EXAMPLES}
    batch = next(sft(tokenizer))
    for ids, mask, positions in segments(batch):
        np.testing.assert_array_equal(positions, np.arange(len(ids)))
        start = int(mask.argmax())
        assert mask[start:].all() and not mask[:start].any()
        question = tokenizer.decode(ids[:start]).removeprefix("User: ")
        question = question.removesuffix("\n\nAssistant:")
        assert tokenizer.decode(ids[start:]) == " " + wanted[question]
        assert ids[0] == tokenizer.bos_id and ids[-1] == tokenizer.eos_id
    padding = batch["segment_ids"] == 0
    assert not batch["loss_mask"][padding].any()


def test_every_example_comes_once_an_epoch(tokenizer):
    seen = []
    for batch in sft(tokenizer, repeat=False):
        seen += [tuple(ids) for ids, _, _ in segments(batch)]
    assert len(seen) == len(set(seen)) == len(EXAMPLES)


def test_rows_are_well_packed(tokenizer):
    batches = sft(tokenizer, length=256)
    used = np.mean([(next(batches)["segment_ids"] > 0).mean() for _ in range(10)])
    assert used > 0.8


def test_pretraining_rows_are_full_and_know_their_documents(tokenizer):
    batch = next(pretrain_batches(EXAMPLES, tokenizer, length=96, batch_size=8, seed=0))
    assert (batch["segment_ids"] > 0).all() and batch["loss_mask"].all()
    for ids, _, positions in segments(batch):
        np.testing.assert_array_equal(np.diff(positions), 1)
        assert list(ids[1:]).count(tokenizer.bos_id) == 0


@pytest.mark.parametrize("kind", ["sft", "pretrain", "questions"])
@pytest.mark.parametrize("after", [0, 1, 7])
def test_state_gives_the_same_batches_again(kind, after, tokenizer):
    def fresh():
        if kind == "sft":
            return sft(tokenizer)
        if kind == "pretrain":
            return pretrain_batches(EXAMPLES, tokenizer, length=96, batch_size=4, seed=1)
        return question_batches(questions(tokenizer), batch_size=24, seed=1)

    one = fresh()
    for _ in range(after):
        next(one)
    state = json.loads(json.dumps(one.get_state()))
    expected = [next(one) for _ in range(12)]
    other = fresh()
    set_position(other, state)
    for batch in expected:
        np.testing.assert_equal(next(other), batch)


def test_questions_cover_the_data_before_they_repeat(tokenizer):
    batches = question_batches(questions(tokenizer), batch_size=40, seed=0)
    first, second = ([q["index"] for _ in range(5) for q in next(batches)] for _ in range(2))
    assert sorted(first) == sorted(second) == list(range(200))
    assert first != second


def test_too_long_is_refused_with_its_lengths(tokenizer):
    with pytest.raises(InputError, match=r"tokens, more than config.length=20"):
        sft(tokenizer, length=20)
    with pytest.raises(InputError, match=r"leaves 10"):
        questions(tokenizer, max_tokens=10)


def test_no_examples_is_an_error(tokenizer):
    with pytest.raises(InputError, match="data set is empty"):
        pretrain_batches([], tokenizer, length=8, batch_size=1, seed=0)


def test_last_batch_is_filled_with_empty_rows(tokenizer):
    shapes = {b["tokens"].shape for b in padded_batches(sft(tokenizer, repeat=False), 4)}
    assert shapes == {(4, 128)}
