"""A generator of arithmetic word problems with worked solutions, for runs that need no downloads.

Each problem comes from a template and its numbers, and a hash of the two puts it in the train or
the held-out split: the splits never share a problem, whatever names and things it is told about.

Worked solutions come in two styles, as from two annotators: "steps" writes one operation a line,
"chain" one expression and its value. A small model gets far more of the first right than of the
second, which leaves reinforcement learning something to find.
"""

from __future__ import annotations

import dataclasses
import random
import zlib
from collections.abc import Callable, Iterator

NAMES = ("Ann", "Ben", "Eva", "Kim", "Leo", "Max", "Mia", "Sam", "Tom", "Zoe")
THINGS = ("apples", "books", "cards", "coins", "eggs", "pens", "shells", "stamps")


@dataclasses.dataclass(frozen=True)
class Problem:
    question: str
    solution: str  # worked, ends with "#### answer"
    answer: str


@dataclasses.dataclass(frozen=True)
class Template:
    """`text` and `steps` share slots; a step is (left, operation, right) of slots, numbers or
    earlier results "r1", "r2", ...; `slots` gives each slot's least and greatest value."""

    text: str
    slots: dict[str, tuple[int, int]]
    steps: tuple[tuple[str, str, str], ...]


TEMPLATES = (
    Template(
        "{name} has {a} {things} and buys {b} bags of {c}. How many now?",
        {"a": (2, 12), "b": (2, 5), "c": (2, 6)},
        (("b", "*", "c"), ("r1", "+", "a")),
    ),
    Template(
        "{name} has {a} {things}, finds {b} and loses {c}. How many are left?",
        {"a": (2, 20), "b": (2, 9), "c": (2, 9)},
        (("a", "+", "b"), ("r1", "-", "c")),
    ),
    Template(
        "{name} packs {a} boxes of {b} {things} and sells {c}. How many are left?",
        {"a": (2, 5), "b": (2, 6), "c": (2, 9)},
        (("a", "*", "b"), ("r1", "-", "c")),
    ),
    Template(
        "{name} has {a} {things}. {other} has {b} more. {third} has {c}. How many in all?",
        {"a": (2, 12), "b": (2, 9), "c": (2, 9)},
        (("a", "+", "b"), ("r1", "+", "a"), ("r2", "+", "c")),
    ),
    Template(
        "{name} buys {a} pens for {b} each and a bag for {c}, and pays with {d}. "
        "How much is the change?",
        {"a": (2, 5), "b": (2, 6), "c": (2, 9), "d": (40, 40)},
        (("a", "*", "b"), ("r1", "+", "c"), ("d", "-", "r2")),
    ),
    Template(
        "{name} makes {a} {things} a day for {b} days, sells {c} and finds {d}. How many now?",
        {"a": (2, 6), "b": (2, 5), "c": (2, 9), "d": (2, 9)},
        (("b", "*", "a"), ("r1", "-", "c"), ("r2", "+", "d")),
    ),
    Template(
        "{name} fills {a} boxes of {b} {things}, {other} loses {c} and {third} adds {d} and {e}. "
        "How many now?",
        {"a": (2, 5), "b": (2, 6), "c": (2, 9), "d": (2, 9), "e": (2, 9)},
        (("a", "*", "b"), ("r1", "-", "c"), ("r2", "+", "d"), ("r3", "+", "e")),
    ),
    Template(
        "{name} has {a} {things}, buys {b}, gives away {c}, finds {d} and loses {e}. How many now?",
        {"a": (2, 12), "b": (2, 9), "c": (2, 9), "d": (2, 9), "e": (2, 9)},
        (("a", "+", "b"), ("r1", "-", "c"), ("r2", "+", "d"), ("r3", "-", "e")),
    ),
)

OPERATIONS: dict[str, Callable[[int, int], int]] = {
    "+": lambda x, y: x + y,
    "-": lambda x, y: x - y,
    "*": lambda x, y: x * y,
}


def is_heldout(template: int, numbers: tuple[int, ...]) -> bool:
    """One problem in eight is held out, by a hash of the template and its numbers."""
    return zlib.crc32(repr((template, numbers)).encode()) % 8 == 0


def generate(
    count: int, *, split: str = "train", seed: int = 0, chain_share: float = 0.0
) -> Iterator[Problem]:
    """Yields `count` problems of a split ("train" or "heldout"), different for each seed.

    Args:
      chain_share: share of solutions in the "chain" style.
    """
    if split not in ("train", "heldout"):
        raise ValueError(f"split {split!r} is unknown; choose 'train' or 'heldout'")
    rng = random.Random(f"{split}-{seed}")
    while count:
        index = rng.randrange(len(TEMPLATES))
        template = TEMPLATES[index]
        numbers = {slot: rng.randint(low, high) for slot, (low, high) in template.slots.items()}
        words = dict(zip(("name", "other", "third"), rng.sample(NAMES, 3), strict=True))
        words["things"] = rng.choice(THINGS)
        chain = rng.random() < chain_share
        lines, result = _work(template, numbers, chain)
        wanted = is_heldout(index, tuple(numbers.values())) == (split == "heldout")
        if wanted and result is not None:
            count -= 1
            text = template.text.format(**numbers, **words)
            yield Problem(text, "\n".join([*lines, f"#### {result}"]), str(result))


def _work(template: Template, numbers: dict[str, int], chain: bool) -> tuple[list[str], int | None]:
    """The solution's lines and its result; no result when something on the way falls below 0."""
    values = numbers | {str(n): n for n in range(10)}
    expressions = {slot: str(value) for slot, value in values.items()}
    lines: list[str] = []
    result = 0
    for i, (left, operation, right) in enumerate(template.steps, 1):
        result = OPERATIONS[operation](values[left], values[right])
        if result < 0:
            return [], None
        lines.append(f"{values[left]}{operation}{values[right]}={result}")
        behind = expressions[right]
        if operation == "-" and not behind.isdigit():
            behind = f"({behind})"
        values[f"r{i}"] = result
        expressions[f"r{i}"] = f"{expressions[left]}{operation}{behind}"
    if chain:
        lines = [f"{expressions[f'r{len(lines)}']}={result}"]
    return lines, result
