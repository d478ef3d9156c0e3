"""Reading examples: JSONL files with named fields, and the project's own word problems."""

from __future__ import annotations

import json
import logging
import pathlib
from collections.abc import Iterator
from typing import Any

from ml_collections import ConfigDict

from dsmath_jax.data.errors import InputError
from dsmath_jax.data.word_problems import generate

log = logging.getLogger(__name__)

Example = dict[str, str]


def load_examples(config: ConfigDict, split: str, workdir: pathlib.Path) -> list[Example]:
    """The examples of a split ("train" or "heldout"), as {"question", "solution", "answer"}, or
    {"text"} where `config.text_field` is set.

    `config.path` names a JSONL file (held-out: `config.heldout_path`); without one, word problems
    are generated. Bad lines go to `workdir`/rejected_SPLIT.jsonl.

    Raises:
      InputError: the file is missing, empty, or has too many bad lines.
    """
    path = config.path if split == "train" else config.heldout_path
    if not config.path:
        problems = generate(
            config.num_examples if split == "train" else config.num_heldout,
            split=split,
            seed=config.seed if split == "train" else 0,
            chain_share=config.chain_share,
        )
        return [
            {"question": p.question, "solution": p.solution, "answer": p.answer} for p in problems
        ]
    if not path:
        return []
    if config.text_field:
        fields = {"text": config.text_field}
    else:
        fields = {
            "question": config.question_field,
            "solution": config.solution_field,
            "answer": config.answer_field or config.solution_field,
        }
    rejected = workdir / f"rejected_{split}.jsonl"
    name = "path" if split == "train" else "heldout_path"
    examples = list(read_jsonl(path, fields, config.max_rejected_share, rejected, name))
    if split == "heldout":
        examples = examples[: config.num_heldout]
    return examples


def read_jsonl(
    path: str,
    fields: dict[str, str],
    max_rejected_share: float,
    rejected: pathlib.Path | None,
    field: str = "path",
) -> Iterator[Example]:
    """Yields {name: value of the field} for each line.

    A line that is not a JSON object or lacks a field is counted and written, with its reason, to
    `rejected`; past `max_rejected_share` of the lines the file is refused.
    """
    file = pathlib.Path(path)
    if not file.is_file():
        raise InputError(f"{path} does not exist: set config.data.{field} to a JSONL file")
    bad: list[dict[str, Any]] = []
    total = 0
    with file.open(encoding="utf-8", errors="replace") as lines:
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            total += 1
            try:
                yield _pick(json.loads(line), fields)
            except (ValueError, KeyError, TypeError, RecursionError) as e:
                reason = e.msg if isinstance(e, json.JSONDecodeError) else str(e.args[0])
                bad.append({"file": path, "line": number, "reason": reason})
    if rejected is not None and bad:
        rejected.parent.mkdir(parents=True, exist_ok=True)
        rejected.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in bad))
    if bad:
        log.warning("%s: %d of %d lines are bad; see %s", path, len(bad), total, rejected or "them")
    if total == 0:
        raise InputError(f"{path} holds no examples")
    if len(bad) > max_rejected_share * total:
        raise InputError(
            f"{path} line {bad[0]['line']}: {bad[0]['reason']}; {len(bad)} of {total} lines are "
            f"bad, more than config.data.max_rejected_share={max_rejected_share:g} allows"
        )


def _pick(record: Any, fields: dict[str, str]) -> Example:
    if not isinstance(record, dict):
        raise TypeError("the line is not a JSON object")
    picked = {}
    for name, field in fields.items():
        if field not in record:
            present = ", ".join(map(str, record)) or "none"
            raise KeyError(f"there is no field {field!r} (fields here: {present})")
        if not isinstance(record[field], str | int | float):
            raise TypeError(f"field {field!r} is not text")
        picked[name] = str(record[field])
        if any("\ud800" <= c <= "\udfff" for c in picked[name]):
            raise ValueError(f"field {field!r} holds half of a surrogate pair, which is no text")
    return picked
