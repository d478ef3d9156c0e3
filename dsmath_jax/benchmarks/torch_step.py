"""The same training step in transformers and torch on the processor, in a process of its own."""

from __future__ import annotations

import importlib.util
import os
import time
from collections.abc import Callable
from typing import Any

from ml_collections import ConfigDict

from dsmath_jax.benchmarks.side import Side, module_command, serve
from dsmath_jax.data.errors import InputError
from dsmath_jax.models.config import ModelConfig


class TorchStep(Side):
    """A process that makes LlamaForCausalLM (float32, random) with a fused AdamW and waits; it has
    as many threads as this process may use cores.

    Raises:
      InputError: torch or transformers is not installed.
    """

    def __init__(self, config: ConfigDict, model_config: ModelConfig):
        check_torch()
        settings = {
            "model": model_config.to_hf(),
            "shape": [config.batch_size, config.length],
            "optimizer": config.optimizer.to_dict(),
            "threads": threads(),
        }
        super().__init__("torch", module_command(__name__), settings)
        self.steps(1)

    def steps(self, count: int) -> float:
        """Seconds a step over `count` of them in a row."""
        return self.ask(count)


def check_torch() -> None:
    """Refuses to go on without them.

    Raises:
      InputError: torch or transformers is not installed.
    """
    for package in ("torch", "transformers"):
        if importlib.util.find_spec(package) is None:
            raise InputError(
                f"config.measure.torch=True needs {package}: pip install -e '.[parity]'"
            )


def threads() -> int:
    """As many as this process may use cores."""
    return len(os.sched_getaffinity(0))


def start(settings: dict[str, Any]) -> Callable[[int], float]:
    """Answers a number of steps with seconds a step."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.set_num_threads(settings["threads"])
    torch.manual_seed(0)
    config = LlamaConfig(**settings["model"])
    model = LlamaForCausalLM(config)
    o = settings["optimizer"]
    optimizer = torch.optim.AdamW(
        model.parameters(),
        lr=o["learning_rate"],
        betas=(o["b1"], o["b2"]),
        eps=o["eps"],
        weight_decay=o["weight_decay"],
        fused=True,
    )
    tokens = torch.randint(2, config.vocab_size, tuple(settings["shape"]))

    def steps(count: int) -> float:
        start = time.perf_counter()
        for _ in range(count):
            loss = model(tokens, labels=tokens).loss
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            loss.item()
        return (time.perf_counter() - start) / count

    return steps


if __name__ == "__main__":
    serve(start)
