"""The one training loop: step, write down, evaluate, save, stop when asked; resume where it was."""

from __future__ import annotations

import math
import pathlib
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple, Protocol

import jax
from ml_collections import ConfigDict

from dsmath_jax.data.errors import InputError
from dsmath_jax.training.checkpoints import Checkpoints
from dsmath_jax.training.errors import TrainingError
from dsmath_jax.training.metrics import Metrics, StatusLine, reported_disk_errors
from dsmath_jax.training.profile import Profiler
from dsmath_jax.training.report import write_report
from dsmath_jax.training.state import TrainState
from dsmath_jax.training.stopping import Agreement, stop_signals
from dsmath_jax.training.usage import FLOPS, memory, mesh_chip, speed

# (state, batch, step, phases) -> (state, metrics); metrics may be arrays that are still computed.
StepFn = Callable[[TrainState, Any, int, "Phases"], tuple[TrainState, dict[str, Any]]]


# A traced step is slower: its metrics do not have these.
TIMES = ("time/", "tokens_per_s", "tflops", "mfu", "data_wait")


class Data(Protocol):
    """An iterator of batches whose small state is kept in checkpoints."""

    def __next__(self) -> Any: ...

    def get_state(self) -> dict[str, Any]: ...

    def set_state(self, state: dict[str, Any]) -> None: ...


class Result(NamedTuple):
    """What a stage leaves: the state, and whether it ran to its end and was not told to stop."""

    state: TrainState
    finished: bool


class Phases:
    """Seconds of each named part of a step."""

    def __init__(self):
        self.seconds: dict[str, float] = {}

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        start = time.monotonic()
        try:
            yield
        finally:
            self.seconds[name] = self.seconds.get(name, 0.0) + time.monotonic() - start

    def take(self) -> dict[str, float]:
        taken, self.seconds = self.seconds, {}
        return {f"time/{name}": value for name, value in taken.items()}


def run(
    config: ConfigDict,
    workdir: pathlib.Path,
    checkpoints: Checkpoints,
    data: Data,
    step_fn: StepFn,
    *,
    new_state: Callable[[], TrainState],
    abstract: TrainState,
    evaluate: Callable[[TrainState, int], dict[str, float]],
    learning_rate: Callable[[int], Any],
    waits: bool = False,
) -> Result:
    """Runs `config.steps` steps, from the last checkpoint if there is one.

    A step's line is written before its checkpoint, so a run that resumes has every line up to it.
    SIGTERM and SIGINT, on any host, end the step under way, save, and return.

    Args:
      data: iterator of batches; its small state is kept in the checkpoint.
      new_state: makes the state at step 0; only called without a checkpoint.
      abstract: the state's shapes and layout, to restore into.
      evaluate: called every `config.eval.every` steps (then also before the first) and at the end.
      learning_rate: by step, for the metrics.
      waits: step_fn returns when the devices are done (else as soon as they have their orders).

    Raises:
      InputError: the checkpoint is of another model.
      TrainingError: `config.max_bad_steps` steps in a row had a loss that is not finite.
    """
    state, first = _start(checkpoints, data, new_state, abstract)
    metrics = Metrics(workdir, config, first)
    status = StatusLine(config.stage, config.steps)
    if first:
        status.note(f"{config.stage}: going on from step {first} of {config.steps}")
    phases = Phases()
    devices, chip = mesh_chip()
    profiler = Profiler(config.log.profile, workdir, first)
    pending: tuple[int, dict[str, Any]] | None = None
    last_time = time.monotonic()

    def write_pending() -> None:
        """The line of the step before, while the devices compute the next. A step's time goes from
        the end of the one before it, or of what was done in between, to its own."""
        nonlocal pending, last_time
        if pending is None:
            return
        step, values = pending
        pending = None
        values = {k: float(v) for k, v in jax.device_get(values).items()}
        now = time.monotonic()
        values["time/step"], last_time = now - last_time, now
        values["data_wait"] /= values["time/step"]
        spike = {k: values.pop(k) for k in [*values] if k.startswith("spike/")}
        values |= speed(values, devices, chip)
        untold = (FLOPS, *(TIMES if profiler.covers(step) else ()))
        values = {k: v for k, v in values.items() if not k.startswith(untold)}
        if step % config.log.every == 0 or step == config.steps:
            values |= memory()
            metrics.write(step, values)
            status.update(step, values)
        if spike.get("spike/now"):
            status.note(_spike_note(step, values, spike))
        _check_finite(values, step, config, status)

    def evaluation(step: int) -> None:
        nonlocal last_time
        results = evaluate(state, step)
        if results:
            metrics.write(step, results)
            status.note(f"{config.stage} step {step}: {_readable(results)}")
        if jax.process_index() == 0 and step < config.steps:  # after the last step it comes anyway
            with reported_disk_errors("report.html"):
                write_report(workdir)
        last_time = time.monotonic()

    stopping = False
    agreed = Agreement(jax.tree.leaves(abstract.params)[0].sharding.mesh, behind=not waits)
    with stop_signals() as stop:
        if first == 0 and config.eval.every:
            evaluation(0)
        for step in range(first + 1, config.steps + 1):
            if profiler.begins_with(step):
                write_pending()  # before the trace begins, which takes time
            with profiler.step(step, state):
                with phases("data"):
                    batch = next(data)
                waited = phases.seconds["data"] if pending is None or _done(pending[1]) else 0.0
                state, values = step_fn(state, batch, step, phases)
            write_pending()
            values = values | {"learning_rate": learning_rate(step - 1), "data_wait": waited}
            pending = (step, values | phases.take())
            if waits:
                write_pending()
            due = step == config.steps or (config.eval.every and step % config.eval.every == 0)
            stopping = agreed(stop.is_set())  # once: it may change at any moment
            if profiler.active and (step >= profiler.last or stopping or due):
                status.note(f"{config.stage}: {profiler.stop(state)}")
                write_pending()
                last_time = time.monotonic()
            saving = due or stopping or step % config.checkpoint.every == 0
            if saving:
                write_pending()
            if due:
                evaluation(step)
            if saving:
                with phases("save"):  # in the next step's line: it holds up that one
                    checkpoints.save(step, state, data.get_state(), force=due or stopping)
            if stopping:
                status.note(f"{config.stage}: stopped at step {step}; the same command goes on")
                break
        if config.log.profile and profiler.first > int(state.step):
            status.note(f"{config.stage}: no trace, the run has ended before step {profiler.first}")
        checkpoints.close()
        stopping = stopping or agreed.now(stop.is_set())
    metrics.close()
    if jax.process_index() == 0:
        with reported_disk_errors("report.html"):
            write_report(workdir)
    reached = int(state.step)
    if checkpoints.latest_step() != reached:
        raise TrainingError(
            f"step {reached} is reached, but its checkpoint could not be saved (see above): make "
            f"room on the disk of {workdir} and run the same command again"
        )
    return Result(state, finished=reached >= config.steps and not stopping)


def _start(
    checkpoints: Checkpoints,
    data: Data,
    new_state: Callable[[], TrainState],
    abstract: TrainState,
) -> tuple[TrainState, int]:
    step = checkpoints.latest_step()
    if step is None:
        return new_state(), 0
    state, position = checkpoints.restore(abstract)
    try:
        data.set_state(position)
    except (ValueError, TypeError, KeyError) as e:
        raise InputError(
            f"{checkpoints.directory / str(step)} was saved with other data ({e}): go on with "
            "the same content, order and settings of data, or set another --workdir"
        ) from None
    return state, step


def _done(values: dict[str, Any]) -> bool:
    """Whether the devices have computed them; does not wait."""
    return all(v.is_ready() for v in values.values() if hasattr(v, "is_ready"))


def _spike_note(step: int, values: dict[str, float], spike: dict[str, float]) -> str:
    """ "step 812 is a spike, skipped: loss 9.13 (limit 2.61), gradient norm ...; 3 so far" """
    taken = "skipped" if spike["spike/skipped"] else "not skipped"
    numbers = (
        f"{name} {values[key]:.4g} (limit {spike[f'spike/{key}_limit']:.4g})"
        for key, name in (("loss", "loss"), ("grad_norm", "gradient norm"))
    )
    return f"step {step} is a spike, {taken}: {', '.join(numbers)}; {values['spikes']:.0f} so far"


def _check_finite(
    values: dict[str, float], step: int, config: ConfigDict, status: StatusLine
) -> None:
    if not values.get("bad_steps"):
        return
    status.note(
        f"step {step} skipped, not finite: loss {values['loss']}, "
        f"gradient norm {values['grad_norm']}"
    )
    if values["bad_steps"] >= config.max_bad_steps:
        raise TrainingError(
            f"{config.max_bad_steps} steps in a row, up to {step}, had a loss or gradient that is "
            f"not finite; try a lower config.optimizer.learning_rate than "
            f"{config.optimizer.learning_rate:g}, or look at the data there"
        )


def _readable(results: dict[str, float]) -> str:
    """ "eval/accuracy 49.8% (45.5 to 54.1), ..." """
    parts = []
    for name, value in results.items():
        if f"{name}_low" in results:
            low, high = results[f"{name}_low"], results[f"{name}_high"]
            parts.append(f"{name} {value:.1%} ({100 * low:.1f} to {100 * high:.1f})")
        elif not name.endswith(("_low", "_high")):
            parts.append(f"{name} {value:.4g}")
    return ", ".join(parts)


def proportion(right: int, total: int, name: str) -> dict[str, float]:
    """A share with its 95% interval (Wilson), as {name, name_low, name_high}."""
    z, share = 1.96, right / total
    middle = (share + z * z / (2 * total)) / (1 + z * z / total)
    half = z / (1 + z * z / total) * math.sqrt(share * (1 - share) / total + (z / total) ** 2 / 4)
    return {name: share, f"{name}_low": middle - half, f"{name}_high": middle + half}
