"""Batches: what is masked, and that neither resuming, hosts nor workers change them."""

import json

import numpy as np
import pytest

from dsmath_jax.data.batches import (
    Batches,
    encode_questions,
    heldout_batches,
    question_batches,
)
from dsmath_jax.data.documents import Encoding, encode
from dsmath_jax.data.errors import InputError
from dsmath_jax.data.mixture import Mixture
from dsmath_jax.data.packing import DocumentRows, ExampleRows
from dsmath_jax.data.tokenizers import train_sentencepiece
from dsmath_jax.data.word_problems import generate

EXAMPLES = [
    {"question": p.question, "solution": p.solution, "answer": p.answer} for p in generate(200)
]


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    texts = [text for e in EXAMPLES for text in e.values()]
    return train_sentencepiece(texts, tmp_path_factory.mktemp("tokenizer"), vocab_size=400)


def example_rows(tokenizer, examples=EXAMPLES, name="a", length=128, **options):
    documents = encode(examples, tokenizer, Encoding("sft"))
    return ExampleRows(name, documents, tokenizer, length=length, seed=0, **options)


def sft(tokenizer, **options):
    """Two sources, 3 to 1; both begin again within a dozen batches of 4."""
    mixture = Mixture(
        [
            example_rows(tokenizer, EXAMPLES[:120], "a"),
            example_rows(tokenizer, EXAMPLES[120:], "b"),
        ],
        {"a": 3, "b": 1},
    )
    return Batches(mixture, options.pop("batch_size", 4), **options)


def pretrain(tokenizer, **options):
    documents = encode(EXAMPLES, tokenizer, Encoding())
    rows = [DocumentRows(n, documents, length=96, seed=1) for n in ("a", "b", "c")]
    mixture = Mixture(rows, {"a": 0.5, "b": 0.2, "c": 0.3})
    return Batches(mixture, options.pop("batch_size", 8), **options)


def questions(tokenizer, examples=EXAMPLES):
    rows = encode_questions(examples, tokenizer, prompt="plain", max_tokens=100)
    return question_batches(rows, batch_size=24, seed=1)


def documents_alone(tokenizer, examples=EXAMPLES):
    documents = encode(examples, tokenizer, Encoding())
    return Batches(Mixture([DocumentRows("a", documents, length=96, seed=1)], {"a": 1}), 8)


def examples_alone(tokenizer, examples=EXAMPLES):
    return Batches(Mixture([example_rows(tokenizer, examples)], {"a": 1}), 4)


def test_sft_masks_the_prompt_and_trains_solution_and_eos(tokenizer):
    wanted = {e["question"]: e["solution"] for e in EXAMPLES}
    batch = next(sft(tokenizer))
    for row in range(4):
        for segment in range(1, batch["segment_ids"][row].max() + 1):
            on = batch["segment_ids"][row] == segment
            ids, mask = batch["tokens"][row][on], batch["loss_mask"][row][on]
            start = int(mask.argmax())
            assert mask[start:].all() and not mask[:start].any()
            question = tokenizer.decode(ids[:start]).removeprefix("User: ")
            question = question.removesuffix("\n\nAssistant:")
            assert tokenizer.decode(ids[start:]) == " " + wanted[question]
            assert ids[0] == tokenizer.bos_id and ids[-1] == tokenizer.eos_id


def test_pretraining_rows_are_full_and_know_their_documents(tokenizer):
    batch = next(pretrain(tokenizer))
    assert (batch["segment_ids"] > 0).all() and batch["loss_mask"].all()
    begins = np.diff(batch["segment_ids"], axis=1) == 1
    np.testing.assert_array_equal(batch["tokens"][:, 1:] == tokenizer.bos_id, begins)


@pytest.mark.parametrize("make", [sft, pretrain, questions])
@pytest.mark.parametrize("after", [0, 1, 7, 30])
def test_state_gives_the_same_batches_again(make, after, tokenizer):
    one = make(tokenizer)
    for _ in range(after):
        next(one)
    state = json.loads(json.dumps(one.get_state()))
    expected = [next(one) for _ in range(12)]
    other = make(tokenizer)
    other.set_state(state)
    for batch in expected:
        np.testing.assert_equal(next(other), batch)


@pytest.mark.parametrize("make", [sft, pretrain])
@pytest.mark.parametrize("hosts", [2, 4])
def test_other_hosts_give_the_same_global_batches(make, hosts, tokenizer):
    whole = make(tokenizer, batch_size=8)
    share = 8 // hosts
    parts = [
        make(tokenizer, batch_size=8, local=np.arange(share * p, share * (p + 1)))
        for p in range(hosts)
    ]
    for _ in range(15):
        batch, pieces = next(whole), [next(part) for part in parts]
        assert {len(p["tokens"]) for p in pieces} == {share}
        for name in batch:
            np.testing.assert_array_equal(batch[name], np.concatenate([p[name] for p in pieces]))


def test_resuming_on_other_hosts_and_workers_gives_the_same_batches(tokenizer):
    whole = pretrain(tokenizer)
    expected = [next(whole) for _ in range(9)]
    one = pretrain(tokenizer)
    for _ in range(4):
        next(one)
    state = json.loads(json.dumps(one.get_state()))
    host = pretrain(tokenizer, local=np.array([1, 2, 5]), workers=2)
    host.set_state(state)
    for batch in expected[4:]:
        mine = next(host)
        for name in batch:
            np.testing.assert_array_equal(mine[name], batch[name][[1, 2, 5]])
    host.close()
    assert next(host)["tokens"].shape == (3, 96)  # it goes on
    host.close()


def test_going_on_with_other_data_is_refused(tokenizer):
    state = sft(tokenizer).get_state()
    other = Batches(Mixture([example_rows(tokenizer, EXAMPLES[:50])], {"a": 1.0}), 4)
    with pytest.raises(ValueError, match=r"sources a share was \[3, 4\] there and is \[1, 1\]"):
        other.set_state(state)
    with pytest.raises(ValueError, match="seed was 0 there and is 5 here"):
        sft(tokenizer, seed=5).set_state(state)
    with pytest.raises(ValueError, match="questions was 200 there and is None here"):
        sft(tokenizer, seed=1).set_state(questions(tokenizer).get_state())


@pytest.mark.parametrize("make", [documents_alone, examples_alone, questions])
def test_going_on_with_the_same_data_in_another_order_is_refused(make, tokenizer):
    state = json.loads(json.dumps(make(tokenizer).get_state()))
    make(tokenizer).set_state(state)
    for other in (EXAMPLES[::-1], [EXAMPLES[0] | {"solution": "7", "answer": "7"}, *EXAMPLES[1:]]):
        with pytest.raises(ValueError, match=r"(content|tokens) was .+ there and is .+ here"):
            make(tokenizer, other).set_state(state)


def test_questions_cover_the_data_before_they_repeat(tokenizer):
    rows = encode_questions(EXAMPLES, tokenizer, prompt="plain", max_tokens=100)
    batches = question_batches(rows, batch_size=40, seed=0)
    first, second = ([q["index"] for _ in range(5) for q in next(batches)] for _ in range(2))
    assert sorted(first) == sorted(second) == list(range(200))
    assert first != second


def test_too_long_is_refused_with_its_lengths(tokenizer):
    with pytest.raises(InputError, match=r"tokens, more than config.length=20"):
        example_rows(tokenizer, length=20)
    with pytest.raises(InputError, match=r"leaves 10"):
        encode_questions(EXAMPLES, tokenizer, prompt="plain", max_tokens=10)


def test_questions_that_are_too_long_are_left_out_and_keep_their_numbers(tokenizer, tmp_path):
    examples = [*EXAMPLES[:3], EXAMPLES[3] | {"question": "2 + 2? " * 100}, *EXAMPLES[4:]]
    options = {"prompt": "plain", "max_tokens": 100, "max_rejected_share": 0.01}
    rows = encode_questions(examples, tokenizer, **options, rejected=tmp_path / "long.jsonl")
    assert [row["index"] for row in rows] == [i for i in range(len(EXAMPLES)) if i != 3]
    assert json.loads((tmp_path / "long.jsonl").read_text())["index"] == 3


def test_heldout_rows_come_once_and_the_last_batch_is_filled_up(tokenizer):
    rows = example_rows(tokenizer, repeat=False)
    batches = list(heldout_batches(rows, 7))
    assert {b["tokens"].shape for b in batches} == {(7, 128)}
    used = np.concatenate([b["segment_ids"] for b in batches]) > 0
    assert used.sum() == rows.total and used.any(axis=1).sum() == rows.per_epoch
    mine = list(heldout_batches(rows, 7, np.array([2, 6])))
    for batch, part in zip(batches, mine, strict=True):
        np.testing.assert_array_equal(part["tokens"], batch["tokens"][[2, 6]])
