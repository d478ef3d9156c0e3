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


# Samples that lie together in a row, behind their prompt where it is shared: their numbers, counted
# question by question.
Piece = list[int]


@dataclasses.dataclass(frozen=True)
class Plan:
    """Which samples go to which row, and the shape of all rows.

    used: parts that hold something; positions: in them; tokens: that they hold.
    """

    rows: list[list[Piece]]
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
    whole = np.asarray(prompts)[:, None] + completions
    sizes = 1 + completions if shapes.shared else whole  # shared: with the prompt's last token
    samples = list(zip(sizes.reshape(-1).tolist(), range(whole.size), strict=True))
    if shapes.shared:
        firsts = range(0, whole.size, whole.shape[1])
        groups = [
            (n - 1, sorted(samples[i : i + whole.shape[1]]))
            for n, i in zip(prompts, firsts, strict=True)
        ]
    else:
        groups = [(0, sorted(samples))]
    plans = []
    for length in shapes.lengths(int(whole.max())):
        rows, tokens = fill(groups, length)
        in_part = shapes.rows(length)
        used = math.ceil(len(rows) / in_part)
        plans.append(Plan(rows, length, used, used * in_part * length, tokens))
    fewest = min(plans, key=lambda plan: plan.positions)
    good = (p for p in plans if p.positions <= FEW * fewest.positions and p.padding <= LITTLE)
    return next(good, fewest)


def fill(
    groups: list[tuple[int, list[tuple[int, int]]]], length: int
) -> tuple[list[list[Piece]], int]:
    """Rows of groups one after another; a group that does not end within a row goes on in the next
    one, behind its prefix again. Of what is left of a group, a row gets the longest that fits.

    Args:
      groups: of each, the tokens of its prefix, and (tokens, number) of its samples, shortest
        first; with the prefix, each fits into a row.
      length: tokens of a row.

    Returns:
      (rows, tokens in all of them).
    """
    rows: list[list[Piece]] = []
    room = tokens = 0
    for prefix, samples in groups:
        left = list(samples)
        while left:
            if room < prefix + left[0][0]:
                rows.append([])
                room = length
            before, room, piece = room, room - prefix, []
            while at := bisect.bisect_right(left, room, key=lambda sample: sample[0]):
                size, number = left.pop(at - 1)
                room -= size
                piece.append(number)
            rows[-1].append(piece)
            tokens += before - room
    return rows, tokens


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
    rows_of_part, group = shapes.rows(plan.length), samples.lengths.shape[1]
    shape = (shapes.parts(plan.length), rows_of_part, plan.length)
    integers = ("tokens", "segment_ids", "prefix_ids", "positions")
    numbers = ("loss_mask", "rollout_logp", "advantages", "lengths", "rewards")
    arrays = {name: np.zeros(shape, np.int32) for name in integers}
    arrays |= {name: np.zeros(shape, np.float32) for name in numbers}
    arrays["tokens"][:] = pad_id
    for number, pieces in enumerate(plan.rows):
        row = {name: array[divmod(number, rows_of_part)] for name, array in arrays.items()}
        end = segment = 0
        for piece in pieces:
            prefix = segment = segment + 1
            if shapes.shared:
                end = _write(row, end, prompts[piece[0] // group][:-1], 0, prefix, prefix)
            for sample in piece:
                q, g = divmod(sample, group)
                shared = len(prompts[q]) - 1 if shapes.shared else 0
                completion, segment = samples.ids(q, g), segment + 1
                tokens = prompts[q][shared:] + completion
                end = _write(row, end, tokens, shared, segment, prefix)
                answer = slice(end - len(completion), end)
                row["loss_mask"][answer] = 1.0
                row["rollout_logp"][answer] = samples.logprobs[q, g, : len(completion)]
                row["advantages"][answer] = advantages[q, g]
                row["lengths"][answer] = len(completion)
                if rewards is not None:
                    row["rewards"][end - 1] = rewards[q, g]
    for name, known in (("prefix_ids", shapes.shared), ("rewards", rewards is not None)):
        if not known:
            del arrays[name]
    return arrays, plan.used, plan.padding


def _write(
    row: dict[str, np.ndarray],
    begin: int,
    tokens: list[int],
    position: int,
    segment: int,
    prefix: int,
) -> int:
    """Writes a segment's tokens, the first at its `position`; returns where they end."""
    here = slice(begin, begin + len(tokens))
    row["tokens"][here] = tokens
    row["positions"][here] = position + np.arange(len(tokens))
    row["segment_ids"][here], row["prefix_ids"][here] = segment, prefix
    return here.stop


def row_shapes(config: ConfigDict, mesh: Mesh, head_dim: int) -> Shapes:
    backend = resolve_backend(config.attention, mesh.abstract_mesh, config.dtype, head_dim)
    return Shapes(
        config.length,
        config.rl.questions * config.rl.group,
        config.micro_batches,
        mesh.shape["data"] * mesh.shape["fsdp"],
        mesh.shape["sequence"],
        reads_prefixes(backend),
    )
