"""Generated word problems: right, never shared between splits, the same for a seed."""

import pytest

from dsmath_jax.data.word_problems import TEMPLATES, generate
from dsmath_jax.rewards import Verdict, grade_solution


def test_worked_lines_are_right_and_end_in_the_answer():
    for problem in generate(3000, chain_share=0.5):
        *lines, last = problem.solution.split("\n")
        assert last == f"#### {problem.answer}"
        for line in lines:
            expression, result = line.split("=")
            assert set(expression) <= set("0123456789+-*()")
            assert eval(expression) == int(result) >= 0
        assert lines[-1].endswith(f"={problem.answer}")
        assert grade_solution(problem.solution, problem.answer) is Verdict.RIGHT


def test_train_and_heldout_share_no_problem():
    names = ["Ann", "Ben", "Eva", "Kim", "Leo", "Max", "Mia", "Sam", "Tom", "Zoe"]

    def kinds(split):
        found = set()
        for problem in generate(20_000, split=split, seed=5):
            words = problem.question.split()
            shape = " ".join("NAME" if w.strip(".,") in names else w for w in words)
            for thing in ["apples", "books", "cards", "coins", "eggs", "pens", "shells", "stamps"]:
                shape = shape.replace(thing, "THING")
            found.add(shape)
        return found

    train, heldout = kinds("train"), kinds("heldout")
    assert len(heldout) > 1000
    assert not train & heldout


def test_same_seed_same_problems():
    assert list(generate(50, seed=3)) == list(generate(50, seed=3))
    assert list(generate(50, seed=3)) != list(generate(50, seed=4))


def test_problems_have_two_to_four_steps():
    assert {len(t.steps) for t in TEMPLATES} == {2, 3, 4}
    assert len(TEMPLATES) >= 6


def test_chain_share():
    chains = [p.solution.count("\n") == 1 for p in generate(2000, chain_share=0.25)]
    assert 0.2 < sum(chains) / len(chains) < 0.3


def test_unknown_split():
    with pytest.raises(ValueError, match="'test' is unknown"):
        next(generate(1, split="test"))
