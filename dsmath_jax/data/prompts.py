"""Prompt formats as versioned data, and their token ids.

The chat form is that of deepseek-math-7b-instruct and -rl: `User: ...\\n\\nAssistant:`, then a
space, the answer and EOS. A text that changes gets a new version, and with it new golden ids
(tests/data/golden_prompts.json): a model is only as good as the prompt it was trained with.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from dsmath_jax.data.tokenizers import Tokenizer

_SLOT = "{question}"
_USER, _AFTER_USER, _ASSISTANT = "User: ", "\n\n", "Assistant:"
_TOOL_STOP = ("```output",)


@dataclass(frozen=True)
class PromptFormat:
    """One prompt: its text with a {question} slot, and the words beside EOS that end an answer."""

    name: str
    version: int
    text: str
    stop: tuple[str, ...] = ()

    def render(self, question: str) -> str:
        """The text with the question in it, as it stands."""
        return self.text.replace(_SLOT, question)


def _chat(instruction: str = "") -> str:
    return _USER + _SLOT + instruction + _AFTER_USER + _ASSISTANT


_COT_EN = "\nPlease reason step by step, and put your final answer within \\boxed{}."
_COT_ZH = "\n请通过逐步推理来解答问题，并把最终答案放置于\\boxed{}中。"
_TOOL_EN = (
    "\nPlease integrate natural language reasoning with programs to solve the problem above, "
    "and put your final answer within \\boxed{}."
)
_TOOL_ZH = "\n请结合自然语言和Python程序语言来解答问题，并把最终答案放置于\\boxed{}中。"

PROMPTS: dict[str, PromptFormat] = {
    p.name: p
    for p in (
        PromptFormat("plain", 1, _SLOT),
        PromptFormat("sft", 1, _chat()),
        PromptFormat("cot_en", 1, _chat(_COT_EN)),
        PromptFormat("cot_zh", 1, _chat(_COT_ZH)),
        PromptFormat("tool_en", 1, _chat(_TOOL_EN), stop=_TOOL_STOP),
        PromptFormat("tool_zh", 1, _chat(_TOOL_ZH), stop=_TOOL_STOP),
    )
}


def get_prompt(name: str) -> PromptFormat:
    """The prompt of that name; a ValueError with the nearest one when there is none."""
    if name in PROMPTS:
        return PROMPTS[name]
    nearest = difflib.get_close_matches(name, PROMPTS, n=1, cutoff=0.0)[0]
    raise ValueError(
        f"There is no prompt {name!r}: did you mean {nearest!r}? Choose from {', '.join(PROMPTS)}."
    )


def encode_prompt(
    tokenizer: Tokenizer, question: str, prompt: str = "cot_en", *, allow_special: bool = False
) -> list[int]:
    """BOS (where the tokenizer has one) and the prompt, up to and including "Assistant:".

    The rendered text is encoded as one string, so that merges across the slot's edges are the ones
    a model saw. Special tokens written in the question stay text unless `allow_special`.
    """
    text = get_prompt(prompt).render(question)
    return tokenizer.encode(text, add_bos=True, allow_special=allow_special)


def encode_example(
    tokenizer: Tokenizer, question: str, answer: str, prompt: str = "cot_en"
) -> tuple[list[int], int]:
    """A training example: (ids, completion_start), the completion being " " + answer and EOS.

    ids[:completion_start] is exactly `encode_prompt(tokenizer, question, prompt)`, which is what
    the model is given when it generates. See `_encode_pair` for the one case in which the whole is
    not the encoding of the whole text.
    """
    text = get_prompt(prompt).render(question)
    before, completion = _encode_pair(tokenizer, text, " " + answer)
    prefix = [*_bos(tokenizer), *before]
    return [*prefix, *completion, tokenizer.eos_id], len(prefix)


def encode_chat(
    tokenizer: Tokenizer,
    messages: Sequence[Mapping[str, str]],
    *,
    add_generation_prompt: bool = False,
    allow_special: bool = False,
) -> tuple[list[int], list[int]]:
    """A conversation by DeepSeekMath's chat template: (ids, loss_mask).

    Args:
      messages: {"role": "system" | "user" | "assistant", "content": text} each.
      add_generation_prompt: end with "Assistant:", for the model to go on.

    Returns:
      ids, and a mask of the same length: 1 on assistant contents and their EOS.
    """
    ids = _bos(tokenizer)
    mask = [0] * len(ids)
    pending = ""  # template and text since the last EOS: encoded as one string

    def emit(new: list[int], value: int) -> None:
        ids.extend(new)
        mask.extend([value] * len(new))

    for n, message in enumerate(messages):
        role, content = message.get("role"), message.get("content")
        if not isinstance(content, str):
            raise ValueError(f'Message {n} has no "content" text: give it one.')
        if role == "system":
            pending += content + _AFTER_USER
        elif role == "user":
            pending += _USER + content + _AFTER_USER
        elif role == "assistant":
            pending += _ASSISTANT
            before, completion = _encode_pair(
                tokenizer, pending, " " + content, allow_special=allow_special
            )
            emit(before, 0)
            emit([*completion, tokenizer.eos_id], 1)
            pending = ""
        else:
            raise ValueError(f"Message {n} has role {role!r}: use system, user or assistant.")
    if add_generation_prompt:
        pending += _ASSISTANT
    emit(tokenizer.encode(pending, allow_special=allow_special), 0)
    return ids, mask


def _bos(tokenizer: Tokenizer) -> list[int]:
    return [] if tokenizer.bos_id is None else [tokenizer.bos_id]


def _encode_pair(
    tokenizer: Tokenizer, text: str, completion: str, *, allow_special: bool = False
) -> tuple[list[int], list[int]]:
    """Ids of `text`, and of `completion` after it, the latter never changing the former.

    Together they are the ids of the whole string wherever those begin with the ids of `text`, which
    with DeepSeek's tokenizer is always so after "Assistant:". A merge across the seam ("plain"
    prompts that end in a space) would take away a token that the model is given when it generates:
    there the completion is encoded by itself.
    """
    before = tokenizer.encode(text, allow_special=allow_special)
    whole = tokenizer.encode(text + completion, allow_special=allow_special)
    if whole[: len(before)] == before:
        return before, whole[len(before) :]
    return before, tokenizer.encode(completion, allow_special=allow_special)
