"""Tokenizers behind one small interface: HF `tokenizers` files and sentencepiece models.

User text is hostile until the caller says otherwise: `encode(text)` never gives the id of a special
token, whatever the text contains. `allow_special=True` parses special tokens out of the text.
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Protocol

from dsmath_jax.data import sentencepiece_training, special_tokens

_META = "▁"  # sentencepiece writes a space as U+2581


class Tokenizer(Protocol):
    """What the rest of the project needs from a tokenizer.

    `pad_id` is `eos_id` when the checkpoint names no padding token: masks come from lengths, never
    from ids.
    """

    vocab_size: int
    bos_id: int | None
    eos_id: int
    pad_id: int

    def encode(
        self, text: str, *, add_bos: bool = False, allow_special: bool = False
    ) -> list[int]: ...

    def decode(self, ids: Iterable[int], *, skip_special: bool = True) -> str: ...

    def save(self, directory: str | os.PathLike[str]) -> None: ...

    def fingerprint(self) -> str:
        """The same for tokenizers that give the same ids: a hash of the file's content."""
        ...


def load_tokenizer(path: str | os.PathLike[str]) -> HFTokenizer | SentencePieceTokenizer:
    """Loads a checkpoint directory (tokenizer.json first, then tokenizer.model) or one file."""
    path = Path(path)
    if path.is_dir():
        for name in ("tokenizer.json", "tokenizer.model"):
            if (path / name).is_file():
                return load_tokenizer(path / name)
        raise FileNotFoundError(
            f"{path} has no tokenizer.json and no tokenizer.model: copy one from the checkpoint."
        )
    if not path.is_file():
        raise FileNotFoundError(
            f"{path} does not exist: give a checkpoint directory, tokenizer.json or .model file."
        )
    if path.suffix == ".json":
        return HFTokenizer(path)
    if path.suffix == ".model":
        return SentencePieceTokenizer(path)
    raise ValueError(f"{path} is neither a tokenizer.json nor a .model file: name one of these.")


class HFTokenizer:
    """A tokenizer.json, with BOS, EOS and padding as the files beside it name them.

    Where generation_config.json lists several end tokens and the tokenizer's own files name none,
    `eos_id` is the first of the list.
    """

    vocab_size: int
    bos_id: int | None
    eos_id: int
    pad_id: int

    def __init__(self, path: str | os.PathLike[str]):
        self._path = path = Path(path)
        self._text = path.read_text(encoding="utf-8")
        spec = special_tokens.parse_json(path, self._text)
        try:
            added: dict[str, int] = {t["content"]: t["id"] for t in spec["added_tokens"]}
            self._vocab = {**special_tokens.model_vocab(spec), **added}
            declared = {t["content"] for t in spec["added_tokens"] if t["special"]}
        except (KeyError, TypeError) as e:
            raise ValueError(f"{path} is not a tokenizer.json ({e!r}): copy it again.") from e
        self.vocab_size = max(self._vocab.values()) + 1

        ids, self._config = special_tokens.named_ids(path.parent, self._vocab)
        self.bos_id = ids["bos"]
        eos = ids["eos"]
        if eos is None:
            raise ValueError(
                f"{path} has no end-of-sequence token: put a tokenizer_config.json with an "
                f'"eos_token" beside it.'
            )
        self.eos_id = eos
        self.pad_id = eos if ids["pad"] is None else ids["pad"]

        named = {self.bos_id, self.eos_id, self.pad_id}
        self._special = {
            t: i
            for t, i in self._vocab.items()
            if t in declared or i in named or (t in added and special_tokens.MARKER.fullmatch(t))
        }
        self._special_ids = frozenset(self._special.values())
        self._bytes = special_tokens.byte_table(spec, self._vocab, added)
        _ = self._plain  # a damaged file fails here, not at the first text

    # Two objects, since `encode_special_tokens` is a switch on the object, not on the call:
    # flipping it would let one thread's choice leak into another's text.
    @functools.cached_property
    def _plain(self) -> Any:
        spec = special_tokens.parse_json(self._path, self._text)
        tokenizer = _build(self._path, special_tokens.harden(spec, self._special))
        tokenizer.encode_special_tokens = True
        return tokenizer

    @functools.cached_property
    def _parsing(self) -> Any:
        return _build(self._path, self._text)

    def __getstate__(self) -> dict[str, Any]:
        # The library pickles a tokenizer without its switch: a worker would parse special tokens.
        return {k: v for k, v in self.__dict__.items() if k not in ("_plain", "_parsing")}

    def fingerprint(self) -> str:
        return _fingerprint(self._text.encode(), (self.bos_id, self.eos_id))

    def encode(self, text: str, *, add_bos: bool = False, allow_special: bool = False) -> list[int]:
        """Ids of `text`; `add_bos` puts BOS first where the checkpoint has one."""
        tokenizer = self._parsing if allow_special else self._plain
        ids = tokenizer.encode(_check_text(text), add_special_tokens=False).ids
        return [self.bos_id, *ids] if add_bos and self.bos_id is not None else ids

    def decode(self, ids: Iterable[int], *, skip_special: bool = True) -> str:
        """Text of `ids`; ids outside the vocabulary (padded embedding rows) give nothing."""
        ids = [int(i) for i in ids]
        if skip_special:
            ids = [i for i in ids if i not in self._special_ids]
        if self._bytes is None:
            return self._plain.decode(ids, skip_special_tokens=False)
        return b"".join(self._bytes.get(i, b"") for i in ids).decode("utf-8", errors="replace")

    def save(self, directory: str | os.PathLike[str]) -> None:
        """Writes tokenizer.json unchanged and a tokenizer_config.json that names all three ids."""
        directory = Path(directory)
        names = {i: t for t, i in self._vocab.items()}
        config = {"tokenizer_class": "PreTrainedTokenizerFast", **self._config}
        config["bos_token"] = None if self.bos_id is None else names[self.bos_id]
        config["eos_token"] = names[self.eos_id]
        config["pad_token"] = names[self.pad_id]
        text = json.dumps(config, ensure_ascii=False, indent=2) + "\n"
        _write(directory / "tokenizer_config.json", text.encode())
        _write(directory / "tokenizer.json", self._text.encode())


class SentencePieceTokenizer:
    """A sentencepiece .model file; control pieces are its special tokens."""

    vocab_size: int
    bos_id: int | None
    eos_id: int
    pad_id: int

    def __init__(self, path: str | os.PathLike[str]):
        import sentencepiece

        path = Path(path)
        self._proto = path.read_bytes()
        if not self._proto:
            raise ValueError(f"{path} is empty: copy it again.")
        try:
            self._sp = sentencepiece.SentencePieceProcessor(
                model_proto=special_tokens.markers_as_control(self._proto)
            )
            self.vocab_size = self._sp.get_piece_size()
        except (RuntimeError, IndexError) as e:
            raise ValueError(f"{path} is not a sentencepiece model: copy it again.") from e
        sp = self._sp
        if sp.eos_id() < 0:
            raise ValueError(f"{path} has no end-of-sequence piece: train it with one.")
        self.bos_id = sp.bos_id() if sp.bos_id() >= 0 else None
        self.eos_id = sp.eos_id()
        self.pad_id = sp.pad_id() if sp.pad_id() >= 0 else sp.eos_id()
        self._special = {sp.id_to_piece(i): i for i in range(self.vocab_size) if sp.is_control(i)}
        self._special_ids = frozenset(self._special.values())
        # A written U+2581 would come back as a space. Spelled in bytes it survives, except in
        # models that put a space before every piece of text.
        self._meta: list[int] = []
        if not sp.encode("a", out_type=str)[0].startswith(_META):
            ids = [sp.piece_to_id(f"<0x{byte:02X}>") for byte in _META.encode()]
            self._meta = ids if all(sp.is_byte(i) for i in ids) else []

    def fingerprint(self) -> str:
        return _fingerprint(self._proto, (self.bos_id, self.eos_id))

    def encode(self, text: str, *, add_bos: bool = False, allow_special: bool = False) -> list[int]:
        """Ids of `text`; `add_bos` puts BOS first where the model has one."""
        ids = [self.bos_id] if add_bos and self.bos_id is not None else []
        if not allow_special or not self._special:
            return ids + self._encode_plain(_check_text(text))
        longest_first = sorted(self._special, key=len, reverse=True)
        for part in re.split(f"({'|'.join(map(re.escape, longest_first))})", _check_text(text)):
            ids += [self._special[part]] if part in self._special else self._encode_plain(part)
        return ids

    def _encode_plain(self, text: str) -> list[int]:
        if not self._meta or _META not in text:
            return self._sp.encode(text)
        first, *rest = text.split(_META)
        ids = self._sp.encode(first)
        for part in rest:
            ids += self._meta + self._sp.encode(part)
        return ids

    def decode(self, ids: Iterable[int], *, skip_special: bool = True) -> str:
        """Text of `ids`; ids outside the vocabulary (padded embedding rows) give nothing."""
        out, run = [], []
        for i in [i for i in map(int, ids) if 0 <= i < self.vocab_size]:
            if i not in self._special_ids:
                run.append(i)
            elif not skip_special:
                out += [self._sp.decode(run), self._sp.id_to_piece(i)]
                run = []
        return "".join([*out, self._sp.decode(run)])

    def save(self, directory: str | os.PathLike[str]) -> None:
        """Writes tokenizer.model."""
        directory = Path(directory)
        _refuse_beside_json(directory)
        _write(directory / "tokenizer.model", self._proto)


def train_sentencepiece(
    texts: Iterable[str],
    directory: str | os.PathLike[str],
    *,
    vocab_size: int,
    model_type: str = "bpe",
    user_symbols: Sequence[str] = (),
) -> SentencePieceTokenizer:
    """Trains a small lossless tokenizer and writes directory/tokenizer.model.

    Same texts, same bytes. Digits stand alone, nothing is normalised, characters without a piece
    are spelled in bytes, so that decode(encode(x)) == x. Ids: <pad> 0, <unk> 1, <s> 2, </s> 3, then
    `user_symbols`, then the 256 bytes.

    Args:
      vocab_size: the size to reach; text that does not support it gives a smaller vocabulary.
      model_type: "bpe" or "unigram".
      user_symbols: special tokens of the caller's own. Like <s>, they are found in text only with
        allow_special=True.
    """
    directory = Path(directory)
    _refuse_beside_json(directory)
    if model_type not in ("bpe", "unigram"):
        raise ValueError(f'model_type is {model_type!r}: use "bpe" or "unigram".')
    reserved = ["<pad>", "<unk>", "<s>", "</s>", *user_symbols]
    if len(set(reserved)) < len(reserved) or "" in reserved:
        raise ValueError(f"user_symbols {list(user_symbols)} has an empty, repeated or taken name.")
    model = sentencepiece_training.train(
        texts, vocab_size=vocab_size, model_type=model_type, reserved=reserved
    )
    _write(directory / "tokenizer.model", model)
    return SentencePieceTokenizer(directory / "tokenizer.model")


def _build(path: Path, text: str) -> Any:
    import tokenizers

    try:
        tokenizer = tokenizers.Tokenizer.from_str(text)
    except Exception as e:  # the library raises bare Exception
        raise ValueError(f"{path} is not a tokenizer.json ({e}): copy it again.") from e
    tokenizer.no_truncation()  # a tokenizer.json may carry both, and would cut or pad silently
    tokenizer.no_padding()
    return tokenizer


def _fingerprint(content: bytes, ids: tuple[int | None, int]) -> str:
    return hashlib.sha256(content + repr(ids).encode()).hexdigest()


def _check_text(text: str) -> str:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as e:
        raise ValueError(
            f"The text has a lone surrogate (half a UTF-16 character) at position {e.start}: "
            "decode its source as UTF-8 or drop the record."
        ) from e
    return text


def _refuse_beside_json(directory: Path) -> None:
    if (directory / "tokenizer.json").exists():
        raise ValueError(
            f"{directory} has a tokenizer.json, which would be loaded first: use another directory."
        )


def _write(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        beside.write_bytes(data)
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)
