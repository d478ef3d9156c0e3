"""What a run writes down: metrics.jsonl, TensorBoard, W&B when asked, and one status line."""

from __future__ import annotations

import contextlib
import json
import logging
import math
import os
import pathlib
import re
import shutil
import sys
import time
from collections.abc import Iterator
from typing import Any

import jax
from ml_collections import ConfigDict

from dsmath_jax.data.errors import InputError

log = logging.getLogger(__name__)

WIDTH = 160  # columns of a status line
# What it does without, where it is too long: these, one after another.
LEFT_OUT = ("tflops", "memory", "learning_rate", "kl", "data", "grad_norm", "phases", "tokens")


class Metrics:
    """Writes numbers by step. After a resume, lines of steps that will be done again are dropped.
    With several processes the first one writes.

    Args:
      workdir: of the run.
      config: the run's, for `log` and for W&B.
      first_step: the step that the run starts or goes on from.

    Raises:
      InputError: W&B is asked for and not installed.
    """

    def __init__(self, workdir: pathlib.Path, config: ConfigDict, first_step: int):
        self.file: Any = None
        self.tensorboard: Any = None
        self.wandb: Any = None
        if jax.process_index() != 0:
            return
        path = workdir / "metrics.jsonl"
        kept = _keep_until(path, first_step)
        # Over all starts of the run, without what a kill lost and the time between them.
        self.before = max((row.get("time/run", 0.0) for row in kept), default=0.0)
        self.start = time.monotonic()
        self.file = path.open("a")
        if config.log.tensorboard:
            from tensorboardX import SummaryWriter

            self.tensorboard = SummaryWriter(
                str(workdir / "tensorboard"), purge_step=first_step + 1, write_to_disk=True
            )
        if config.log.wandb:
            try:
                import wandb
            except ImportError:
                raise InputError("config.log.wandb needs W&B: pip install wandb") from None

            self.wandb = wandb.init(
                project="dsmath_jax",
                name=str(workdir),
                id=re.sub(r"\W+", "-", str(workdir.absolute())).strip("-"),
                resume="allow",
                config=config.to_dict(),
            )

    def write(self, step: int, values: dict[str, float]) -> None:
        if self.file is None:
            return
        with reported_disk_errors("metrics.jsonl"):
            values = values | {"time/run": self.before + time.monotonic() - self.start}
            known = {k: v if math.isfinite(v) else None for k, v in values.items()}
            self.file.write(json.dumps({"step": step} | known) + "\n")
            self.file.flush()
        if self.tensorboard is not None and not _is_writing(self.tensorboard):
            log.warning("tensorboard/ is no longer written (a full disk?), the run goes on")
            self.tensorboard = None
        if self.tensorboard is not None:
            for name, value in values.items():
                self.tensorboard.add_scalar(name, value, step)
        if self.wandb is not None:
            self.wandb.log(values, step=step)

    def close(self) -> None:
        if self.file is not None:
            with reported_disk_errors("metrics.jsonl"):
                self.file.close()
        if self.tensorboard is not None and _is_writing(self.tensorboard):
            self.tensorboard.close()
        if self.wandb is not None:
            self.wandb.finish()


def _is_writing(writer: Any) -> bool:
    """tensorboardX's thread ends at a write error, and its queue then blocks whoever fills it."""
    return writer.file_writer.event_writer._worker.is_alive()


@contextlib.contextmanager
def reported_disk_errors(what: str) -> Iterator[None]:
    """A full disk costs a line of a log, not the run."""
    try:
        yield
    except OSError as e:
        log.warning("%s was not written, the run goes on: %s", what, e)


def read_metrics(workdir: str | os.PathLike) -> list[dict[str, float]]:
    """The lines of metrics.jsonl, in order; one cut short by a kill is left out."""
    path = pathlib.Path(workdir) / "metrics.jsonl"
    rows = []
    for line in path.read_text().splitlines() if path.exists() else ():
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            continue
    return rows


def _keep_until(path: pathlib.Path, step: int) -> list[dict[str, float]]:
    rows = [row for row in read_metrics(path.parent) if row["step"] <= step] if step else []
    beside = path.with_suffix(".partial")
    beside.write_text("".join(json.dumps(row) + "\n" for row in rows))
    beside.replace(path)
    return rows


class StatusLine:
    """One line on stderr: rewritten in place on a terminal, printed every few seconds elsewhere."""

    def __init__(self, name: str, total: int, *, every: float = 10.0):
        self.name, self.total = name, total
        self.terminal = sys.stderr.isatty()
        self.every = 0.2 if self.terminal else every
        self.start = time.monotonic()
        self.pace_from: tuple[float, int] | None = None
        self.last = 0.0

    def update(self, done: int, values: dict[str, float]) -> None:
        now = time.monotonic()
        if self.pace_from is None:  # the first step compiles: what is left takes less
            self.pace_from = now, done
        if jax.process_index() != 0:
            return
        if done < self.total and now - self.last < self.every:
            return
        self.last = now
        since, steps = now - self.pace_from[0], done - self.pace_from[1]
        left = duration(since / steps * (self.total - done)) if steps else "?"
        head = f"{self.name} {done}/{self.total} ({done / self.total:.0%})"
        tail = f" | {duration(now - self.start)} done, {left if done < self.total else '0s'} to go"
        width = min(shutil.get_terminal_size().columns - 1, WIDTH) if self.terminal else WIDTH
        line = head + _numbers(values, width - len(head + tail)) + tail
        end = "\n" if not self.terminal or done >= self.total else ""
        print(f"\r\033[K{line}" if self.terminal else line, end=end, file=sys.stderr, flush=True)

    def note(self, text: str) -> None:
        """A line of its own, above the status."""
        if jax.process_index() != 0:
            return
        print(f"\r\033[K{text}" if self.terminal else text, file=sys.stderr, flush=True)


def _numbers(values: dict[str, float], width: int) -> str:
    """What matters of a step, as much of it as fits in `width` columns."""
    names = ("loss", "reward", "kl", "grad_norm", "learning_rate")
    texts = {
        k: f" {'lr' if k == 'learning_rate' else k} {values[k]:.4g}" for k in names if k in values
    }
    texts |= {k: f" {k} {values[k]:.0f}" for k in ("skipped", "spikes") if values.get(k)}
    if "tokens_per_s" in values:
        texts["tokens"] = f" | {_short(values['tokens_per_s'])} tokens/s"
    if "mfu" in values:
        texts["mfu"] = f" MFU {values['mfu']:.1%}"
    elif "tflops" in values:
        texts["tflops"] = f" {values['tflops']:.3g} TFLOP/s"
    if "data_wait" in values:
        texts["data"] = f" data {values['data_wait']:.0%}"
    held = [f"{values[k]:.3g} GB {k[7:]}" for k in values if k.startswith("memory/")]
    texts["memory"] = f" {', '.join(held)}" if held else ""
    least = 0.01 * values.get("time/step", 0.0)
    seconds = {k[5:]: v for k, v in values.items() if k.startswith("time/") and v > least}
    phases = " ".join(f"{name} {v:.2f}" for name, v in seconds.items() if name != "data")
    texts["phases"] = f" [{phases} s]" if phases else ""
    for name in LEFT_OUT:
        if sum(map(len, texts.values())) <= width:
            break
        texts.pop(name, None)
    return "".join(texts.values())


def _short(number: float) -> str:
    """ "1.2M", "12.3k" or "123"."""
    for size, letter in ((1e6, "M"), (1e3, "k")):
        if number >= size:
            return f"{number / size:.3g}{letter}"
    return f"{number:.3g}"


def duration(seconds: float) -> str:
    """ "1h02m", "3m05s" or "12s"."""
    minutes, s = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours}h{minutes:02d}m"
    return f"{minutes}m{s:02d}s" if minutes else f"{s}s"
