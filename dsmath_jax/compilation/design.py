"""What a program's sharding is meant to send, and the collectives that this does not explain."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from dsmath_jax.compilation.collectives import Collective

SMALL = 2**16  # bytes of one array: scalars, norms and their like are never worth a word


@dataclasses.dataclass(frozen=True)
class Design:
    """What the sharding of a program is meant to send.

    weight_gathers: how often a weight may be gathered in one run (forward, recomputed forward and
      backward are 3 for each micro-batch); 0 where weights lie as they are used.
    reshards: the program is there to change a layout: whatever it does to its arguments is asked.
    """

    weight_gathers: float
    reshards: bool = False


@dataclasses.dataclass
class Unasked:
    reason: str
    collective: Collective


def unasked(found: list[Collective], design: Design, sizes: Mapping[str, float]) -> list[Unasked]:
    """Collectives that no rule of the design explains, the largest first.

    The rules: weights are gathered over fsdp, so often as `Design` says; gradients are reduced over
    data, fsdp (scattered) and sequence; activations are summed (or gathered and scattered) over
    tensor; keys and values are gathered over sequence, their gradients scattered; a batch may go
    anywhere; and what a shard_map in the source sends is asked for. Arrays below 64 KiB are let
    pass.

    Args:
      sizes: argument -> elements of the whole array, divided by its tensor ways.
    """
    result = []
    gathered: dict[str, float] = {}
    rounded: dict[str, float] = {}  # a ring in both directions may bring some shards twice
    for c in found:
        if c.ways <= 1 or max((a.bytes for a in c.arrays), default=0) < SMALL or design.reshards:
            continue
        reason = "" if c.written else _reason(c)
        is_weight = _is_weight(c)
        if reason:
            result.append(Unasked(reason, c))
        elif is_weight and (c.kind == "all-gather" or c.gathers):
            for name, array in zip(c.data, c.arrays, strict=True):
                # What a ring brings a chip is what the others have.
                whole = array.elements * c.times * (c.ways / (c.ways - 1) if c.ring else 1)
                gathered[name] = gathered.get(name, 0.0) + whole
                rounded[name] = max(rounded.get(name, 0.0), 2 / c.ways if c.ring else 0.0)
    for name, moved in gathered.items():
        turns = moved / max(sizes.get(name, 1), 1)
        if turns > design.weight_gathers * (1.1 + rounded[name]):
            biggest = max((c for c in found if name in c.data), key=lambda c: c.sent)
            text = (
                f"{name} is gathered {turns:.1f} times, by design at most {design.weight_gathers:g}"
            )
            result.append(Unasked(text, biggest))
    return sorted(result, key=lambda u: -u.collective.sent)


def _is_weight(c: Collective) -> bool:
    return bool(c.data) and all("params" in d or "reference" in d for d in c.data)


def _reason(c: Collective) -> str:
    """Why a collective is not of the design; "" when it is."""
    axes = set(c.axes)
    over = " and ".join(c.axes)
    if c.kind == "all-to-all":
        return f"an all-to-all over {over}: one layout is changed into another"
    if c.kind == "collective-permute":
        if c.aligns or (axes == {"sequence"} and c.bytes * c.ways < 2**22):
            return ""  # each chip's last position, where targets are shifted by one
        return f"a permutation over {over}: shards change places"
    if c.kind == "all-gather" or c.gathers:
        if _is_weight(c):
            if c.gathers:
                return f"weights are gathered over {over} by an all-reduce, at twice the bytes"
            return "" if axes <= {"fsdp"} else f"weights are gathered over {over}"
        if axes <= {"tensor"} or axes <= {"sequence"} or "computed" not in c.data:
            return ""
        return f"something computed is gathered whole over {over}"
    if c.kind == "all-reduce" and "fsdp" in axes:
        return f"an all-reduce over {over} where a reduce-scatter would leave each chip its part"
    return ""
