"""Our side of the benchmark of a GRPO step: a training run, in a process of its own."""

from __future__ import annotations

import json
import pathlib
from collections.abc import Callable
from typing import Any

from ml_collections import ConfigDict

from dsmath_jax.benchmarks.side import serve
from dsmath_jax.stages.command import run_stages


def start(settings: dict[str, Any]) -> Callable[[Any], list[dict[str, float]]]:
    """Answers any request with the metrics of each step of the run; it has one run in it.

    settings: "config", and the "workdir" of the run.
    """
    config, workdir = ConfigDict(settings["config"]), pathlib.Path(settings["workdir"])

    def answer(_: Any) -> list[dict[str, float]]:
        run_stages(config, workdir)
        lines = (workdir / "metrics.jsonl").read_text().splitlines()
        return [row for row in map(json.loads, lines) if "time/step" in row]

    return answer


if __name__ == "__main__":
    serve(start)
