"""From `config.data` to documents: one source, a mixture of several, or generated word problems."""

from __future__ import annotations

import difflib
import pathlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from ml_collections import ConfigDict

from dsmath_jax.data.documents import Documents, Encoding, encode
from dsmath_jax.data.errors import InputError
from dsmath_jax.data.sources import (
    Example,
    Rejected,
    Source,
    check_rejected,
    open_source,
    read_chunk,
)
from dsmath_jax.data.token_cache import open_documents
from dsmath_jax.data.tokenizers import Tokenizer
from dsmath_jax.data.word_problems import generate

SINGLE = "data"  # name of the source where there is one
RECORD_FIELDS = ("text_field", "question_field", "solution_field")
MIXTURE_FIELDS = ("path", "weight", "heldout_path", *RECORD_FIELDS)
HELDOUT_FIELDS = ("path", *RECORD_FIELDS)


@dataclass(frozen=True)
class Part:
    """A source of the mixture and its weight; without files, examples in memory."""

    name: str
    weight: float
    source: Source | None
    examples: tuple[Example, ...] = ()


def open_parts(config: ConfigDict, split: str) -> list[Part]:
    """The sources of a split, "train" or "heldout" (where some or all may have none), and after
    those held out the sets of `config.heldout`.

    Args:
      config: `config.data` of a stage.

    Raises:
      InputError: a file is missing, or `config.mixture` or `config.heldout` has a field too many
        or too few.
    """
    if split == "heldout" and config.num_heldout < 1:
        return []
    parts = _trained_parts(config, split)
    return parts if split == "train" else [*parts, *_heldout_sets(config)]


def _heldout_sets(config: ConfigDict) -> Iterator[Part]:
    for name, entry in config.heldout.items():
        label = f"heldout.{name}"
        if name == SINGLE or name in config.mixture:
            raise InputError(f"config.data.{label} has the name of a source: give it another")
        _check_entry(label, entry, HELDOUT_FIELDS, ("path",))
        fields = _entry_fields(config, entry)
        source = open_source(entry.path, fields, name=f"{label}.path", split="heldout")
        yield Part(name, 1.0, source)


def _trained_parts(config: ConfigDict, split: str) -> list[Part]:
    if config.mixture:
        if config.path or config.heldout_path:
            raise InputError(
                "config.data.mixture and config.data.path (or heldout_path) are both set: put the "
                "path into the mixture, with its weight, or add --config.data.mixture={}"
            )
        return [p for name in config.mixture if (p := _mixture_part(config, name, split))]
    if not config.path:
        return [Part(SINGLE, 1.0, None, tuple(word_problems(config, split)))]
    field = "path" if split == "train" else "heldout_path"
    if not config[field]:
        return []
    source = open_source(config[field], wanted_fields(config), name=field, split=split)
    return [Part(SINGLE, 1.0, source)]


def _mixture_part(config: ConfigDict, name: str, split: str) -> Part | None:
    entry = config.mixture[name]
    label = f"mixture.{name}"
    _check_entry(label, entry, MIXTURE_FIELDS, ("path", "weight"))
    field = "path" if split == "train" else "heldout_path"
    if not entry.get(field):
        return None
    fields = _entry_fields(config, entry)
    source = open_source(entry[field], fields, name=f"{label}.{field}", split=split)
    return Part(name, entry.weight, source)


def _check_entry(label: str, entry: Any, known: Sequence[str], needed: Sequence[str]) -> None:
    if not isinstance(entry, ConfigDict):
        example = ", ".join(f'"{field}": ...' for field in needed)
        raise InputError(f"config.data.{label} is {entry!r}: make it {{{example}}}")
    for field in entry:
        if field not in known:
            nearest = difflib.get_close_matches(field, known, n=1, cutoff=0.0)[0]
            raise InputError(
                f"config.data.{label}.{field}: there is no such field; did you mean {nearest}?"
            )
    for field in needed:
        if not entry.get(field):
            raise InputError(f"config.data.{label}.{field} is missing: set it")


def _entry_fields(config: ConfigDict, entry: ConfigDict) -> dict[str, str]:
    """As `wanted_fields`, where the entry says so its own."""
    own = entry.to_dict()
    if "question_field" in own:
        own.setdefault("text_field", "")
    return wanted_fields(ConfigDict(config.to_dict() | own))


def wanted_fields(config: ConfigDict) -> dict[str, str]:
    """{name of an example's field: field of a record}."""
    if config.text_field:
        return {"text": config.text_field}
    return {"question": config.question_field, "solution": config.solution_field}


def word_problems(config: ConfigDict, split: str) -> Iterator[Example]:
    problems = generate(
        config.num_examples if split == "train" else config.num_heldout,
        split=split,
        seed=config.seed if split == "train" else 0,
        chain_share=config.chain_share,
    )
    for p in problems:
        yield {"question": p.question, "solution": p.solution, "answer": p.answer}


def first_examples(
    parts: Iterable[Part], config: ConfigDict, workdir: pathlib.Path
) -> Iterator[Example]:
    """The examples that can be read, in order, a chunk of each source at a time: to train a
    tokenizer on the first of them. Where there are none, bad records are listed as by
    `load_documents`.

    Raises:
      InputError: there are none.
    """
    counts: dict[str, Rejected] = {}
    chunks = {p.name: iter(p.source.chunks) for p in parts if p.source is not None}
    sources = {p.name: p.source for p in parts if p.source is not None}
    found = False
    for part in parts:
        found = found or bool(part.examples)
        yield from part.examples
    while chunks:
        for name in list(chunks):
            chunk = next(chunks[name], None)
            if chunk is None:
                del chunks[name]
                continue
            piece = read_chunk(chunk, sources[name].fields)
            path = None if found else left_out_file(workdir, "rejected", "train", name, config)
            counts.setdefault(name, Rejected(path)).add(chunk, piece)
            found = found or bool(piece.examples)
            yield from piece.examples
    if not found:
        for name, source in sources.items():
            count = counts.get(name, Rejected(None))
            count.close()
            allowed = config.max_rejected_share
            check_rejected(source.path, count.total, count.bad, count.first, allowed, count.path)


def left_out_file(
    workdir: pathlib.Path, why: str, split: str, name: str, config: ConfigDict
) -> pathlib.Path:
    """Where the examples of source `name` that are left out are listed: WHY_SPLIT.jsonl, of a
    mixture or a held-out set WHY_SPLIT_NAME.jsonl."""
    named = config.mixture or name != SINGLE
    return workdir / f"{why}_{split}{f'_{name}' if named else ''}.jsonl"


def load_documents(
    parts: Iterable[Part],
    config: ConfigDict,
    split: str,
    tokenizer: Tokenizer,
    encoding: Encoding,
    workdir: pathlib.Path,
) -> dict[str, Documents]:
    """The documents of each part, from the cache of tokens; of held-out data the first
    `config.num_heldout`. Bad records go to `workdir`/rejected_SPLIT.jsonl (of a mixture,
    rejected_SPLIT_NAME.jsonl).

    Raises:
      InputError: a source is empty or has too many bad records.
    """
    cache = pathlib.Path(config.cache) if config.cache else workdir.parent / "token_cache"
    documents = {}
    for part in parts:
        if part.source is None:
            documents[part.name] = encode(part.examples, tokenizer, encoding)
            continue
        opened = open_documents(
            part.source,
            tokenizer,
            encoding,
            cache,
            name=f"{part.name}_{split}",
            max_rejected_share=config.max_rejected_share,
            rejected=left_out_file(workdir, "rejected", split, part.name, config),
        )
        documents[part.name] = opened.head(config.num_heldout) if split == "heldout" else opened
    return documents
