"""What a compiled program sends between chips: kind, bytes, mesh axes, whose data, and how often.

A partitioner that finds no way to keep two layouts together moves arrays without being asked: such
moves are told from those of the design by what is moved (a weight, a batch, something computed) and
over which mesh axes.
"""

from __future__ import annotations

import dataclasses
import re

import numpy as np

from dsmath_jax.compilation.hlo import MOVES, Array, Computation, Module, Op
from dsmath_jax.compilation.origin import PASSES, Origin

KINDS = ("all-gather", "reduce-scatter", "all-reduce", "all-to-all", "collective-permute")
# JAX's own operations: a collective that bears such a name was written in the source.
WRITTEN = ("all_to_all", "all_gather", "psum", "ppermute", "reduce_scatter", "psum_scatter")


@dataclasses.dataclass
class Collective:
    """One collective operation of a program.

      kind: of `KINDS`. A ring of permutes that the compiler made of an all-gather or reduce-scatter
        with its matrix product counts as what it was made of.
      arrays: what every chip has: of a gather the result, of a reduction the operand.
      axes: mesh axes whose chips talk to each other; ways: how many they are.
      times: how often it runs in one run of the program.
      sent: bytes that a chip sends in one run of the program.
      data: for each array, what it is: the path of a program's argument ("params['head']"), several
        joined by " or ", or "computed".
      aligns: a permutation of what a reduce-scatter made, whose padding the compiler takes out.
    gathers: an all-reduce of what was not computed: each chip adds its part to zeros, a gather.
    """

    name: str
    kind: str
    arrays: tuple[Array, ...]
    axes: tuple[str, ...]
    ways: int
    times: float
    sent: float
    data: tuple[str, ...]
    op_name: str
    source: str
    ring: bool = False
    gathers: bool = False
    aligns: bool = False

    @property
    def bytes(self) -> int:
        return sum(a.bytes for a in self.arrays)

    @property
    def written(self) -> bool:
        """Whether the source asks for it, inside a shard_map."""
        return self.op_name.rsplit("/", 1)[-1].startswith(WRITTEN)

    @property
    def where(self) -> str:
        return self.source or self.op_name or "made by the compiler"


def collectives(module: Module, mesh_sizes: dict[str, int], arguments: list[str]):
    """All collectives of a program.

    Args:
      mesh_sizes: mesh axis -> size, in the order of the mesh (that of `jax.Mesh.shape`).
      arguments: a name for each parameter of the entry computation.
    """
    origin = Origin(module, arguments)
    rings = _ring_kinds(module)
    found = []
    for where, op, times in module.executed():
        inner = module.inside(op)
        ops = [(where, op)] if inner is None else [(inner, each) for each in inner.ops.values()]
        for place, each in ops:
            kind = each.opcode.removesuffix("-start")
            if kind not in KINDS or _continues(each, place):
                continue
            operands = tuple(a for n in each.operands for a in place.ops[n].arrays)
            results = _results(each, len(operands))
            groups = _groups(each, mesh_sizes)
            ways, axes = _axes_of(groups, mesh_sizes)
            data = tuple(" or ".join(sorted(origin.of(place, n))) for n in each.operands)
            is_ring = kind == "collective-permute" and each.op_name.endswith("dot_general")
            if is_ring:  # where the loop was unrolled, only its data tells what it was
                made_of = "reduce-scatter" if "computed" in data else "all-gather"
                kind = rings.get(_key(each), made_of)
            if kind == "all-reduce" and inner is not None and _scatters(inner, each):
                kind, results = "reduce-scatter", op.arrays
            found.append(
                Collective(
                    name=each.name,
                    kind=kind,
                    arrays=results if kind == "all-gather" else operands,
                    axes=axes,
                    ways=ways,
                    times=times,
                    sent=times * _sent(kind, operands, results, ways, is_ring),
                    data=data,
                    op_name=each.op_name,
                    source=module.source(each),
                    ring=is_ring,
                    aligns=kind == "collective-permute" and _is_scattered(module, place, each),
                    gathers=kind == "all-reduce" and "computed" not in data,
                )
            )
    return found


def _results(op: Op, num_operands: int) -> tuple[Array, ...]:
    """The arrays of the result; an asynchronous start has its operands before them, and flags."""
    if op.opcode == "all-reduce-start" or not op.opcode.endswith("-start"):
        return op.arrays
    return op.arrays[num_operands : 2 * num_operands]


def _sent(kind, operands, results, ways, ring) -> float:
    """Bytes that one chip sends, by the algorithms on a ring."""
    if ways <= 1:
        return 0.0
    size, result = sum(a.bytes for a in operands), sum(a.bytes for a in results)
    if ring or kind == "collective-permute":
        return float(size)
    share = (ways - 1) / ways
    return {
        "all-gather": result * share,
        "reduce-scatter": size * share,
        "all-reduce": 2 * size * share,
        "all-to-all": size * share,
    }[kind]


# ---- Who talks to whom --------------------------------------------------------------------------
def _groups(op: Op, mesh_sizes: dict[str, int]) -> np.ndarray:
    """[groups, members] of device numbers that talk to each other."""
    count = int(np.prod(list(mesh_sizes.values())))
    text = op.attributes
    if match := re.search(r"source_target_pairs=\{(.*?)\}\}", text):
        pairs = [tuple(map(int, p.split(","))) for p in re.findall(r"(\d+,\d+)", match[1])]
        return np.array(pairs).reshape(-1, 2)
    if match := re.search(r"replica_groups=mesh\[([^\]]*)\](.*?)\{([^}]*)\}", text):
        sizes = {k: int(v) for k, v in re.findall(r"'([^']+)'=(\d+)", match[1])}
        order = _device_order(match[2], count).reshape(tuple(sizes.values()))
        names, chosen = list(sizes), re.findall(r"'([^']+)'", match[3])
        last = [names.index(n) for n in chosen]
        kept = [i for i in range(len(names)) if i not in last]
        members = int(np.prod([order.shape[i] for i in last]))
        return order.transpose(kept + last).reshape(-1, members)
    if match := re.search(r"replica_groups=\[([\d,]+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?", text):
        shape, dims = ([int(x) for x in match[n].split(",")] for n in (1, 2))
        order = np.arange(count).reshape(dims)
        if match[3]:
            order = order.transpose([int(x) for x in match[3].split(",")])
        return order.reshape(shape)
    if match := re.search(r"replica_groups=\{(\{.*?\})\}", text):
        rows = [[int(x) for x in g.split(",")] for g in re.findall(r"\{([\d,]+)\}", match[1])]
        return np.array(rows)
    return np.arange(count)[None]


def _device_order(text: str, count: int) -> np.ndarray:
    """Device numbers in the order of a mesh: "device_ids=([4,16]T(1,0))", "device_ids=(3,1,2,0)",
    or nothing when it is 0, 1, 2, ..."""
    if match := re.search(r"device_ids=\(\[([\d,]+)\](?:T\(([\d,]+)\))?\)", text):
        order = np.arange(count).reshape([int(x) for x in match[1].split(",")])
        return order.transpose([int(x) for x in match[2].split(",")]) if match[2] else order
    if match := re.search(r"device_ids=\(([\d,]+)\)", text):
        return np.array([int(x) for x in match[1].split(",")])
    return np.arange(count)


def _axes_of(groups: np.ndarray, mesh_sizes: dict[str, int]) -> tuple[int, tuple[str, ...]]:
    """(members of a group, mesh axes along which they differ). Of a permutation, whose groups are
    (from, to), the members are those of the axes."""
    coordinates = np.array(np.unravel_index(groups, tuple(mesh_sizes.values())))
    differ = [
        axis for axis, at in zip(mesh_sizes, coordinates, strict=True) if (at != at[:, :1]).any()
    ]
    ways = groups.shape[1] if groups.shape[1] > 2 else 0
    ways = ways or int(np.prod([mesh_sizes[a] for a in differ]))
    return ways, tuple(differ)


# ---- Forms that the TPU compiler gives them -----------------------------------------------------
def _continues(op: Op, where: Computation) -> bool:
    """A later step of an asynchronous collective whose start was counted."""
    if "async_collective_fusion_config" not in op.attributes:
        return False
    return not any("AsyncCollectiveStart" in u.attributes for u in where.users[op.name])


def _scatters(inner: Computation, op: Op) -> bool:
    """An all-reduce of which the fusion keeps a slice: the compiler's reduce-scatter."""
    return any(u.opcode == "dynamic-slice" for u in inner.users[op.name])


def _is_scattered(module: Module, where: Computation, op: Op) -> bool:
    while op.operands:
        op = where.ops[op.operands[0]]
        inner = module.inside(op)
        if op.opcode.startswith("reduce-scatter"):
            return True
        if inner is not None:
            return any(o.opcode == "all-reduce" and _scatters(inner, o) for o in inner.ops.values())
        if op.opcode not in MOVES and op.opcode not in PASSES:
            return False
    return False


def _key(op: Op) -> tuple[str, str]:
    frame = re.search(r"stack_frame_id=(\d+)", op.attributes)
    return op.op_name, frame[1] if frame else ""


def _ring_kinds(module: Module) -> dict[tuple[str, str], str]:
    """(op name, stack frame) of matrix products that the compiler interleaved with a ring of
    permutes -> what they gather or scatter."""
    kinds = {}
    for computation in module.computations.values():
        match = re.search(r"windowed_dot_general_body_(ag|rs)", computation.name)
        if match:
            for op in computation.ops.values():
                if op.opcode.startswith("collective-permute"):
                    kinds[_key(op)] = "all-gather" if match[1] == "ag" else "reduce-scatter"
    return kinds
