"""Training rows of sampled answers: several samples to a row, so that little of it is padding."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
from ml_collections import ConfigDict

from dsmath_jax.data.packing import best_fit
from dsmath_jax.rollout import Samples

ENOUGH = 0.12  # padding with which a shape is taken, though a longer row might have less
LANES = 128  # lengths of long rows are multiples of it: what a TPU's kernels work on


@dataclasses.dataclass(frozen=True)
class Shapes:
    """The shapes that rows may have: few, because each is compiled anew.

    Lengths are eighths of `length` up to twice that, rounded up to what kernels like. Counts are
    multiples of `ways`, whose factor has four binary digits at most, zeros at its end aside: each
    is at most an eighth above the one before.

    Args:
      length: tokens of the longest sample there can be.
      ways: micro-batches x devices that share the rows.
      split: devices that share a row (mesh axis "sequence").
    """

    length: int
    ways: int = 1
    split: int = 1

    def lengths(self, longest: int) -> list[int]:
        """Those in which a sample of `longest` tokens fits: from `length` up, then shorter ones."""
        unit = self.split * (LANES if self.length >= 8 * LANES else 8)
        grid = {math.ceil(self.length * n / 8 / unit) * unit for n in range(1, 17)}
        return sorted((n for n in grid if n >= longest), key=lambda n: (n < self.length, n))

    def count(self, needed: int, samples: int) -> int:
        """The least number of rows from `needed` up; `samples` need no more than one each."""
        turns = math.ceil(needed / self.ways)
        step = 1 << max(0, turns.bit_length() - 4)
        turns = min(math.ceil(turns / step) * step, math.ceil(samples / self.ways))
        return turns * self.ways


@dataclasses.dataclass(frozen=True)
class Plan:
    """Which row each sample goes to, and the shape of all rows."""

    rows: np.ndarray
    count: int
    length: int
    padding: float  # share of positions that hold no token


def plan_rows(lengths: np.ndarray, shapes: Shapes) -> Plan:
    """The first shape with little padding (`ENOUGH`), else the one with the least: a function of
    the lengths alone, so that a resumed run computes alike.

    Args:
      lengths: [samples] tokens of each, prompt and completion.
    """
    plans = []
    for length in shapes.lengths(int(lengths.max())):
        rows = best_fit(lengths, length)
        count = shapes.count(int(rows.max()) + 1, len(lengths))
        plans.append(Plan(rows, count, length, 1 - float(lengths.sum()) / (count * length)))
        if plans[-1].padding <= ENOUGH:
            return plans[-1]
    return min(plans, key=lambda plan: plan.padding)


def pack(
    prompts: list[list[int]],
    samples: Samples,
    advantages: np.ndarray,
    shapes: Shapes,
    *,
    pad_id: int,
    rewards: np.ndarray | None = None,
) -> tuple[dict[str, np.ndarray], float]:
    """Rows [rows, length] in which each sample, prompt and completion, is a segment; and the share
    of padding.

    rollout_logp: the sampler's log-probability of each token of a completion.
    advantages: constant over a completion.
    lengths: at each token of a completion, how many it has.
    rewards (if given): at the last token of a completion.

    Args:
      prompts: [questions] token ids.
      samples, advantages, rewards: [questions, group].
    """
    group = samples.lengths.shape[1]
    starts = np.repeat([len(prompt) for prompt in prompts], group)
    ends = starts + samples.lengths.reshape(-1)
    plan = plan_rows(ends, shapes)
    shape = (plan.count, plan.length)
    rows = {
        "tokens": np.full(shape, pad_id, np.int32),
        "segment_ids": np.zeros(shape, np.int32),
        "loss_mask": np.zeros(shape, np.float32),
        "rollout_logp": np.zeros(shape, np.float32),
        "advantages": np.zeros(shape, np.float32),
        "lengths": np.zeros(shape, np.float32),
    }
    if rewards is not None:
        rows["rewards"] = np.zeros(shape, np.float32)
    filled, segments = np.zeros(plan.count, int), np.zeros(plan.count, int)
    for i, row in enumerate(plan.rows.tolist()):
        q, g = divmod(i, group)
        begin, segments[row] = int(filled[row]), segments[row] + 1
        start, end = begin + int(starts[i]), begin + int(ends[i])
        filled[row] = end
        rows["tokens"][row, begin:end] = prompts[q] + samples.ids(q, g)
        rows["segment_ids"][row, begin:end] = segments[row]
        rows["loss_mask"][row, start:end] = 1.0
        rows["rollout_logp"][row, start:end] = samples.logprobs[q, g, : end - start]
        rows["advantages"][row, start:end] = advantages[q, g]
        rows["lengths"][row, start:end] = end - start
        if rewards is not None:
            rows["rewards"][row, end - 1] = rewards[q, g]
    return rows, plan.padding


def row_shapes(config: ConfigDict, mesh) -> Shapes:
    ways = config.micro_batches * mesh.shape["data"] * mesh.shape["fsdp"]
    return Shapes(config.length, ways, mesh.shape["sequence"])
