"""What a run writes down: metrics.jsonl, TensorBoard, W&B when asked, and one status line."""

from __future__ import annotations

import contextlib
import json
import logging
import math
import os
import pathlib
import re
import sys
import time
from collections.abc import Iterator
from typing import Any

import jax
from ml_collections import ConfigDict

from dsmath_jax.data.errors import InputError

log = logging.getLogger(__name__)

STATUS = ("loss", "reward", "kl", "grad_norm", "learning_rate", "tokens_per_s")


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
        _keep_until(path, first_step)
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


def _keep_until(path: pathlib.Path, step: int) -> None:
    rows = [row for row in read_metrics(path.parent) if row["step"] <= step] if step else []
    beside = path.with_suffix(".partial")
    beside.write_text("".join(json.dumps(row) + "\n" for row in rows))
    beside.replace(path)


class StatusLine:
    """One line on stderr: rewritten in place on a terminal, printed every few seconds elsewhere."""

    def __init__(self, name: str, total: int, first: int = 0, *, every: float = 10.0):
        self.name, self.total, self.first = name, total, first
        self.terminal = sys.stderr.isatty()
        self.every = 0.2 if self.terminal else every
        self.start = time.monotonic()
        self.last = 0.0

    def update(self, done: int, values: dict[str, float]) -> None:
        now = time.monotonic()
        if jax.process_index() != 0:
            return
        if done < self.total and now - self.last < self.every:
            return
        self.last = now
        elapsed = now - self.start
        left = elapsed / max(done - self.first, 1) * (self.total - done)
        numbers = " ".join(f"{k} {v:.4g}" for k in STATUS if (v := values.get(k)) is not None)
        phases = " ".join(f"{k[5:]} {v:.2f}s" for k, v in values.items() if k.startswith("time/"))
        line = f"{self.name} {done}/{self.total} ({done / self.total:.0%}) {numbers}"
        line += f" [{phases}]" if phases else ""
        line += f" | {duration(elapsed)} done, {duration(left)} to go"
        end = "\n" if not self.terminal or done >= self.total else ""
        print(f"\r\033[K{line}" if self.terminal else line, end=end, file=sys.stderr, flush=True)

    def note(self, text: str) -> None:
        """A line of its own, above the status."""
        if jax.process_index() != 0:
            return
        print(f"\r\033[K{text}" if self.terminal else text, file=sys.stderr, flush=True)


def duration(seconds: float) -> str:
    """ "1h02m", "3m05s" or "12s"."""
    minutes, s = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours}h{minutes:02d}m"
    return f"{minutes}m{s:02d}s" if minutes else f"{s}s"
