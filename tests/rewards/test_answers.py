"""Answers: what is found, what is equal."""

import json

import pytest

from dsmath_jax.rewards import Verdict, final_answer, grade, grade_solution


@pytest.mark.parametrize(
    ("solution", "answer"),
    [
        ("3+4=7\n#### 7", "7"),
        ("#### 1\nno\n#### 2 \nmore", "2"),
        ("so \\boxed{3} or \\boxed{\\frac{1}{2}}.", "\\frac{1}{2}"),
        ("\\boxed{1", None),
        ("####", None),
        ("seven", None),
        ("", None),
    ],
)
def test_final_answer(solution, answer):
    assert final_answer(solution) == answer


@pytest.mark.parametrize(
    ("prediction", "gold", "verdict"),
    [
        ("72", "72", Verdict.RIGHT),
        ("1,000", "1000", Verdict.RIGHT),
        ("$1000.00", "1000", Verdict.RIGHT),
        ("2000/2", "1000", Verdict.RIGHT),
        (".5", "0.5", Verdict.RIGHT),
        ("1,2", "12", Verdict.WRONG),
        ("-3", "3", Verdict.WRONG),
        (".", "0", Verdict.WRONG),
        ("0.3333", "1/3", Verdict.WRONG),
        ("x + 1", "x+1", Verdict.RIGHT),
        ("__import__('os').system('true')", "0", Verdict.WRONG),
        ("9" * 5000, "9", Verdict.WRONG),
        ("1/0", "1", Verdict.WRONG),
        (None, "3", Verdict.WRONG),
        ("3", " ", Verdict.CHECKER_ERROR),
    ],
)
def test_grade(prediction, gold, verdict):
    assert grade(prediction, gold) is verdict


def test_every_gsm8k_solution_is_right_by_its_own_answer(data_dir):
    with (data_dir / "benchmarks/gsm8k/train.jsonl").open() as lines:
        answers = [json.loads(line)["answer"] for line in lines]
    assert len(answers) == 7473
    assert all(grade_solution(a, a) is Verdict.RIGHT for a in answers)
    assert all(grade_solution(a + "1", a) is Verdict.WRONG for a in answers)
