"""Reads a compiled program's text (`compiled.as_text()`): its operations, and how often each runs.

XLA's own cost analysis counts the body of a loop once. Here bodies are multiplied out, from the
constant that the loop's condition compares with.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import re
from collections.abc import Iterator

BITS = {"pred": 8, "s4": 4, "u4": 4, "s8": 8, "u8": 8, "s16": 16, "u16": 16, "bf16": 16, "f16": 16}
BITS |= {"s32": 32, "u32": 32, "f32": 32, "s64": 64, "u64": 64, "f64": 64, "c64": 64, "c128": 128}
# Data moves through these unchanged: who made it is found behind them.
MOVES = {"bitcast", "copy", "convert", "reshape", "transpose", "optimization-barrier"}


@dataclasses.dataclass(frozen=True)
class Array:
    """One array of a shape. `space` 0 is HBM; others are on-chip memories."""

    dtype: str
    dims: tuple[int, ...]
    space: int = 0

    @property
    def elements(self) -> int:
        return math.prod(self.dims)

    @property
    def bytes(self) -> int:
        bits = BITS.get(self.dtype, 8 if self.dtype.startswith("f8") else 0)
        return -(-self.elements * bits // 8)

    def __str__(self) -> str:
        return f"{self.dtype}[{','.join(map(str, self.dims))}]"


@dataclasses.dataclass
class Op:
    name: str
    opcode: str
    arrays: tuple[Array, ...]  # of the result; several for a tuple
    operands: tuple[str, ...]
    literal: str  # what stands in the parentheses: a constant's value, a parameter's number
    attributes: str
    is_root: bool

    @property
    def bytes(self) -> int:
        return sum(a.bytes for a in self.arrays)

    def called(self, attribute: str) -> str:
        """The computation named by e.g. body=, condition=, calls=, or ""."""
        match = re.search(rf"\b{attribute}=%?([\w.\-]+)", self.attributes)
        return match[1] if match else ""

    @property
    def index(self) -> int:
        """Of a get-tuple-element."""
        match = re.search(r"\bindex=(\d+)", self.attributes)
        return int(match[1]) if match else 0

    @property
    def op_name(self) -> str:
        """Where it comes from in the traced function: "jit(update)/while/body/dot_general"."""
        match = re.search(r'op_name="([^"]*)"', self.attributes)
        return match[1] if match else ""


@dataclasses.dataclass
class Computation:
    name: str
    ops: dict[str, Op]

    @property
    def root(self) -> Op:
        return next(op for op in self.ops.values() if op.is_root)

    @functools.cached_property
    def parameters(self) -> list[Op]:
        found = [op for op in self.ops.values() if op.opcode == "parameter"]
        return sorted(found, key=lambda op: int(op.literal))

    @functools.cached_property
    def users(self) -> dict[str, list[Op]]:
        users: dict[str, list[Op]] = {name: [] for name in self.ops}
        for op in self.ops.values():
            for name in op.operands:
                users[name].append(op)
        return users


@dataclasses.dataclass
class Module:
    """A program. `unknown_loops` names those whose number of turns depends on the data: they count
    `assumed_turns` times."""

    computations: dict[str, Computation]
    entry: Computation
    frames: dict[int, str]  # stack frame -> "file.py:line"
    assumed_turns: float = 1
    unknown_loops: list[str] = dataclasses.field(default_factory=list)

    def executed(self) -> Iterator[tuple[Computation, Op, float]]:
        """(computation, op, how often it runs) of all that is scheduled: loop bodies, branches and
        calls, but not the insides of fusions."""
        self.unknown_loops.clear()
        yield from self._executed(self.entry, 1.0)

    def _executed(self, computation, times):
        for op in computation.ops.values():
            yield computation, op, times
            if op.opcode == "while":
                turns = self.turns(computation, op)
                if turns is None:
                    self.unknown_loops.append(op.name)
                body = self.computations[op.called("body")]
                yield from self._executed(
                    body, times * (self.assumed_turns if turns is None else turns)
                )
            elif op.opcode == "conditional":
                for name in self.branches(op):
                    yield from self._executed(self.computations[name], times)
            elif (called := self.called(op)) is not None:
                yield from self._executed(called, times)

    def inside(self, op: Op) -> Computation | None:
        """The computation of a fusion."""
        return self.computations[op.called("calls")] if op.opcode == "fusion" else None

    def called(self, op: Op) -> Computation | None:
        """The computation of a call, also of one beside the rest (on TPU7x's SparseCores)."""
        if op.opcode not in ("call", "call-start", "async-start"):
            return None
        return self.computations.get(op.called("to_apply") or op.called("calls"))

    def branches(self, op: Op) -> list[str]:
        match = re.search(r"branch_computations=\{([^}]*)\}", op.attributes)
        if match:
            return re.findall(r"%?([\w.\-]+)", match[1])
        names = (op.called(f"{which}_computation") for which in ("true", "false"))
        return [name for name in names if name]

    def source(self, op: Op) -> str:
        """The line of source that the operation comes from, "" when the compiler made it."""
        if match := re.search(r"stack_frame_id=(\d+)", op.attributes):
            return self.frames.get(int(match[1]), "")
        match = re.search(r'source_file="([^"]*)" source_line=(\d+)', op.attributes)
        return f"{_short(match[1])}:{match[2]}" if match else ""

    # ---- Loops ----------------------------------------------------------------------------------
    def turns(self, computation: Computation, op: Op) -> int | None:
        """How often a while loop runs its body, or None when that depends on the data."""
        if match := re.search(r'"?known_trip_count"?[:=]\{"?n"?[:=]"?(\d+)', op.attributes):
            return int(match[1])
        condition = self.computations[op.called("condition")]
        found = [self._turns(computation, op, c) for c in self._comparisons(condition)]
        known = [turns for turns in found if turns is not None]
        return min(known) if known else None

    def _comparisons(self, condition):
        """[(left, right, direction)] that must all hold, each side as `_affine` gives it."""

        def visit(where, op, bound):
            if op.opcode == "compare":
                direction = re.search(r"direction=(\w+)", op.attributes)[1]
                sides = [self._affine(where, where.ops[name], bound) for name in op.operands]
                return [(*sides, direction)]
            if op.opcode == "and":
                return [c for name in op.operands for c in visit(where, where.ops[name], bound)]
            if op.opcode == "fusion":
                inner = self.inside(op)
                values = [self._affine(where, where.ops[name], bound) for name in op.operands]
                return visit(inner, inner.root, values)
            return []

        return visit(condition, condition.root, None)

    def _turns(self, computation, op, comparison):
        left, right, direction = comparison
        if left is None or right is None:
            return None
        if left[0] is None and right[0] is not None:  # limit > index
            flipped = {"GT": "LT", "GE": "LE", "NE": "NE"}
            left, right, direction = right, left, flipped.get(direction, "")
        if left[0] is None or right[0] is not None or direction not in ("LT", "LE", "NE"):
            return None
        index, offset = left
        limit = right[1] - offset + (direction == "LE")
        body = self.computations[op.called("body")]
        step = self._element(body, body.root, index)
        start = self._element(computation, computation.ops[op.operands[0]], index)
        if not step or step[0] != index or step[1] <= 0 or not start or start[0] is not None:
            return None
        return max(0, -(-(limit - start[1]) // step[1]))

    def _element(self, where, op, index):
        while op.opcode in ("copy", "optimization-barrier"):
            op = where.ops[op.operands[0]]
        if op.opcode != "tuple":
            return None
        return self._affine(where, where.ops[op.operands[index]], None)

    def _affine(self, where, op, bound, depth=0):
        """(index, offset): the integer is the computation's carried element `index` plus `offset`,
        or the constant `offset` when index is None. None when it is something else. `bound` holds
        the operands' values inside a fusion."""
        if depth > 50:
            return None

        def follow(name):
            return self._affine(where, where.ops[name], bound, depth + 1)

        if op.opcode == "constant":
            return (None, int(op.literal)) if re.fullmatch(r"-?\d+", op.literal) else None
        if op.opcode == "parameter":
            return bound[int(op.literal)] if bound is not None else None
        if op.opcode == "get-tuple-element":
            source = where.ops[op.operands[0]]
            if source.opcode == "parameter" and bound is None:
                return op.index, 0
            return None
        if op.opcode in MOVES:
            return follow(op.operands[0])
        if op.opcode in ("add", "subtract"):
            a, b = follow(op.operands[0]), follow(op.operands[1])
            if a is None or b is None or (b[0] is not None and (a[0], op.opcode) != (None, "add")):
                return None
            sign = 1 if op.opcode == "add" else -1
            return (a[0] if a[0] is not None else b[0]), a[1] + sign * b[1]
        if op.opcode == "fusion":
            inner = self.inside(op)
            values = [follow(name) for name in op.operands]
            return self._affine(inner, inner.root, values, depth + 1)
        return None


def _short(path: str) -> str:
    """The end of a path, from the package on."""
    parts = path.split("/")
    for package in ("dsmath_jax", "site-packages"):
        if package in parts:
            return "/".join(parts[parts.index(package) + (package == "site-packages") :])
    return parts[-1]


# ---- Parsing ------------------------------------------------------------------------------------
_HEAD = re.compile(r"^(ENTRY )?%?([\w.\-]+) \(.*\{\s*$")
_END = re.compile(r'^\}(, execution_thread="\w+")?\s*$')
_OP = re.compile(r"^\s+(ROOT )?%?([\w.\-]+) = (.*)$")
_ARRAY = re.compile(r"([a-z][a-z0-9]*)\[([^\]]*)\](?:\{([^}]*)\})?")


def parse(text: str) -> Module:
    """A module from its text.

    Raises:
      ValueError: it has no entry computation.
    """
    computations: dict[str, Computation] = {}
    entry, current = None, None
    op = None
    for line in text.splitlines():
        if _END.match(line):
            current = None
        elif current is None:
            if match := _HEAD.match(line):
                current = Computation(match[2], {})
                computations[match[2]] = current
                entry = current if match[1] else entry
        elif match := _OP.match(line):
            op = _parse_op(bool(match[1]), match[2], match[3])
            current.ops[op.name] = op
        elif op is not None:  # a kernel's metadata may hold line breaks
            op.attributes += line
    if entry is None:
        raise ValueError("the text has no ENTRY computation")
    return Module(computations, entry, _frames(text))


def _parse_op(is_root: bool, name: str, rest: str) -> Op:
    rest = re.sub(r"/\*.*?\*/", "", rest)
    end = _closing(rest, 0) if rest[0] == "(" else rest.index(" ")
    shape, rest = rest[:end], rest[end:].lstrip()
    opening = rest.index("(")
    closing = _closing(rest, opening)
    inner = rest[opening + 1 : closing - 1]
    opcode = rest[:opening]
    operands = () if opcode in ("constant", "parameter") else _operands(inner)
    return Op(name, opcode, parse_shape(shape), operands, inner, rest[closing:], is_root)


def _operands(inner: str) -> tuple[str, ...]:
    return tuple(re.findall(r"%([\w.\-]+)", inner))


def _closing(text: str, start: int) -> int:
    """The position after the bracket that closes the one at `start`."""
    depth = 0
    for i in range(start, len(text)):
        if text[i] == "(":
            depth += 1
        elif text[i] == ")":
            depth -= 1
            if depth == 0:
                return i + 1
    return len(text)


def parse_shape(text: str) -> tuple[Array, ...]:
    """The arrays of a shape: one, or those of a (nested) tuple."""
    arrays = []
    for dtype, dims, layout in _ARRAY.findall(text):
        space = re.search(r"S\((\d+)\)", layout)
        sizes = tuple(int(d.lstrip("<=")) for d in dims.split(",") if d)
        arrays.append(Array(dtype, sizes, int(space[1]) if space else 0))
    return tuple(arrays)


def _frames(text: str) -> dict[int, str]:
    """The tables of source lines at the head of the text; the innermost line of the project."""

    def table(title):
        match = re.search(rf"^{title}\n((?:\d+ .*\n)*)", text, re.MULTILINE)
        return dict(line.split(" ", 1) for line in match[1].splitlines()) if match else {}

    def field(line, name):
        match = re.search(rf"{name}=(\d+)", line)
        return match[1] if match else "0"

    files = {key: value.strip('"') for key, value in table("FileNames").items()}
    locations = table("FileLocations")
    stack = table("StackFrames")
    frames = {}
    for key, line in stack.items():
        location = locations.get(field(line, "file_location_id"), "")
        path = files.get(field(location, "file_name_id"), "")
        frames[int(key)] = f"{_short(path)}:{field(location, 'line')}" if path else ""
    return frames
