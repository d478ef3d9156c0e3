"""What one chip computes and moves in a compiled program, loops multiplied out.

FLOPs: matrix products alone, 2 for each multiply-add, of what is executed (so with what
rematerialisation computes again). Bytes: what each scheduled operation reads from and writes to
HBM; arrays that the compiler keeps on the chip cost nothing, nor do loops' carried arrays.
"""

from __future__ import annotations

import re

from dsmath_jax.compilation.hlo import Array, Computation, Module, Op

FREE = {
    *("parameter", "constant", "get-tuple-element", "tuple", "bitcast", "while", "conditional"),
    *(
        "call",
        "call-start",
        "after-all",
        "partition-id",
        "replica-id",
        "iota",
        "optimization-barrier",
    ),
    *("async-start", "async-done", "async-update", "domain", "add-dependency"),
}
RELAYOUTS = ("bitcast", "copy", "transpose", "reshape")  # inside a fusion they move nothing
# Of splash attention's kernels, by a part of their names: matrix products [queries, keys] x head.
KERNELS = {"fwd": 2, "dkv": 5, "dq": 3}


def flops(module: Module) -> float:
    """Of matrix products on one chip, in one run of the program."""
    return sum(times * op_flops(module, where, op) for where, op, times in module.executed())


def op_flops(module: Module, where: Computation, op: Op) -> float:
    inner = module.inside(op)
    if inner is not None:
        return sum(op_flops(module, inner, each) for each in inner.ops.values())
    operands = [where.ops[name].arrays[0] for name in op.operands if where.ops[name].arrays]
    if op.opcode == "dot":
        contracted = _dims(op, "lhs_contracting_dims")
        size = 1
        for d in contracted:
            size *= operands[0].dims[d]
        return 2.0 * op.arrays[0].elements * size
    if op.opcode == "convolution":
        return _convolution_flops(op, operands[0], operands[1])
    if op.opcode == "custom-call" and "tpu_custom_call" in op.attributes:
        return _kernel_flops(op, operands)
    return 0.0


def _dims(op: Op, name: str) -> list[int]:
    match = re.search(rf"{name}=\{{([\d,]*)\}}", op.attributes)
    return [int(d) for d in match[1].split(",") if d] if match else []


def _convolution_flops(op: Op, left: Array, right: Array) -> float:
    """TPU compilers write every matrix product as a convolution, and batches of products as windows
    of which all but one position fall on padding or between dilated elements: only positions that
    meet an element count."""
    ((lhs, rhs, out),) = re.findall(r"dim_labels=(\w+)_(\w+)->(\w+)", op.attributes)
    window = dict(re.findall(r"(\w+)=([\dx_\-]+)", _braces(op.attributes, "window=")))
    spatial = sorted(c for c in out if c.isdigit())
    pairs = 1
    for n, label in enumerate(spatial):

        def values(name, default, n=n):
            return window[name].split("x")[n] if name in window else default

        low, _ = (int(x) for x in values("pad", "0_0").split("_"))
        pairs *= _valid_pairs(
            size=left.dims[lhs.index(label)],
            kernel=right.dims[rhs.index(label)],
            out=op.arrays[0].dims[out.index(label)],
            low=low,
            stride=int(values("stride", "1")),
            left_dilation=int(values("lhs_dilate", "1")),
            right_dilation=int(values("rhs_dilate", "1")),
        )
    groups = re.search(r"batch_group_count=(\d+)", op.attributes)
    batch = left.dims[lhs.index("b")] // (int(groups[1]) if groups else 1)
    channels = right.dims[rhs.index("i")] * right.dims[rhs.index("o")]
    return 2.0 * batch * channels * pairs


def _valid_pairs(size, kernel, out, low, stride, left_dilation, right_dilation) -> int:
    """(output position, kernel position) pairs of one dimension that meet an input element."""
    if (kernel, stride, left_dilation, low) == (1, 1, 1, 0):
        return min(out, size)
    count = 0
    for k in range(kernel):
        for o in range(out):
            at = o * stride - low + k * right_dilation
            count += at >= 0 and at % left_dilation == 0 and at // left_dilation < size
    return count


def _braces(text: str, before: str) -> str:
    start = text.find(before + "{")
    return text[start + len(before) + 1 : text.index("}", start)] if start >= 0 else ""


def _kernel_flops(op: Op, operands: list[Array]) -> float:
    """A Pallas attention kernel's, by its queries [..., heads, length, head_dim] and the causal
    mask: half of the square (a segment mask skips nothing)."""
    products = next((n for part, n in KERNELS.items() if part in _kernel_name(op)), 0)
    shapes = [a.dims for a in operands if len(a.dims) >= 3 and a.dtype in ("bf16", "f32")]
    if not products or not shapes:
        return 0.0
    q, k = shapes[0], shapes[1]
    rows = 1
    for d in q[:-1]:
        rows *= d
    return 2.0 * products * rows * (k[-2] + 1) / 2 * q[-1]


def _kernel_name(op: Op) -> str:
    match = re.search(r'kernel_name[\\]?"?[:=]\s*[\\]?"([\w\-]+)', op.attributes)
    return (match[1] if match else op.name) + " " + op.op_name


# ---- HBM ----------------------------------------------------------------------------------------
def hbm_bytes(module: Module) -> float:
    """Read from and written to one chip's HBM in one run of the program."""
    return sum(times * _op_bytes(module, where, op) for where, op, times in module.executed())


def _op_bytes(module: Module, where: Computation, op: Op) -> float:
    if op.opcode in FREE or op.opcode.endswith("-done"):
        return 0.0
    if op.opcode.endswith("-start"):
        return _start_bytes(op, [a for name in op.operands for a in where.ops[name].arrays])
    if "AllocateBuffer" in op.attributes:
        return 0.0
    if op.opcode in ("dynamic-slice", "slice", "gather"):
        read = (
            sum(a.bytes for a in op.arrays) if not where.ops[op.operands[0]].arrays[0].space else 0
        )
        return read + _in_hbm(op.arrays)
    if op.opcode == "dynamic-update-slice":
        return _updated(where, op, op.arrays[0])
    inner = module.inside(op)
    if inner is None:
        reads = _in_hbm(a for name in set(op.operands) for a in where.ops[name].arrays)
        return reads + _in_hbm(op.arrays)
    total = 0.0
    for name, parameter in zip(op.operands, inner.parameters, strict=True):
        arrays = where.ops[name].arrays
        if not arrays or arrays[0].space:
            continue
        total += _read_of(module, inner, parameter, arrays)
    root = inner.root
    results = [inner.ops[n] for n in root.operands] if root.opcode == "tuple" else [root]
    for array, result in zip(op.arrays, results, strict=False):
        while result.opcode in ("bitcast", "copy"):
            result = inner.ops[result.operands[0]]
        if result.opcode == "dynamic-update-slice":
            total += 0 if array.space else inner.ops[result.operands[1]].bytes
        else:
            total += _in_hbm([array])
    return total


def _start_bytes(op: Op, sources: list[Array]) -> float:
    """Of an asynchronous operation, by how the compiler writes its result: (destination, source)
    for a copy, the destinations alone for an all-reduce, else (sources, destinations)."""
    if op.opcode == "copy-start":
        return _in_hbm(sources) + _in_hbm(op.arrays[:1])
    if op.opcode == "all-reduce-start":
        return _in_hbm(sources) + _in_hbm(op.arrays)
    results = op.arrays[len(sources) : 2 * len(sources)]
    if op.opcode == "slice-start":
        return _in_hbm(results) + (0.0 if sources[0].space else results[0].bytes)
    return _in_hbm(sources) + _in_hbm(results)


def _in_hbm(arrays) -> float:
    return float(sum(a.bytes for a in arrays if a.space == 0))


def _only_relayouts(inner: Computation) -> bool:
    """Whether it is the same elements in another layout: TPU7x's compiler fuses such copies."""
    return all(op.opcode in ("parameter", *RELAYOUTS) for op in inner.ops.values())


def _updated(where: Computation, op: Op, array: Array) -> float:
    update = where.ops[op.operands[1]]
    return _in_hbm(update.arrays) + (0 if array.space else update.bytes)


def _read_of(module: Module, inner: Computation, parameter: Op, arrays) -> float:
    """What a fusion reads of an operand: the slices alone where it only slices it (maybe in a
    fusion inside it), nothing where it writes into it in place."""
    whole = _in_hbm(arrays)
    total, pending = 0.0, [parameter]
    while pending:
        op = pending.pop()
        if op.name == inner.root.name:
            return whole
        for user in inner.users[op.name]:
            first = inner.ops[user.operands[0]]
            nested = module.inside(user)
            if user.opcode in RELAYOUTS or (nested is not None and _only_relayouts(nested)):
                pending.append(user)
            elif user.opcode in ("dynamic-slice", "slice", "gather"):
                total += user.bytes
            elif user.opcode == "dynamic-update-slice" and first.arrays == arrays:
                continue
            elif nested is not None:
                for name, each in zip(user.operands, nested.parameters, strict=True):
                    if name == op.name:
                        total += _read_of(module, nested, each, arrays)
            else:
                return whole
    return min(total, whole)
