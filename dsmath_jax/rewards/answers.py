"""Rule rewards: the final answer of a solution against the known one."""

from __future__ import annotations

import enum
import re
from fractions import Fraction

_NUMBER = re.compile(r"[-+]?\$?(\d{1,3}(,\d{3})+|\d*)(\.\d+|(?<=\d))(/\d+)?")
_LIMIT = 200  # characters of an answer worth reading


class Verdict(enum.Enum):
    """What a checker says; its own failures are counted apart from wrong answers."""

    RIGHT = "right"
    WRONG = "wrong"
    CHECKER_ERROR = "checker_error"


def final_answer(solution: str) -> str | None:
    """The answer after the last "####" (GSM8K), else in the last \\boxed{}, else None."""
    if "####" in solution:
        answer = solution.rsplit("####", 1)[1].strip()
        return answer.split("\n", 1)[0].strip() or None
    start = solution.rfind("\\boxed{")
    if start < 0:
        return None
    start += len("\\boxed{")
    depth = 1
    for end in range(start, len(solution)):
        depth += {"{": 1, "}": -1}.get(solution[end], 0)
        if depth == 0:
            return solution[start:end].strip() or None
    return None


def grade(prediction: str | None, gold: str) -> Verdict:
    """Compares two bare answers: as exact numbers where both are, else as text without spaces.

    "1,000", "$1000", "1000.0" and "2000/2" are equal; nothing is evaluated.
    """
    wanted = _number(gold)
    if wanted is None and not gold.strip():
        return Verdict.CHECKER_ERROR
    if prediction is None:
        return Verdict.WRONG
    found = _number(prediction)
    if wanted is not None and found is not None:
        return Verdict.RIGHT if wanted == found else Verdict.WRONG
    same = "".join(prediction.split()) == "".join(gold.split())
    return Verdict.RIGHT if same else Verdict.WRONG


def grade_solution(solution: str, gold: str) -> Verdict:
    """Grades a written solution's final answer; `gold` may be a solution, too ("... #### 72")."""
    return grade(final_answer(solution), final_answer(gold) or gold)


def _number(text: str) -> Fraction | None:
    text = text.strip().rstrip(".").removesuffix("%").strip()
    if len(text) > _LIMIT or not _NUMBER.fullmatch(text):
        return None
    try:
        return Fraction(text.replace(",", "").replace("$", ""))
    except (ValueError, ZeroDivisionError):
        return None
