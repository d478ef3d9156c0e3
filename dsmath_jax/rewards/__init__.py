"""Answer checking."""

from dsmath_jax.rewards.answers import Verdict, final_answer, grade, grade_solution

__all__ = ["Verdict", "final_answer", "grade", "grade_solution"]
