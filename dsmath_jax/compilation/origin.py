"""Whose data an array of a compiled program is: an argument's, moved or converted, or computed."""

from __future__ import annotations

from dsmath_jax.compilation.hlo import MOVES, Computation, Module, Op

# Operations whose result is (a part of) their first operand, beside `MOVES`.
PASSES = {
    *(
        "broadcast",
        "slice",
        "dynamic-slice",
        "copy-start",
        "copy-done",
        "slice-start",
        "slice-done",
        "pad",
    ),
    *("all-gather", "all-gather-start", "all-gather-done", "collective-permute"),
    *("collective-permute-start", "collective-permute-done"),
}


class Origin:
    """Finds which arguments of a program an array is, moved or converted but not computed with."""

    def __init__(self, module: Module, arguments: list[str]):
        self.module, self.arguments = module, arguments
        self.callers: dict[str, tuple[Computation, Op]] = {}
        for where in module.computations.values():
            for op in where.ops.values():
                if op.opcode in ("while", "fusion", "call", "call-start", "async-start"):
                    for attribute in ("body", "calls", "to_apply"):
                        self.callers[op.called(attribute)] = (where, op)

    def of(self, place: Computation, name: str) -> set[str]:
        """Of the first element of a result: paths of arguments, or "computed". Constants
        (buffers begin with some) are let pass."""
        found, seen, pending = set(), set(), [(place, name, 0)]
        while pending:
            where, each, index = pending.pop()
            if (where.name, each, index) in seen:
                continue
            seen.add((where.name, each, index))
            op = where.ops[each]
            if op.opcode == "parameter" and where is self.module.entry:
                found.add(self.arguments[int(op.literal)])
            elif before := self._before(where, op, index):
                pending += before
            elif op.opcode != "constant" and "AllocateBuffer" not in op.attributes:
                return {"computed"}
        return found or {"computed"}

    def _before(self, where: Computation, op: Op, index: int) -> list[tuple]:
        """(computation, operation, element) that element `index` of a result may be; none when it
        is computed."""
        if op.opcode == "parameter":
            place, caller = self.callers.get(where.name, (where, op))
            if caller.opcode == "while":
                return self._before(place, caller, index)
            return [(place, caller.operands[int(op.literal)], index)] if caller is not op else []
        if op.opcode == "get-tuple-element":
            return [(where, op.operands[0], op.index)]
        if op.opcode == "tuple":
            return [(where, op.operands[index], 0)]
        if op.opcode == "while":  # what it starts with, or what its body makes of it
            body = self.module.computations[op.called("body")]
            return [(where, op.operands[0], index), (body, body.root.name, index)]
        if op.opcode in MOVES or op.opcode in PASSES:
            return [(where, op.operands[0], index if op.opcode == "optimization-barrier" else 0)]
        if op.opcode == "dynamic-update-slice":
            return [(where, op.operands[1], 0)]
        if op.opcode in ("call-done", "async-done"):
            op = where.ops[op.operands[0]]
        inner = self.module.inside(op) or self.module.called(op)
        if inner is not None:
            return [(inner, inner.root.name, index)]
        if op.opcode == "custom-call" and (
            len(op.operands) == 1 or "ConcatBitcast" in op.attributes
        ):
            return [(where, name, 0) for name in op.operands]
        return []


def carries(body: Computation, index: int) -> bool:
    """Whether a loop's body hands element `index` on as it got it."""
    root = body.root
    if root.opcode != "tuple":
        return False
    op = body.ops[root.operands[index]]
    while op.opcode in ("copy", "bitcast"):
        op = body.ops[op.operands[0]]
    if op.opcode != "get-tuple-element":
        return False
    source = body.ops[op.operands[0]]
    return source.opcode == "parameter" and f"index={index}" in op.attributes
