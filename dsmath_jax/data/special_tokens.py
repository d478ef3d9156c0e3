"""Which tokens of a tokenizer's files are special, and how text is kept from forging them."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

# Where a checkpoint names its special tokens, first hit wins.
_SIDECARS = (
    "tokenizer_config.json",
    "special_tokens_map.json",
    "generation_config.json",
    "config.json",
)
_KNOWN_NAMES: dict[str, tuple[str, ...]] = {
    "bos": ("<｜begin▁of▁sentence｜>", "<s>"),
    "eos": ("<｜end▁of▁sentence｜>", "</s>"),
    "pad": (),
}
# Chat markers that some tokenizers declare as ordinary added tokens (DeepSeek-Coder's
# <｜fim▁hole｜>, Gemma's <start_of_turn>). Text must not forge these either.
MARKER = re.compile(r"<[|｜].*[|｜]>|</?s>|<(?:start|end|begin|bos|eos|pad)[^<>]*>|\[/?[A-Z_]+\]")


def parse_json(path: Path, text: str) -> dict[str, Any]:
    """The JSON object in `text`, or a ValueError that names the file it came from."""
    try:
        value = json.loads(text)
    except ValueError as e:
        raise ValueError(f"{path} is not valid JSON ({e}): copy it again.") from e
    if not isinstance(value, dict):
        raise ValueError(f"{path} must hold a JSON object, not a {type(value).__name__}.")
    return value


def model_vocab(spec: dict[str, Any]) -> dict[str, int]:
    """Token -> id of a tokenizer.json's model, added tokens aside."""
    vocab = spec["model"]["vocab"]
    return dict(vocab) if isinstance(vocab, dict) else {t: i for i, (t, _) in enumerate(vocab)}


def named_ids(
    directory: Path, vocab: dict[str, int]
) -> tuple[dict[str, int | None], dict[str, Any]]:
    """Ids of "bos", "eos" and "pad" by the files in `directory`, and its tokenizer_config.json.

    tokenizer_config.json comes before special_tokens_map.json, generation_config.json and
    config.json. An explicit `"bos_token": null` in it is final: Qwen2 wants no BOS although its
    config.json has one. Where nothing names a token, DeepSeek's and Llama's names are tried.
    """
    files = {}
    for name in _SIDECARS:
        path = directory / name
        text = path.read_text(encoding="utf-8") if path.is_file() else "{}"
        files[name] = parse_json(path, text)
    config = files["tokenizer_config.json"]
    ids: dict[str, int | None] = {}
    for role, known in _KNOWN_NAMES.items():
        ids[role] = None
        if role == "bos" and config.get("bos_token", "") is None:
            continue
        for name, content in files.items():
            found = _named_in(directory / name, content, role, vocab)
            if found is not None:
                ids[role] = found
                break
        else:
            ids[role] = next((vocab[t] for t in known if t in vocab), None)
    return ids, config


def _named_in(path: Path, content: dict[str, Any], role: str, vocab: dict[str, int]) -> int | None:
    token = content.get(f"{role}_token")
    if isinstance(token, dict):
        token = token.get("content")
    if token is not None:
        if token not in vocab:
            raise ValueError(
                f"{path} names {token!r} as {role}_token, which tokenizer.json does not have: "
                "correct one of the two files."
            )
        return vocab[token]
    i = content.get(f"{role}_token_id")
    if isinstance(i, list):
        i = i[0] if i else None
    if i is None or i < 0:  # old Llama configs write -1 for "none"
        return None
    if i not in vocab.values():
        raise ValueError(
            f"{path} gives {role}_token_id {i}, which tokenizer.json does not have: "
            "correct one of the two files."
        )
    return i


def harden(spec: dict[str, Any], special: dict[str, int]) -> str:
    """The tokenizer.json for text in which nothing can give an id of `special`.

    For use with `encode_special_tokens`, which makes added tokens that are declared special plain
    text. Two gaps are closed here: special tokens declared as ordinary ones, and those in the
    model's own vocabulary, which merges can reach unless the text is split inside them.
    """
    spec = dict(spec)
    spec["added_tokens"] = [
        {**t, "special": t["special"] or t["content"] in special} for t in spec["added_tokens"]
    ]
    reachable = sorted(t for t in special if len(t) > 1 and t in model_vocab(spec))
    if reachable:
        inside = "|".join(f"{re.escape(t[0])}(?={re.escape(t[1:])})" for t in reachable)
        split = {
            "type": "Split",
            "pattern": {"Regex": inside},
            "behavior": "Isolated",
            "invert": False,
        }
        after = [spec["pre_tokenizer"]] if spec.get("pre_tokenizer") else []
        spec["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": [split, *after]}
    return json.dumps(spec, ensure_ascii=False)


def byte_table(
    spec: dict[str, Any], vocab: dict[str, int], added: dict[str, int]
) -> dict[int, bytes] | None:
    """Id -> bytes of a byte-level tokenizer, None for another kind.

    The library's decoder reads DeepSeek's added tokens (ø, ö, ÷ ...) as byte symbols and gives
    U+FFFD for them; here an added token stands for its own text.
    """
    decoder = spec.get("decoder") or {}
    if "ByteLevel" not in [d.get("type") for d in [decoder, *decoder.get("decoders", ())]]:
        return None
    # GPT-2's alphabet: printable bytes stand for themselves, the others for U+0100 and up.
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    hidden = [b for b in range(256) if b not in printable]
    byte_of = {chr(b): b for b in printable} | {chr(256 + n): b for n, b in enumerate(hidden)}
    table = {}
    for token, i in vocab.items():
        spelled = token not in added and all(c in byte_of for c in token)
        table[i] = bytes(byte_of[c] for c in token) if spelled else token.encode()
    return table


def markers_as_control(proto: bytes) -> bytes:
    """The sentencepiece model with user-defined chat markers made control pieces.

    sentencepiece finds user-defined pieces in any text and control pieces in none. Only the
    one-byte `type` changes (ModelProto: pieces = 1; SentencePiece: piece = 1, score = 2, type = 3).
    """
    user_defined, control = b"\x18\x04", b"\x18\x03"
    out, at = bytearray(proto), 0
    while at < len(proto) and proto[at] == 0x0A:
        size, start = _varint(proto, at + 1)
        at = start + size
        name_size, name_at = _varint(proto, start + 1)
        name = proto[name_at : name_at + name_size].decode("utf-8", errors="replace")
        if proto[at - 2 : at] == user_defined and MARKER.fullmatch(name):
            out[at - 2 : at] = control
    return bytes(out)


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        value |= (data[at] & 0x7F) << shift
        shift += 7
        at += 1
        if data[at - 1] < 0x80:
            return value, at
