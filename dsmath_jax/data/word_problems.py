"""A generator of arithmetic word problems with worked solutions, for runs that need no downloads.

Each problem comes from a template and its numbers, and a hash of the two puts it in the train or the
held-out split: the splits never share a problem, whatever names and things it is told about.

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
    """`text` and `steps` share slots; a step is (left, operation, right) of slots, numbers or earlier
    results "r1", "r2", ...; `slots` gives each slot's least and greatest value."""

    text: str
    slots: dict[str, tuple[int, int]]
    steps: tuple[tuple[str, str, str], ...]


TEMPLATES = (
    Template(
        "{name} has {a} {things} and buys {b} bags of {c} {things}. How many {things} now?",
        {"a": (2, 20), "b": (2, 5), "c": (2, 9)},
        (("b", "*", "c"), ("a", "+", "r1")),
    ),
    Template(
        "{name} has {a} {things}, finds {b} and loses {c}. How many {things} are left?",
        {"a": (5, 30), "b": (2, 20), "c": (2, 9)},
        (("a", "+", "b"), ("r1", "-", "c")),
    ),
    Template(
        "{name} packs {a} boxes of {b} {things} and gives away {c}. How many {things} are left?",
        {"a": (2, 5), "b": (3, 9), "c": (2, 9)},
        (("a", "*", "b"), ("r1", "-", "c")),
    ),
    Template(
        "{name} has {a} {things}. {other} has {b} more than {name}. How many do both have?",
        {"a": (3, 25), "b": (2, 9)},
        (("a", "+", "b"), ("a", "+", "r1")),
    ),
    Template(
        "{name} has {a} coins and buys {b} pens for {c} each and a bag for {d}. "
        "How many coins are left?",
        {"a": (40, 60), "b": (2, 5), "c": (2, 6), "d": (2, 9)},
        (("b", "*", "c"), ("r1", "+", "d"), ("a", "-", "r2")),
    ),
    Template(
        "{name} makes {a} {things} a day for {b} days and sells {c}. {other} adds {d}. "
        "How many {things} now?",
        {"a": (3, 9), "b": (2, 5), "c": (2, 9), "d": (2, 9)},
        (("a", "*", "b"), ("r1", "-", "c"), ("r2", "+", "d")),
    ),
    Template(
        "{name} fills {a} boxes of {b} {things}, {other} {c} boxes of {d}. {e} {things} are lost. "
        "How many are left?",
        {"a": (2, 4), "b": (3, 8), "c": (2, 4), "d": (3, 8), "e": (2, 6)},
        (("a", "*", "b"), ("c", "*", "d"), ("r1", "+", "r2"), ("r3", "-", "e")),
    ),
    Template(
        "{name} has {a} {things}, buys {b}, gives {c} to {other}, finds {d} and loses {e}. "
        "How many {things} now?",
        {"a": (10, 30), "b": (2, 20), "c": (2, 9), "d": (2, 9), "e": (2, 9)},
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
        name, other = rng.sample(NAMES, 2)
        words = {"name": name, "other": other, "things": rng.choice(THINGS)}
        chain = rng.random() < chain_share
        lines, result = _work(template, numbers, chain)
        wanted = is_heldout(index, tuple(numbers.values())) == (split == "heldout")
        if wanted and result is not None:
            count -= 1
            text = template.text.format(**numbers, **words)
            yield Problem(text, "\n".join([*lines, f"#### {result}"]), str(result))


def _work(
    template: Template, numbers: dict[str, int], chain: bool
) -> tuple[list[str], int | None]:
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
