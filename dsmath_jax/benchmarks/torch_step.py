"""The same training step in transformers and torch on the processor, in a process of its own."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
import time
from typing import Any

from ml_collections import ConfigDict

from dsmath_jax.data.errors import InputError
from dsmath_jax.models.config import ModelConfig


class TorchStep:
    """A process that makes LlamaForCausalLM (float32, random) with a fused AdamW and waits; it has
    as many threads as this process may use cores.

    Raises:
      InputError: torch or transformers is not installed.
    """

    def __init__(self, config: ConfigDict, model_config: ModelConfig):
        for package in ("torch", "transformers"):
            if importlib.util.find_spec(package) is None:
                raise InputError(
                    f"config.measure.torch=True needs {package}: pip install -e '.[parity]'"
                )
        settings = {
            "model": model_config.to_hf(),
            "shape": [config.batch_size, config.length],
            "optimizer": config.optimizer.to_dict(),
            "threads": len(os.sched_getaffinity(0)),
        }
        self.process = subprocess.Popen(
            [sys.executable, "-m", __name__, json.dumps(settings)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.steps(1)

    def steps(self, count: int) -> float:
        """Seconds a step over `count` of them in a row."""
        assert self.process.stdin and self.process.stdout
        print(count, file=self.process.stdin, flush=True)
        answer = self.process.stdout.readline()
        if not answer:
            raise InputError(f"torch's process ended with {self.process.wait()}: see above")
        return float(answer)

    def __enter__(self) -> TorchStep:
        return self

    def __exit__(self, *_: Any) -> None:
        assert self.process.stdin
        self.process.stdin.close()
        self.process.wait()


def serve(settings: dict[str, Any]) -> None:
    """Reads numbers of steps, a line each, and answers with seconds a step."""
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
    for line in sys.stdin:
        start = time.perf_counter()
        for _ in range(int(line)):
            loss = model(tokens, labels=tokens).loss
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            loss.item()
        print((time.perf_counter() - start) / int(line), flush=True)


if __name__ == "__main__":
    serve(json.loads(sys.argv[1]))
