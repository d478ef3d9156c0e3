"""Documents as token ids, in memory or memory-mapped, and how text becomes one."""

from __future__ import annotations

import hashlib
import json
import pathlib
import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from dsmath_jax.data.errors import InputError
from dsmath_jax.data.prompts import encode_example, get_prompt
from dsmath_jax.data.tokenizers import Tokenizer


@dataclass(frozen=True)
class Encoding:
    """How an example becomes tokens.

    prompt None: BOS, the text (or question, newline, solution), EOS; all of it is trained.
    Else: the prompt of that name with the question in it, the solution, EOS; trained from the
    solution on.

    Raises:
      InputError: there is no such prompt.
    """

    prompt: str | None = None

    def __post_init__(self) -> None:
        if self.prompt is not None:
            try:
                get_prompt(self.prompt)
            except ValueError as e:
                raise InputError(f"config.data.prompt={self.prompt!r}: {e}") from None

    def describe(self) -> list[Any]:
        """What the ids depend on, apart from the tokenizer."""
        if self.prompt is None:
            return ["document"]
        prompt = get_prompt(self.prompt)
        return ["example", prompt.name, prompt.version, prompt.text]


class Documents:
    """Token ids of many documents.

    Attributes:
      tokens: [tokens] unsigned, all ids in one row.
      offsets: [documents + 1] int64, where each begins.
      starts: [documents] int32, where each one's trained part begins; None: with its first token.
    """

    def __init__(self, tokens: np.ndarray, offsets: np.ndarray, starts: np.ndarray | None = None):
        self.tokens, self.offsets, self.starts = tokens, offsets, starts
        self._directory: pathlib.Path | None = None

    @classmethod
    def open(cls, directory: pathlib.Path, dtype: np.dtype) -> Documents:
        """Those of a token cache; the ids stay on disk until they are used."""
        path = directory / "tokens.bin"
        tokens = np.memmap(path, dtype, "r") if path.stat().st_size else np.zeros(0, dtype)
        starts = directory / "starts.npy"
        documents = cls(
            tokens,
            np.load(directory / "offsets.npy"),
            np.load(starts) if starts.exists() else None,
        )
        documents._directory = directory
        return documents

    def __reduce__(self) -> Any:
        # A memory map would travel to another process as a copy of the whole corpus.
        if self._directory is not None:
            return Documents.open, (self._directory, self.tokens.dtype)
        return Documents, (self.tokens, self.offsets, self.starts)

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def lengths(self) -> np.ndarray:
        return np.diff(self.offsets)

    def ids(self, index: int) -> np.ndarray:
        """Ids of one document."""
        return self.tokens[self.offsets[index] : self.offsets[index + 1]]

    def digest(self) -> str:
        """Of the ids, and of where documents and their trained parts begin."""
        if self._directory is not None:  # the ids stay on disk: their checksums are known
            meta = json.loads((self._directory / "meta.json").read_text())
            parts = [meta["blocks"], meta["checksums"]]
        else:
            arrays = (self.tokens, self.offsets, self.starts)
            parts = [zlib.crc32(np.ascontiguousarray(a).data) for a in arrays if a is not None]
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]

    def head(self, count: int) -> Documents:
        """The first `count` documents, in memory."""
        offsets = self.offsets[: count + 1].copy()
        starts = None if self.starts is None else self.starts[:count].copy()
        return Documents(np.array(self.tokens[: offsets[-1]]), offsets, starts)


def token_dtype(tokenizer: Tokenizer) -> np.dtype:
    return np.dtype(np.uint16 if tokenizer.vocab_size <= 1 << 16 else np.uint32)


def encode(
    examples: Iterable[dict[str, str]], tokenizer: Tokenizer, encoding: Encoding
) -> Documents:
    """Examples ({"text"} or {"question", "solution"}) as documents in memory."""
    pieces, lengths, starts = [], [], []
    for example in examples:
        if encoding.prompt is None:
            text = example["text"] if "text" in example else _worked(example)
            ids = [*tokenizer.encode(text, add_bos=True), tokenizer.eos_id]
        else:
            ids, start = encode_example(
                tokenizer, example["question"], example["solution"], encoding.prompt
            )
            starts.append(start)
        pieces.append(np.array(ids, token_dtype(tokenizer)))
        lengths.append(len(ids))
    tokens = np.concatenate(pieces) if pieces else np.zeros(0, token_dtype(tokenizer))
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    return Documents(tokens, offsets, np.array(starts, np.int32) if encoding.prompt else None)


def _worked(example: dict[str, str]) -> str:
    return f"{example['question']}\n{example['solution']}"
