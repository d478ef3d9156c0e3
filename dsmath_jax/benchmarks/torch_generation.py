"""The same generation by transformers' `generate` on the processor, in a process of its own."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from dsmath_jax.benchmarks.side import Side, module_command, serve
from dsmath_jax.benchmarks.torch_step import check_torch, threads


class TorchGeneration(Side):
    """A process with LlamaForCausalLM (float32, random).

    Raises:
      InputError: torch or transformers is not installed.
    """

    def __init__(self, settings: dict[str, Any]):
        check_torch()
        settings = settings | {"threads": threads()}
        super().__init__("transformers", module_command(__name__), settings)


def start(settings: dict[str, Any]) -> Callable[[dict[str, Any]], dict[str, Any]]:
    """Answers {"seed"} with {"seconds", "tokens"}."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.set_num_threads(settings["threads"])
    torch.manual_seed(0)
    model = LlamaForCausalLM(LlamaConfig(**settings["model"])).eval()
    prompts = torch.tensor(settings["prompts"])
    endings = torch.tensor(settings["ending_ids"])

    def answer(request: dict[str, Any]) -> dict[str, Any]:
        torch.manual_seed(request["seed"])
        before = time.perf_counter()
        rows = model.generate(
            prompts,
            attention_mask=torch.ones_like(prompts),
            do_sample=True,
            temperature=settings["temperature"],
            top_p=1.0,
            top_k=0,
            max_new_tokens=settings["max_new_tokens"],
            eos_token_id=settings["ending_ids"],
            pad_token_id=0,
            num_return_sequences=settings["group"],
        )[:, prompts.shape[1] :]
        seconds = time.perf_counter() - before
        ended = torch.isin(rows, endings).int().cumsum(1)
        after_its_end = ended - torch.isin(rows, endings).int() > 0
        return {"seconds": seconds, "tokens": int((~after_its_end).sum())}

    return answer


if __name__ == "__main__":
    serve(start)
