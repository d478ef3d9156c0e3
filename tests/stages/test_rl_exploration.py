"""Exploration: which groups are trained on, what a checkpoint keeps of it, rewards beside it."""

import dataclasses
import threading

import jax
import numpy as np
import pytest

from dsmath_jax.data.batches import question_batches
from dsmath_jax.models.sharding import make_mesh
from dsmath_jax.rollout import Samples
from dsmath_jax.stages import rl_rewards
from dsmath_jax.stages.defaults import get_defaults
from dsmath_jax.stages.rl_exploration import (
    Groups,
    Lookahead,
    abstract_ahead,
    draw_ids,
    from_ahead,
    joined,
    no_samples,
    to_ahead,
)
from dsmath_jax.stages.rl_rewards import Grader, checker_errors, rewards_of

QUESTIONS = [{"index": i, "ids": [1, i], "question": str(i), "answer": "#### 1"} for i in range(9)]


def groups(verdicts, seed=0, step=4):
    random = np.random.default_rng(seed)
    verdicts = np.array(verdicts, np.int8)
    samples = Samples(
        random.integers(0, 9, (*verdicts.shape, 5)).astype(np.int32),
        random.integers(1, 5, verdicts.shape).astype(np.int32),
        random.normal(size=(*verdicts.shape, 5)).astype(np.float32),
        random.random(verdicts.shape) < 0.5,
    )
    count = len(verdicts)
    return Groups(QUESTIONS[:count], samples, verdicts, np.full(count, step))


def test_groups_with_unequal_rewards_come_first_then_the_others_fill_up():
    first, more = groups([[1, 1], [0, 1], [2, 0]]), groups([[1, 0], [0, 0], [0, 1]], 1, step=5)
    both = joined([first, more])
    np.testing.assert_array_equal(both.all_equal, [1, 0, 1, 0, 1, 0])  # an error is no reward
    best = both.best(3)
    np.testing.assert_array_equal(best.verdicts, [[0, 1], [1, 0], [0, 1]])
    np.testing.assert_array_equal(best.weights_step, [4, 5, 5])
    np.testing.assert_array_equal(best.samples.tokens, both.samples.tokens[[1, 3, 5]])
    assert [q["index"] for q in best.questions] == [1, 0, 2]
    np.testing.assert_array_equal(both.best(4).verdicts[0], [1, 1])  # in their order, filled up


def test_a_question_that_comes_twice_in_a_step_gets_other_draws():
    assert draw_ids([QUESTIONS[3], QUESTIONS[5], QUESTIONS[3], QUESTIONS[3]], 9) == [3, 5, 12, 21]


def batches():
    return question_batches(QUESTIONS, batch_size=2, seed=0)


def test_a_batch_that_was_only_looked_at_comes_again_after_a_resume():
    data, plain = Lookahead(batches()), batches()
    expected = [next(plain) for _ in range(5)]
    assert next(data) == expected[0]
    assert data.peek() == data.peek() == expected[1]
    state = data.get_state()
    assert state["rows"] == 2
    assert [next(data), next(data)] == expected[1:3]
    assert data.get_state()["rows"] == 6
    data.peek()
    data.set_state(state)
    assert [next(data), next(data), next(data)] == expected[1:4]


def test_what_was_generated_ahead_comes_back_from_the_state():
    config = get_defaults("rl")
    config.rl.questions, config.rl.group, config.rl.max_new_tokens = 3, 2, 5
    mesh = make_mesh(devices=jax.devices()[:1])
    assert from_ahead(no_samples(config, mesh), QUESTIONS[:3]) is None
    there = groups([[1, 1], [0, 1], [2, 0]])
    kept = to_ahead(there, mesh)
    for shape in (abstract_ahead(config, mesh), no_samples(config, mesh)):
        for x, y in zip(kept, shape, strict=True):
            assert (x.shape, x.dtype, x.sharding) == (y.shape, y.dtype, y.sharding)
    back = from_ahead(kept, QUESTIONS[:3])
    assert back.questions == there.questions
    for name, array in dataclasses.asdict(there.samples).items():
        np.testing.assert_array_equal(getattr(back.samples, name), array)
    np.testing.assert_array_equal(back.verdicts, there.verdicts)
    np.testing.assert_array_equal(back.weights_step, there.weights_step)


class Letters:
    """A tokenizer of texts as lists of characters."""

    def decode(self, ids):
        return "".join(map(chr, ids))


def ids(text):
    return list(map(ord, text))


def test_verdicts_of_right_wrong_and_the_checkers_own_errors():
    grader = Grader(Letters(), ["#### 1000", "2", " "], 2)
    texts = [["so\n#### 1,000", "#### 1"], ["#### 2", "2"], ["#### 3", "nothing"]]
    for q, g in [(2, 1), (0, 0), (1, 1), (1, 0), (2, 0), (0, 1)]:  # in the order they end
        grader(q, g, ids(texts[q][g]))
    verdicts = grader.verdicts()
    np.testing.assert_array_equal(rewards_of(verdicts), [[1, 0], [1, 0], [0, 0]])
    assert checker_errors(verdicts) == 2


def test_samples_are_graded_while_others_are_generated(monkeypatch):
    graded, main = threading.Event(), threading.current_thread()
    grade = rl_rewards.grade_solution

    def noted(text, gold):
        assert threading.current_thread() is not main
        verdict = grade(text, gold)
        graded.set()
        return verdict

    monkeypatch.setattr(rl_rewards, "grade_solution", noted)
    grader = Grader(Letters(), ["1"], 2)
    grader(0, 0, ids("#### 1"))
    assert graded.wait(10)  # nobody has asked for it yet, and the other sample is not there
    grader(0, 1, ids("#### 2"))
    np.testing.assert_array_equal(rewards_of(grader.verdicts()), [[1, 0]])


def test_a_failure_of_the_grading_thread_is_the_callers(monkeypatch):
    def broken(text, gold):
        raise OSError("no more processes")

    monkeypatch.setattr(rl_rewards, "grade_solution", broken)
    grader = Grader(Letters(), ["1"], 1)
    grader(0, 0, ids("1"))
    with pytest.raises(OSError, match="no more processes"):
        grader.verdicts()
