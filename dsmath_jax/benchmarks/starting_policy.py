"""The policy with which both sides of the benchmark of a GRPO step begin, made in a process."""

from __future__ import annotations

import pathlib
from collections.abc import Callable
from typing import Any

from ml_collections import ConfigDict

from dsmath_jax.benchmarks.side import serve
from dsmath_jax.data.tokenizers import load_tokenizer
from dsmath_jax.models import Transformer, save_hf
from dsmath_jax.stages import setup
from dsmath_jax.stages.command import run_stages


def start(settings: dict[str, Any]) -> Callable[[Any], None]:
    """Answers a request when "weights", a new directory, holds the policy as Hugging Face has it.

    settings: "config", of the RL stage; "workdir", of the stage before it; "weights".
    """
    config, workdir = ConfigDict(settings["config"]), pathlib.Path(settings["workdir"])

    def answer(_: Any) -> None:
        if config.init.stage:
            run_stages(config.init.stage, workdir)
            config.init.checkpoint = str(workdir)
        tokenizer = load_tokenizer(config.tokenizer)
        model_config = setup.open_model_config(config, tokenizer)
        params = setup.initial_params(config, model_config, setup.open_mesh(config))
        save_hf(Transformer(model_config, params=params), settings["weights"])

    return answer


if __name__ == "__main__":
    serve(start)
