"""The miner's loop (DeepSeekMath 2.1): train a classifier, score every page, take the best, remove
near-duplicates and benchmarks, see which domains they come from, have their URL groups annotated,
and begin again with a larger seed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from dsmath_jax.mining import domain_stage, growth, iteration, report, samples
from dsmath_jax.mining.run import Run

# In their order; each takes a run and the number of its iteration.
STAGES: dict[str, Callable[[Run, int], Any]] = {
    "train": iteration.train,
    "score": iteration.score_pages,
    "collect": iteration.collect,
    "extract": iteration.extract,
    "deduplicate": iteration.deduplicate,
    "decontaminate": iteration.decontaminate,
    "domains": domain_stage.find_domains,
    "samples": samples.samples,
    "annotate": growth.annotate,
    "grow": growth.grow,
}
WITHOUT_CLASSIFIER = ("score", "collect", "extract", "deduplicate", "decontaminate", "samples")


def run_stages(run: Run, names: Sequence[str], number: int) -> None:
    """These stages of an iteration, in the order given, and the report."""
    for name in names:
        STAGES[name](run, number)
        report.write_report(run, number)


def mine(run: Run) -> tuple[int, str]:
    """All iterations that can be done; the number of the last one, and why it is the last.

    It ends when hardly a page is taken that the iteration before had not taken, after
    `config.iterations`, or where a person is to annotate.
    """
    c = run.config
    if not c.classify:
        run_stages(run, WITHOUT_CLASSIFIER, 1)
        return 1, "every page was taken (config.classify=False)"
    for number in range(1, c.iterations + 1):
        run.say(f"iteration {number} of at most {c.iterations}")
        run_stages(run, [name for name in STAGES if name not in ("annotate", "grow")], number)
        overlap = run.notes(number)["decontaminate"].get("overlap", 0.0)
        if number > 1 and overlap >= c.stop_overlap:
            return number, f"{overlap:.1%} of its pages had been taken in the iteration before"
        if number == c.iterations:
            break
        counts = run.notes(number)["collect"]["counts"]
        if counts["taken"] == counts["unique"]:
            return number, "every page was taken: smaller budgets leave some to learn from"
        if not growth.annotate(run, number):
            return number, f"decide in {run.csv(number)}, and start the same command again"
        run_stages(run, ["grow"], number)
    return c.iterations, f"config.iterations={c.iterations}"
