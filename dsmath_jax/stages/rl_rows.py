"""Training rows of sampled answers: several to a row, behind a prompt that they share, so that no
prompt is computed for each of its answers and little is padding."""

from __future__ import annotations

import bisect
import dataclasses
import math
from collections.abc import Sequence

import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict

from dsmath_jax.models.attention import reads_prefixes, resolve_backend
from dsmath_jax.rollout import Samples

FEW = 1.1  # times the fewest positions that rows of any length would have
LITTLE = 0.12  # padding
LANES = 128  # lengths of long rows are multiples of it: what a TPU's kernels work on


@dataclasses.dataclass(frozen=True)
class Shapes:
    """The shapes that a step's rows may have: one for each length of rows, because each is compiled
    anew. Rows come in parts, of which a step computes as many as its samples fill.

    Lengths are eighths of `length` up to twice that, rounded up to what kernels like.

    Args:
      length: tokens of the longest sample there can be.
      samples: of a step.
      micro_batches: parts, if all samples were of that length (more, where they do not divide).
      ways: devices that share the rows of a part.
      split: devices that share a row (mesh axis "sequence").
      shared: whether samples of a question share its prompt within a row.
    """

    length: int
    samples: int
    micro_batches: int = 1
    ways: int = 1
    split: int = 1
    shared: bool = True

    @property
    def unit(self) -> int:
        return self.split * (LANES if self.length >= 8 * LANES else 8)

    @property
    def tokens(self) -> int:
        """The most that a device has of a part: whole rows of the longest sample."""
        rows = max(1, self.samples // (self.micro_batches * self.ways))
        return rows * math.ceil(self.length / self.unit) * self.unit

    def lengths(self, longest: int) -> list[int]:
        """Those in which a sample of `longest` tokens fits, to be preferred in this order: quarters
        of `length` from it up, shorter quarters, and then the eighths between."""
        eighths = sorted(range(1, 17), key=lambda n: (n % 2, n < 8, n))
        grid = [math.ceil(self.length * n / 8 / self.unit) * self.unit for n in eighths]
        return [n for n in dict.fromkeys(grid) if longest <= n <= self.tokens]

    def rows(self, length: int) -> int:
        """Of a part."""
        return self.ways * (self.tokens // length)

    def parts(self, length: int) -> int:
        """As many as any step can need: each row has a sample, and two that follow each other hold
        more than one could (see `fill`)."""
        rows = min(self.samples, 2 * self.samples * self.length // length + 1)
        return math.ceil(rows / self.rows(length))


@dataclasses.dataclass(frozen=True)
class Plan:
    """Which samples go to which row, and the shape of all rows.

    rows: of each row, its pieces: (question, its samples that lie there).
    used: parts that hold something.
    """

    rows: list[list[tuple[int, list[int]]]]
    length: int
    used: int
    positions: int
    tokens: int

    @property
    def padding(self) -> float:
        """Share of positions, of the used parts, that hold no token."""
        return 1 - self.tokens / self.positions


def plan_rows(prompts: Sequence[int], completions: np.ndarray, shapes: Shapes) -> Plan:
    """The first length of rows with few positions (`FEW`) and little padding (`LITTLE`), else the
    one with the fewest: a function of the numbers alone, so that a resumed run computes alike.

    Args:
      prompts: [questions] tokens of each.
      completions: [questions, group] tokens of each.
    """
    samples = np.asarray(prompts)[:, None] + completions
    if shapes.shared:  # each sample brings the prompt's last token
        groups = [(n - 1, (1 + c).tolist()) for n, c in zip(prompts, completions, strict=True)]
    else:
        groups = [(0, samples.reshape(-1).tolist())]
    plans = []
    for length in shapes.lengths(int(samples.max())):
        placed = rows = fill(groups, length)
        if not shapes.shared:
            numbers = [[divmod(s, samples.shape[1]) for s in row[0][1]] for row in rows]
            placed = [[(q, [g]) for q, g in row] for row in numbers]
        in_part = shapes.rows(length)
        used = math.ceil(len(rows) / in_part)
        tokens = sum(
            groups[g][0] + sum(groups[g][1][i] for i in members)
            for row in rows
            for g, members in row
        )
        plans.append(Plan(placed, length, used, used * in_part * length, tokens))
    fewest = min(plans, key=lambda plan: plan.positions)
    good = (p for p in plans if p.positions <= FEW * fewest.positions and p.padding <= LITTLE)
    return next(good, fewest)


def fill(groups: list[tuple[int, list[int]]], length: int) -> list[list[tuple[int, list[int]]]]:
    """Rows of groups one after another; a group that does not end within a row goes on in the next
    one, behind its prefix again. Of what is left of a group, a row gets the longest that fits.

    Args:
      groups: of each, the tokens of its prefix and of its members; with the prefix, each member
        fits into a row.
      length: tokens of a row.

    Returns:
      Of each row, its pieces: (group, members).
    """
    rows: list[list[tuple[int, list[int]]]] = []
    room = 0
    for group, (prefix, sizes) in enumerate(groups):
        members = sorted(range(len(sizes)), key=lambda i: sizes[i])
        left = [sizes[i] for i in members]
        while left:
            if room < prefix + left[0]:
                rows.append([])
                room = length
            room -= prefix
            piece = []
            while at := bisect.bisect_right(left, room):
                room -= left.pop(at - 1)
                piece.append(members.pop(at - 1))
            rows[-1].append((group, piece))
    return rows


def pack(
    prompts: list[list[int]],
    samples: Samples,
    advantages: np.ndarray,
    shapes: Shapes,
    *,
    pad_id: int,
    rewards: np.ndarray | None = None,
) -> tuple[dict[str, np.ndarray], int, float]:
    """(rows [parts, rows, length], how many of the parts hold anything, and of these the share of
    positions that hold nothing).

    A prompt but for its last token is a segment, and so is each sample: the prompt's last token,
    which predicts the first of the completion, and the completion. Without `shapes.shared`, a
    sample is a segment with all of its prompt.

    positions: continue those of the prompt.
    prefix_ids (with `shapes.shared`): the prompt's segment.
    rollout_logp: the sampler's log-probability of each token of a completion.
    advantages: constant over a completion.
    lengths: at each token of a completion, how many it has.
    rewards (if given): at the last token of a completion.

    Args:
      prompts: [questions] token ids.
      samples, advantages, rewards: [questions, group].
    """
    plan = plan_rows([len(p) for p in prompts], samples.lengths, shapes)
    rows_of_part = shapes.rows(plan.length)
    shape = (shapes.parts(plan.length), rows_of_part, plan.length)
    integers = ["tokens", "segment_ids", "positions"] + ["prefix_ids"] * shapes.shared
    numbers = ["loss_mask", "rollout_logp", "advantages", "lengths"]
    numbers += [] if rewards is None else ["rewards"]
    arrays = {name: np.zeros(shape, np.int32) for name in integers}
    arrays |= {name: np.zeros(shape, np.float32) for name in numbers}
    arrays["tokens"][:] = pad_id
    for number, pieces in enumerate(plan.rows):
        part, place = divmod(number, rows_of_part)
        row = {name: array[part, place] for name, array in arrays.items()}
        end = segment = 0
        for q, members in pieces:
            shared = len(prompts[q]) - 1 if shapes.shared else 0
            if shapes.shared:
                segment += 1
                prefix = segment
                here = slice(end, end + shared)
                row["tokens"][here] = prompts[q][:shared]
                row["segment_ids"][here] = row["prefix_ids"][here] = prefix
                row["positions"][here] = np.arange(shared)
                end += shared
            for g in members:
                completion = samples.ids(q, g)
                segment += 1
                start = end + len(prompts[q]) - shared
                here = slice(end, start + len(completion))
                end = here.stop
                row["tokens"][here] = prompts[q][shared:] + completion
                row["segment_ids"][here] = segment
                row["positions"][here] = shared + np.arange(end - here.start)
                if shapes.shared:
                    row["prefix_ids"][here] = prefix
                row["loss_mask"][start:end] = 1.0
                row["rollout_logp"][start:end] = samples.logprobs[q, g, : end - start]
                row["advantages"][start:end] = advantages[q, g]
                row["lengths"][start:end] = end - start
                if rewards is not None:
                    row["rewards"][end - 1] = rewards[q, g]
    return arrays, plan.used, plan.padding


def row_shapes(config: ConfigDict, mesh: Mesh) -> Shapes:
    return Shapes(
        config.length,
        config.rl.questions * config.rl.group,
        config.micro_batches,
        mesh.shape["data"] * mesh.shape["fsdp"],
        mesh.shape["sequence"],
        reads_prefixes(resolve_backend(config.attention, mesh.abstract_mesh)),
    )
