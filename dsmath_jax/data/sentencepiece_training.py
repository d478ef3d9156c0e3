"""Training of small lossless sentencepiece models, for `tokenizers.train_sentencepiece`."""

from __future__ import annotations

import io
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence

_COVERAGE = 0.9995  # share of the text whose characters get a piece; the rest is spelled in bytes
# A space (which sentencepiece writes as U+2581) and the digits always get a piece: without one, a
# space would be spelled as the bytes of U+2581 and come back as that.
_ALWAYS = " 0123456789"
# Means something to the trainer, or must not become part of a longer piece: spelled in bytes.
_NEVER = "\n\t\0\u2581\u2585"


def train(
    texts: Iterable[str], *, vocab_size: int, model_type: str, reserved: Sequence[str]
) -> bytes:
    """The bytes of a model whose first pieces are `reserved`: pad, unknown, BOS, EOS, others."""
    import sentencepiece

    room = vocab_size - len(reserved) - 256 - len(_ALWAYS)
    if room < 1:
        raise ValueError(
            f"vocab_size is {vocab_size}: it must be at least {vocab_size - room + 1}."
        )
    lines = list(_lines(texts, max_characters=(room + 1) // 2))
    if not lines:
        raise ValueError("The texts to train a tokenizer on are empty: give some.")
    pad, unk, bos, eos, *others = reserved

    def run(model_type: str) -> bytes:
        model = io.BytesIO()
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(lines),
            model_writer=model,
            vocab_size=vocab_size,
            hard_vocab_limit=False,
            model_type=model_type,
            control_symbols=others,
            required_chars=_ALWAYS.replace(" ", "\u2581"),
            character_coverage=1.0,
            byte_fallback=True,
            split_digits=True,
            normalization_rule_name="identity",
            add_dummy_prefix=False,
            remove_extra_whitespaces=False,
            pad_id=0,
            unk_id=1,
            bos_id=2,
            eos_id=3,
            pad_piece=pad,
            unk_piece=unk,
            bos_piece=bos,
            eos_piece=eos,
            num_threads=1,
            minloglevel=2,
        )
        return model.getvalue()

    try:
        return run(model_type)
    except RuntimeError as e:
        # Unigram needs two characters that recur together; without any, BPE gives the characters.
        if "seed_sentencepieces" in str(e):
            return run("bpe")
        raise ValueError(f"sentencepiece could not train on these texts: {e}") from e


def _lines(texts: Iterable[str], max_characters: int) -> Iterator[str]:
    """Runs of characters that get a piece, short enough for the trainer.

    The trainer silently drops lines past 4192 bytes, and refuses a vocabulary that the characters
    alone overflow.
    """
    texts = list(texts)
    counts = Counter[str]()
    for text in texts:
        counts.update(text)
    uncovered = counts.total() * (1 - _COVERAGE)
    kept = [c for c in counts if c not in _ALWAYS + _NEVER and not "\ud800" <= c <= "\udfff"]
    kept.sort(key=lambda c: (-counts[c], c))
    while kept and counts[kept[-1]] <= uncovered:
        uncovered -= counts[kept.pop()]
    del kept[max_characters:]
    run = re.compile(f"[{re.escape(_ALWAYS + ''.join(kept))}]{{1,1000}}")
    for text in texts:
        yield from run.findall(text)
