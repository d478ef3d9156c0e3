"""Problems of a made-up benchmark, some of which are planted in pages of the generated web."""

from __future__ import annotations

import math
import random
from dataclasses import dataclass


@dataclass(frozen=True)
class Item:
    id: str
    language: str
    question: str
    answer: str
    planted: bool


def make_items(rng: random.Random, count: int) -> list[Item]:
    """Problems in English and Chinese, long ones and ones of a few words; half are planted."""
    items: list[Item] = []
    seen: set[str] = set()
    while len(items) < count:
        language = "zh" if len(items) % 5 in (1, 3) else "en"
        question, answer = (_chinese if language == "zh" else _english)(rng)
        if question in seen:
            continue
        seen.add(question)
        planted = len(items) // 5 % 2 == 0  # of both languages and all lengths
        items.append(Item(f"{language}-{len(items)}", language, question, answer, planted))
    return items


def _english(rng: random.Random) -> tuple[str, str]:
    a, b, c = rng.randint(21, 95), rng.randint(3, 19), rng.randint(2, 9)
    kind = rng.randrange(5)
    if kind == 0:
        return (
            f"A gardener raises {a} tulips in each of {b} greenhouses, and every evening for {c} "
            "weeks one tulip of each greenhouse wilts. What number of tulips is alive afterwards?",
            str(b * max(a - 7 * c, 0)),
        )
    if kind == 1:
        return (
            f"Two clocks chime together at noon; one chimes each {a} seconds, the other each {b} "
            "seconds. After what time, in seconds, do they chime together again?",
            str(math.lcm(a, b)),
        )
    if kind == 2:
        return (
            f"A rope of {a * b} metres is cut into {b} equal parts, of which {c} are burnt. Give "
            "the length in metres of all parts that remain, laid end to end.",
            str(a * b - a * min(b, c)),
        )
    if kind == 3:
        return f"Evaluate {a} squared minus {b} squared.", str(a * a - b * b)
    return f"Find gcd({a * c}, {b * c}).", str(math.gcd(a * c, b * c))


def _chinese(rng: random.Random) -> tuple[str, str]:
    a, b, c = rng.randint(21, 95), rng.randint(3, 19), rng.randint(2, 9)
    kind = rng.randrange(3)
    if kind == 0:
        return (
            f"果园里有{a}行桃树，每行{b}棵，今年又补种了{c}棵，同时移走了{b}棵，请问现在果园里一共有多少棵桃树？",
            str(a * b + c - b),
        )
    if kind == 1:
        return (
            f"甲乙两车从相距{(a + b) * c}千米的两地同时相向而行，甲车每小时行{a}千米，"
            f"乙车每小时行{b}千米，几小时后相遇？",
            str(c),
        )
    return f"求{a * c}与{b * c}的最大公约数。", str(math.gcd(a * c, b * c))
