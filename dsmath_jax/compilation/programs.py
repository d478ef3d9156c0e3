"""Compiles a program for devices that are not there and says what it needs of each."""

from __future__ import annotations

import dataclasses
import inspect
import math
import re
import time
from collections.abc import Iterable, Mapping
from typing import Any

import jax

from dsmath_jax.compilation import costs, hlo
from dsmath_jax.compilation.collectives import collectives
from dsmath_jax.compilation.design import Design, Unasked, unasked
from dsmath_jax.compilation.origin import carries
from dsmath_jax.compilation.roofline import NOTHING, Times, times
from dsmath_jax.compilation.topologies import captured_stderr
from dsmath_jax.training.errors import TrainingError
from dsmath_jax.training.hardware import Chip

# What an argument is, by its path in the program's arguments; the first pattern that is found.
KINDS = (
    (r"\bgeneration\b", "generation weights"),
    (r"\bcache\b", "KV cache"),
    (r"\bopt_state\b.*'critic'", "critic's optimizer"),
    (r"\bopt_state\b", "optimizer"),
    (r"\breference\b", "reference"),
    (r"'critic'", "critic"),
    (r"\bparams\b", "weights"),
    (r"\b(batch|rows)\b", "batch"),
)


@dataclasses.dataclass(frozen=True)
class Program:
    """A function to compile.

    arguments: as it is called, arrays as `jax.ShapeDtypeStruct` with their shardings.
    mesh: the one that is set when it is called.
    design: the collectives that its sharding means.
    runs: how often a step runs it.
    model_flops: of one run on all chips together, for MFU.
    kinds: what its arguments are, where their names in the function do not say: pattern -> kind.
    beside: path -> arrays that stay in memory while it runs without being its arguments.
    results: what it makes that is not in place of an argument.
    turns: of the loops that end by their data, as decoding does; None where none should.
    """

    name: str
    function: Any
    arguments: tuple
    mesh: jax.sharding.Mesh
    design: Design
    runs: float = 1.0
    model_flops: float = 0.0
    kinds: Mapping[str, str] = dataclasses.field(default_factory=dict)
    beside: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    results: str = "results"
    turns: int | None = None


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
    times: Times = NOTHING
    unasked: list[Unasked] = dataclasses.field(default_factory=list)
    warnings: list[str] = dataclasses.field(default_factory=list)

    @property
    def peak(self) -> float:
        return sum(self.memory.values()) + sum(self.beside.values())

    @property
    def fits(self) -> bool:
        return not self.error and self.peak <= self.limit


def analyse(program: Program, chip: Chip) -> tuple[Report, Any]:
    """Compiles a program and reads what the compiler made.

    Returns:
      (report, the compiled program, or None when it needs more memory than there is).

    Raises:
      TrainingError: the compiler itself fails.
    """
    beside = _by_kind({}, program.beside.items())
    arguments = _by_kind(program.kinds, _arguments(program))
    known = (program.name, program.runs, program.model_flops)
    least = sum(arguments.values()) + sum(beside.values())
    if least > chip.memory:
        error = f"what is in memory before it starts is {least / 2**30:.2f} GiB"
        return Report(*known, 0.0, chip.memory, arguments, beside, error), None
    start = time.perf_counter()
    said: list[str] = []
    try:
        with jax.set_mesh(program.mesh), captured_stderr() as said:
            compiled = program.function.lower(*program.arguments).compile()
    except jax.errors.JaxRuntimeError as e:
        if "RESOURCE_EXHAUSTED" not in str(e):
            raise TrainingError(f"the compiler fails on {program.name}: {_one_line(str(e))}") from e
        temporary, limit = _out_of_memory(str(e), sum(arguments.values()), chip)
        memory = arguments | {"temporary": temporary}
        seconds = time.perf_counter() - start
        return Report(*known, seconds, limit, memory, beside, _one_line(str(e))), None
    seconds = time.perf_counter() - start
    module = hlo.parse(compiled.as_text())
    module.assumed_turns = program.turns or 1
    names = [_path(op) for op in module.entry.parameters]
    found = collectives(module, dict(program.mesh.shape), names)
    sent: dict[str, float] = {}
    for c in found:
        sent[c.kind] = sent.get(c.kind, 0.0) + c.sent
    flops, hbm = costs.flops(module), costs.hbm_bytes(module)
    report = Report(
        *known,
        seconds,
        chip.memory,
        _memory(program, module, names, compiled.memory_analysis()),
        beside,
        flops=flops,
        hbm=hbm,
        sent=sent,
        times=times(flops, hbm, found, program.mesh, chip),
        unasked=unasked(found, program.design, _weight_sizes(program)),
        warnings=_warnings(said[0] if said else "") + _uncounted(program, module),
    )
    return report, compiled


def _local_bytes(x: jax.ShapeDtypeStruct) -> float:
    """Of one device's part."""
    shape = x.sharding.shard_shape(x.shape) if x.sharding is not None else x.shape
    return float(math.prod(shape) * x.dtype.itemsize)


def _path(op: hlo.Op) -> str:
    """The argument's path that JAX noted on a parameter: "state.params['head']"."""
    return op.op_name.replace("\\'", "'") or f"argument {op.literal}"


def _kind(kinds: Mapping[str, str], path: str) -> str:
    for pattern, kind in (*kinds.items(), *KINDS):
        if re.search(pattern, path):
            return kind
    return "other arguments"


def _by_kind(kinds: Mapping[str, str], named: Iterable[tuple[str, Any]]) -> dict[str, float]:
    """Bytes on one device of trees of shapes, given with the path at which each starts."""
    memory: dict[str, float] = {}
    for path, leaf in _leaves(named):
        kind = _kind(kinds, path)
        memory[kind] = memory.get(kind, 0.0) + _local_bytes(leaf)
    return memory


def _leaves(named: Iterable[tuple[str, Any]]) -> list[tuple[str, jax.ShapeDtypeStruct]]:
    return [
        (name + jax.tree_util.keystr(path), leaf)
        for name, tree in named
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
        if isinstance(leaf, jax.ShapeDtypeStruct)
    ]


def _arguments(program: Program) -> list[tuple[str, Any]]:
    """The arguments by the names that JAX gives the program's parameters."""
    return list(
        zip(inspect.signature(program.function).parameters, program.arguments, strict=False)
    )


# ---- Memory -------------------------------------------------------------------------------------
def _memory(program, module: hlo.Module, names: list[str], stats) -> dict[str, float]:
    """Bytes by kind, which add up to what the compiler allots: arguments, results that reuse none,
    temporaries, code."""
    memory: dict[str, float] = {}
    for op, name in zip(module.entry.parameters, names, strict=True):
        kind = _kind(program.kinds, name)
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
    parameters = zip(module.entry.parameters, names, strict=True)
    shapes = {
        (op.arrays[0].dtype, op.arrays[0].dims) for op, name in parameters if "params" in name
    }
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
            if (array.dtype, array.dims) in shapes:
                sums += array.bytes
            elif array.dims[0] == turns and turns > 1 and "jvp()" in op.op_name:
                layers += array.bytes
        gradients, kept = max(gradients, sums), max(kept, layers)
    return {"gradients": gradients, "activations": kept}


def _out_of_memory(message: str, arguments: float, chip: Chip) -> tuple[float, float]:
    """(bytes needed beside the arguments, bytes that there are), from the compiler's refusal."""
    units = {"K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}

    def size(text):
        return float(text[:-1]) * units[text[-1]]

    if match := re.search(r"Used ([\d.]+[KMGT]) of ([\d.]+[KMGT]) hbm", message):
        return max(size(match[1]) - arguments, 0.0), min(size(match[2]), chip.memory)
    pattern = r"\(([\d.]+[KMGT])\) exceeds available HBM \(([\d.]+[KMGT])\)"
    if match := re.search(pattern, message):
        return size(match[1]), min(size(match[2]), chip.memory)
    raise TrainingError(f"the compiler's memory does not suffice: {_one_line(message)}")


def _one_line(message: str) -> str:
    return message.splitlines()[0].split("RESOURCE_EXHAUSTED: ")[-1]


def _weight_sizes(program: Program) -> dict[str, float]:
    """Argument path -> elements of a weight, over its tensor ways: one whole gather."""
    sizes = {}
    for path, leaf in _leaves(_arguments(program)):
        if isinstance(leaf.sharding, jax.sharding.NamedSharding):
            used = jax.tree.leaves(tuple(leaf.sharding.spec))
            ways = program.mesh.shape["tensor"] if "tensor" in used else 1
            sizes[path] = leaf.size / ways
    return sizes


def _uncounted(program: Program, module: hlo.Module) -> list[str]:
    loops = len(set(module.unknown_loops))
    if program.turns is not None or not loops:
        return []
    return [f"{loops} loops end by their data and count as one turn: the figures are too low"]


def _warnings(text: str) -> list[str]:
    """The partitioner's own complaints, once each."""
    lines = [x for x in text.splitlines() if "ematerialization" in x and "nvoluntary" in x]
    return list(dict.fromkeys(re.sub(r"^.*?(\[?SPMD|Involuntary)", r"\1", x)[:300] for x in lines))
