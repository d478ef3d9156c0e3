"""Our side of the benchmark of generation: the Sampler, in a process of its own."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import jax
from ml_collections import ConfigDict

from dsmath_jax.benchmarks.side import serve
from dsmath_jax.models.config import preset
from dsmath_jax.models.sharding import param_shardings
from dsmath_jax.models.transformer import Transformer, init_params
from dsmath_jax.rollout import Sampler
from dsmath_jax.stages import setup
from dsmath_jax.training.hardware import chip_of


def start(settings: dict[str, Any]) -> Callable[[dict[str, Any]], dict[str, Any]]:
    """Answers {"questions", "rows", "max_new_tokens", "seed"} with {"seconds", "tokens"} of a call,
    and what is known of the device.

    settings: "config", and the "prompts" and "ending_ids" of every call.
    """
    config = ConfigDict(settings["config"])
    model_config = preset(config.model, **config.model_changes)
    mesh = setup.open_generation_mesh(config, setup.open_mesh(config))
    # As the RL stage generates: with weights in the computation's precision.
    params = jax.jit(
        lambda: init_params(model_config, config.seed, config.dtype),
        out_shardings=param_shardings(model_config, mesh),
    )()
    model = Transformer(model_config, params=params, dtype=config.dtype, attention=config.attention)
    device = mesh.devices.flat[0]
    chip = chip_of(device)
    samplers: dict[int, Sampler] = {}

    def answer(request: dict[str, Any]) -> dict[str, Any]:
        rows = request["rows"]
        if rows not in samplers:
            samplers[rows] = Sampler(model, None, max_rows=rows, mesh=mesh)
        before = time.perf_counter()
        samples = samplers[rows](
            settings["prompts"][: request["questions"]],
            samples_per_prompt=config.rl.group,
            max_new_tokens=request["max_new_tokens"],
            temperature=config.rl.temperature,
            seed=request["seed"],
            eos_ids=settings["ending_ids"],
        )
        return {
            "seconds": time.perf_counter() - before,
            "tokens": int(samples.lengths.sum()),
            "device_peak": (device.memory_stats() or {}).get("peak_bytes_in_use"),
            "device": chip.name if chip else device.device_kind,
            "bandwidth": chip.bandwidth if chip else None,
            "devices": mesh.size,
        }

    return answer


if __name__ == "__main__":
    serve(start)
