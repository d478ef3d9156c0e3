"""The texts of evaluation benchmarks, from their own files: questions, options, worked solutions.

Benchmarks name their fields as they like. A record's strings are all taken but those that describe
it (`_ABOUT`); which of them ask something (`_QUESTIONS`) and which are lists to choose from
(`_OPTIONS`) goes by the field's name.
"""

from __future__ import annotations

import gzip
import json
import os
import pathlib
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from dsmath_jax.data.errors import InputError

_QUESTIONS = {"question", "problem", "prompt", "text", "input", "content", "passage", "query"}
_QUESTIONS |= {"instruction", "stem", "statement", "informal_statement", "formal_statement"}
_OPTIONS = {"options", "choices"}
_ANSWERS = {"answer", "answers", "target", "golden", "final_answer", "ground_truth"} | _OPTIONS
_ABOUT = {"id", "task_id", "index", "uid", "name", "problem_name", "entry_point", "header", "role"}
_ABOUT |= {"subject", "topic", "category", "type", "level", "grade", "label", "labels", "split"}
_ABOUT |= {"source", "dataset", "url", "license", "language", "lang"}
_CALCULATOR = re.compile(r"<<[^<>]*>>")  # GSM8K's <<48/2=24>>, which pages that copy it leave out


@dataclass(frozen=True, slots=True)
class Item:
    """A text of a benchmark.

    benchmark: folder and name of its file, "gsm8k/test"; item: its line there, from 1; part: the
    field, "answer" or "messages.content"; question: the text asks something, and is not a solution.
    """

    benchmark: str
    item: str
    part: str
    text: str
    question: bool


def load(paths: Sequence[str | os.PathLike[str]]) -> list[Item]:
    """Every text of these benchmarks.

    Args:
      paths: .jsonl or .jsonl.gz files of one record a line, .txt files of one text, or folders in
        which these are looked for at any depth.

    Raises:
      InputError: a path does not exist or holds no such file, or a line is no JSON object.
    """
    items: list[Item] = []
    for path in _files(paths):
        name = f"{path.parent.name}/{path.name.split('.')[0]}"
        before = len(items)
        if path.suffix == ".txt":
            items.append(Item(name, "1", "text", path.read_text("utf-8", "replace"), True))
        else:
            for line, record in _records(path):
                items += [Item(name, str(line), *text) for text in _texts(record)]
        if len(items) == before:
            raise InputError(f"{path} holds no text: give benchmark files with text fields")
    return items


def _files(paths: Sequence[str | os.PathLike[str]]) -> list[pathlib.Path]:
    files: dict[pathlib.Path, None] = {}
    for given in map(pathlib.Path, paths):
        if given.is_dir():
            inside = sorted(p for p in given.rglob("*") if p.is_file() and _readable(p))
            if not inside:
                raise InputError(f"{given} holds no .jsonl, .jsonl.gz or .txt file of a benchmark")
            files |= dict.fromkeys(inside)
        elif not given.is_file():
            raise InputError(
                f"benchmark {given} does not exist: give the path of its file or folder"
            )
        elif not _readable(given):
            raise InputError(f"benchmark {given} is no .jsonl, .jsonl.gz or .txt file: convert it")
        else:
            files[given] = None
    return list(files)


def _readable(path: pathlib.Path) -> bool:
    return path.name.endswith((".jsonl", ".jsonl.gz", ".txt"))


def _records(path: pathlib.Path) -> Iterator[tuple[int, dict[str, Any]]]:
    with (gzip.open if path.suffix == ".gz" else open)(path, "rt", encoding="utf-8") as file:
        try:
            for line, text in enumerate(file, 1):
                if not text.strip():
                    continue
                record = json.loads(text)
                if not isinstance(record, dict):
                    raise InputError(f"benchmark {path}, line {line} is no JSON object")
                yield line, record
        except json.JSONDecodeError as e:
            raise InputError(f"benchmark {path}, line {line} is no JSON: {e.msg}") from e
        except (UnicodeDecodeError, EOFError, gzip.BadGzipFile) as e:
            raise InputError(f"benchmark {path} cannot be read: {e}") from e


def _texts(record: dict[str, Any]) -> Iterator[tuple[str, str, bool]]:
    """(part, text, whether it asks) of a record."""
    fields = list(_fields(record, ""))
    named = any(_leaf(part) in _QUESTIONS for part, _ in fields)
    question = ""
    for part, text in fields:
        leaf = _leaf(part)
        # Where no field is named as a question is, any that is no answer may be one.
        asks = leaf in _QUESTIONS if named else leaf not in _ANSWERS
        yield part, text, asks
        if _CALCULATOR.search(text):
            yield f"{part} without <<>>", _CALCULATOR.sub("", text), asks
        if asks and "." not in part:
            question = f"{question}\n{text}"
    for part, text in fields:
        if question and _leaf(part) in _OPTIONS:
            yield f"question and {part}", f"{question}\n{text}", True


def _fields(value: Any, part: str) -> Iterator[tuple[str, str]]:
    """The strings inside a value; a list of strings is one text of so many lines."""
    if isinstance(value, str):
        if value.strip():
            yield part, value
    elif isinstance(value, list):
        lines = [v for v in value if isinstance(v, str)]
        if lines:
            yield part, "\n".join(lines)
        for v in value:
            if isinstance(v, dict):
                yield from _fields(v, part)
    elif isinstance(value, dict):
        for name, v in value.items():
            if name.lower() not in _ABOUT:
                yield from _fields(v, f"{part}.{name}" if part else name)


def _leaf(part: str) -> str:
    return part.rpartition(".")[2].lower()
