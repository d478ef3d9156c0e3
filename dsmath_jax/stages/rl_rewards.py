"""Rewards by a rule, computed while other samples are still generated."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import jax
import numpy as np
from jax.experimental import multihost_utils

from dsmath_jax.data.tokenizers import Tokenizer
from dsmath_jax.rewards import Verdict, grade_solution

VERDICTS = (Verdict.WRONG, Verdict.RIGHT, Verdict.CHECKER_ERROR)  # by their number in arrays


class Grader:
    """Grades samples in a thread of its own, as they are handed over (`Sampler`'s on_sample).

    Args:
      golds: the known answer of each question.
      group: samples a question.
    """

    def __init__(self, tokenizer: Tokenizer, golds: Sequence[str], group: int):
        self.tokenizer, self.golds, self.group = tokenizer, golds, group
        self.thread = ThreadPoolExecutor(1, thread_name_prefix="rewards")
        self.pending: dict[tuple[int, int], Future[Verdict]] = {}

    def __call__(self, question: int, sample: int, ids: list[int]) -> None:
        self.pending[question, sample] = self.thread.submit(self._grade, question, ids)

    def _grade(self, question: int, ids: list[int]) -> Verdict:
        return grade_solution(self.tokenizer.decode(ids), self.golds[question])

    def verdicts(self) -> np.ndarray:
        """[questions, group] int8, indices of `VERDICTS`, when the last ones are there: each host
        grades its own samples, and all get all. All hosts call this in the same order."""
        grades = np.full((len(self.golds), self.group), -1, np.int8)
        for place, verdict in self.pending.items():
            grades[place] = VERDICTS.index(verdict.result())
        self.thread.shutdown()
        if jax.process_count() > 1:
            grades = np.asarray(multihost_utils.process_allgather(grades)).max(axis=0)
        assert grades.min() >= 0, "a sample was not handed over"
        return grades


def rewards_of(verdicts: np.ndarray) -> np.ndarray:
    """float32: 1 for a right answer, else 0."""
    return (verdicts == VERDICTS.index(Verdict.RIGHT)).astype(np.float32)


def checker_errors(verdicts: np.ndarray) -> int:
    """How often the checker itself failed."""
    return int((verdicts == VERDICTS.index(Verdict.CHECKER_ERROR)).sum())
