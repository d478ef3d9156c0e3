"""Traces of a few steps for TensorBoard and Perfetto: `--profile` of launch/train.py.

tensorboard --logdir=WORKDIR/profile            (with tensorboard-plugin-profile or xprof)
https://ui.perfetto.dev: open WORKDIR/profile/plugins/profile/TIME/perfetto_trace.json.gz
"""

from __future__ import annotations

import contextlib
import pathlib
import re
from collections.abc import Iterator
from typing import Any

import jax

from dsmath_jax.data.errors import InputError

STEPS = 3


def parse(which: str) -> tuple[int, int] | None:
    """(first step, or 0 for "next"; how many), None for "".

    Raises:
      InputError: `which` is neither "", "STEP[:COUNT]" nor "next[:COUNT]".
    """
    match = re.fullmatch(r"(next|[1-9]\d*)(?::([1-9]\d*))?", which)
    if match is None and which:
        raise InputError(
            f"--profile={which}: give the first step to trace and how many, as in --profile=20:3"
        )
    if match is None:
        return None
    first, count = match.groups()
    return 0 if first == "next" else int(first), int(count or STEPS)


class Profiler:
    """Traces steps first to last of a run, once; every process writes what its devices did.

    Args:
      which: "STEP" or "STEP:COUNT"; "next" in place of STEP for the second one from now on, past
        compilation; "" for none.
      workdir: of the run; the trace goes to its profile/.
      done: steps that the run has behind it.
    """

    def __init__(self, which: str, workdir: pathlib.Path, done: int):
        wanted = parse(which)
        self.directory = workdir / "profile"
        if jax.process_count() > 1:
            self.directory /= f"process_{jax.process_index()}"
        first, count = wanted or (0, 0)
        self.first = first or done + 2
        self.last = self.first + count - 1
        self.active = False

    def begins_with(self, step: int) -> bool:
        return step == self.first <= self.last

    def covers(self, step: int) -> bool:
        """Whether a step is traced, and so not a measure of speed."""
        return self.first <= step <= self.last

    @contextlib.contextmanager
    def step(self, step: int, before: Any) -> Iterator[None]:
        """Around the step; `before` are arrays that must be ready for a trace to begin."""
        if self.begins_with(step):
            jax.block_until_ready(before)
            options = jax.profiler.ProfileOptions()
            options.python_tracer_level = 0  # it slows what it watches
            jax.profiler.start_trace(
                self.directory, create_perfetto_trace=True, profiler_options=options
            )
            self.active = True
        with jax.profiler.StepTraceAnnotation("train", step_num=step):
            yield

    def stop(self, state: Any) -> str:
        """Ends the trace when `state`, of its last step, is there; says where it is."""
        jax.block_until_ready(state)
        jax.profiler.stop_trace()
        self.active = False
        return f"trace of steps {self.first} to {self.last}: {self.directory}"
