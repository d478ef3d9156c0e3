"""Compiles a program for devices that are not there and says what it needs of each."""

from __future__ import annotations

import dataclasses
import inspect
import re
import time
from collections.abc import Mapping
from typing import Any

import jax

from dsmath_jax.compilation import costs, hlo
from dsmath_jax.compilation.collectives import (
    Design,
    Unasked,
    carries,
    collectives,
    unasked,
)
from dsmath_jax.compilation.roofline import Times, times
from dsmath_jax.compilation.topologies import captured_stderr
from dsmath_jax.training.hardware import Chip

# What an argument is, by a part of its path in the program's arguments; the first that fits.
KINDS = (
    ("cache", "KV cache"),
    ("critic_opt", "critic's optimizer"),
    ("opt_state", "optimizer"),
    ("reference", "reference"),
    ("critic", "critic"),
    ("params", "weights"),
    ("batch", "batch"),
)


@dataclasses.dataclass(frozen=True)
class Program:
    """A function to compile.

    arguments: as it is called, arrays as `jax.ShapeDtypeStruct` with their shardings.
    design: the collectives that its sharding means.
    runs: how often a step runs it.
    model_flops: of one run on all chips together, for MFU.
    kinds: what its arguments are, where their names in the function do not say: name -> kind.
    beside: kind -> arrays that stay in memory while it runs without being its arguments.
    results: what it makes that is not in place of an argument.
    """

    name: str
    function: Any
    arguments: tuple
    design: Design
    runs: float = 1.0
    model_flops: float = 0.0
    kinds: Mapping[str, str] = dataclasses.field(default_factory=dict)
    beside: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    results: str = "results"


@dataclasses.dataclass
class Report:
    """What a program needs of one chip. `memory` and `beside` are bytes by kind; `error` says why
    the compiler refused it (then what follows `beside` is empty)."""

    name: str
    runs: float
    model_flops: float
    compile_seconds: float
    limit: float
    memory: dict[str, float]
    beside: dict[str, float]
    error: str = ""
    flops: float = 0.0
    hbm: float = 0.0
    sent: dict[str, float] = dataclasses.field(default_factory=dict)
    times: Times = Times(0.0, 0.0, 0.0)
    unasked: list[Unasked] = dataclasses.field(default_factory=list)
    warnings: list[str] = dataclasses.field(default_factory=list)

    @property
    def peak(self) -> float:
        return sum(self.memory.values()) + sum(self.beside.values())

    @property
    def fits(self) -> bool:
        return not self.error and self.peak <= self.limit


def analyse(program: Program, mesh: jax.sharding.Mesh, chip: Chip) -> tuple[Report, Any]:
    """Compiles a program and reads what the compiler made.

    Returns:
      (report, the compiled program, or None when it needs more memory than there is).
    """
    beside = {kind: bytes_per_chip(tree) for kind, tree in program.beside.items()}
    start = time.perf_counter()
    said: list[str] = []
    try:
        with jax.set_mesh(mesh), captured_stderr() as said:
            compiled = program.function.lower(*program.arguments).compile()
    except jax.errors.JaxRuntimeError as e:
        needed, limit = _out_of_memory(str(e), chip)
        arguments = _argument_memory(program)
        rest = max(needed - sum(arguments.values()), 0.0)
        memory = arguments | {"temporary": rest}
        seconds = time.perf_counter() - start
        args = (program.name, program.runs, program.model_flops, seconds, limit, memory, beside)
        return Report(*args, error=_one_line(str(e))), None
    seconds = time.perf_counter() - start
    module = hlo.parse(compiled.as_text())
    names = [_path(op) for op in module.entry.parameters]
    found = collectives(module, dict(mesh.shape), names)
    sent: dict[str, float] = {}
    for c in found:
        sent[c.kind] = sent.get(c.kind, 0.0) + c.sent
    flops, hbm = costs.flops(module), costs.hbm_bytes(module)
    report = Report(
        name=program.name,
        runs=program.runs,
        model_flops=program.model_flops,
        compile_seconds=seconds,
        limit=chip.memory,
        memory=_memory(program, module, names, compiled.memory_analysis()),
        beside=beside,
        flops=flops,
        hbm=hbm,
        sent=sent,
        times=times(flops, hbm, found, mesh, chip),
        unasked=unasked(found, program.design, _weight_sizes(program, mesh)),
        warnings=_warnings(said[0] if said else ""),
    )
    return report, compiled


def bytes_per_chip(tree: Any) -> float:
    """Of arrays or shapes with shardings, on the device that has most of them."""
    return float(sum(_local_bytes(x) for x in jax.tree.leaves(tree)))


def _local_bytes(x) -> float:
    shape = x.sharding.shard_shape(x.shape) if getattr(x, "sharding", None) else x.shape
    size = 1
    for d in shape:
        size *= d
    return size * x.dtype.itemsize


def _path(op: hlo.Op) -> str:
    """The argument's path that JAX noted on a parameter: "state.params['head']"."""
    return op.op_name.replace("\\'", "'") or f"argument {op.literal}"


def _kind(program: Program, path: str) -> str:
    for part, kind in (*program.kinds.items(), *KINDS):
        if part in path:
            return kind
    return "other arguments"


# ---- Memory -------------------------------------------------------------------------------------
def _memory(program, module: hlo.Module, names: list[str], stats) -> dict[str, float]:
    """Bytes by kind, which add up to what the compiler allots: arguments, results that reuse none,
    temporaries, code."""
    memory: dict[str, float] = {}
    for op, name in zip(module.entry.parameters, names, strict=True):
        kind = _kind(program, name)
        memory[kind] = memory.get(kind, 0.0) + op.bytes
    # The compiler pads small arrays to its tiles.
    padding = stats.argument_size_in_bytes - sum(memory.values())
    temporary = float(stats.temp_size_in_bytes)
    for kind, size in _in_loops(module, names).items():
        memory[kind] = min(size, temporary)
        temporary -= memory[kind]
    memory["temporary"] = temporary
    made = max(stats.output_size_in_bytes - stats.alias_size_in_bytes, 0)
    memory[program.results] = memory.get(program.results, 0.0) + made
    memory["code and padding"] = max(padding, 0) + stats.generated_code_size_in_bytes
    return {kind: size for kind, size in memory.items() if size}


def _in_loops(module: hlo.Module, names: list[str]) -> dict[str, float]:
    """Of the temporaries, those that loops carry: sums of gradients (shaped as the parameters are)
    and what layers keep for the backward pass (one for each turn of a loop, made by it)."""
    sizes = [op.arrays[0].dims for op, n in zip(module.entry.parameters, names, strict=True)
             if "params" in n]  # fmt: skip
    shapes = {dims for dims in sizes if len(dims) > 1}
    gradients = kept = 0.0
    for where, op, _ in module.executed():
        if op.opcode != "while":
            continue
        turns = module.turns(where, op)
        body = module.computations[op.called("body")]
        sums = layers = 0.0
        for index, array in enumerate(op.arrays):
            if array.space or len(array.dims) < 2 or carries(body, index):
                continue
            if array.dims in shapes:
                sums += array.bytes
            elif array.dims[0] == turns and turns > 1 and "jvp()" in op.op_name:
                layers += array.bytes
        gradients, kept = max(gradients, sums), max(kept, layers)
    return {"gradients": gradients, "activations": kept}


def _argument_memory(program: Program) -> dict[str, float]:
    """Bytes by kind from the shardings, for a program that was not compiled."""
    memory: dict[str, float] = {}
    for path, leaf in _leaves(program):
        kind = _kind(program, path)
        memory[kind] = memory.get(kind, 0.0) + _local_bytes(leaf)
    return memory


def _leaves(program: Program) -> list[tuple[str, jax.ShapeDtypeStruct]]:
    """(path, shape) of every array among the arguments, named as JAX names the parameters."""
    names = inspect.signature(program.function).parameters
    return [
        (name + jax.tree_util.keystr(path), leaf)
        for name, argument in zip(names, program.arguments, strict=False)
        for path, leaf in jax.tree_util.tree_leaves_with_path(argument)
        if isinstance(leaf, jax.ShapeDtypeStruct)
    ]


def _out_of_memory(message: str, chip: Chip) -> tuple[float, float]:
    """(bytes needed, bytes that there are), from the compiler's refusal.

    Raises:
      RuntimeError: it refused for another reason.
    """
    units = {"K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}

    def size(text):
        return float(text[:-1]) * units[text[-1]]

    for pattern in (
        r"Used ([\d.]+[KMGT]) of ([\d.]+[KMGT]) hbm",
        r"\(([\d.]+[KMGT])\) exceeds available HBM \(([\d.]+[KMGT])\)",
    ):
        if match := re.search(pattern, message):
            return size(match[1]), min(size(match[2]), chip.memory)
    if "RESOURCE_EXHAUSTED" in message:
        return 0.0, chip.memory
    raise RuntimeError(message)


def _one_line(message: str) -> str:
    return message.splitlines()[0].split("RESOURCE_EXHAUSTED: ")[-1]


def _weight_sizes(program: Program, mesh: jax.sharding.Mesh) -> dict[str, float]:
    """Argument path -> bytes of a weight in bfloat16, over its tensor ways: one whole gather."""
    sizes = {}
    for path, leaf in _leaves(program):
        if isinstance(leaf.sharding, jax.sharding.NamedSharding):
            used = jax.tree.leaves(tuple(leaf.sharding.spec))
            ways = mesh.shape["tensor"] if "tensor" in used else 1
            sizes[path] = 2.0 * leaf.size / ways
    return sizes


def _warnings(text: str) -> list[str]:
    """The partitioner's own complaints, once each."""
    lines = [x for x in text.splitlines() if "ematerialization" in x and "nvoluntary" in x]
    return list(dict.fromkeys(re.sub(r"^.*?(\[?SPMD|Involuntary)", r"\1", x)[:300] for x in lines))
