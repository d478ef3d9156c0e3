"""Writes dry_run.md and dry_run.json beside itself.

python docs/results/make_dry_run.py runs/dry_run [--sizes 8 64 256] [--only SUBSTRING] [--table]

Compiles each combination in a process of its own (one to five minutes each) and keeps what it said in
runs/dry_run/NAME, so that it goes on where it was stopped; --table only writes the pages from what is
there. --only takes the combinations whose name (as in 7b-grpo-v5p-64) holds the text.
"""

import argparse
import datetime
import importlib.metadata
import json
import os
import pathlib
import shutil
import subprocess
import sys
import time

from dsmath_jax.training.hardware import CHIPS as CHIP_FIGURES

HERE = pathlib.Path(__file__).resolve().parent
REPO = HERE.parents[1]
MODELS = {"1.3b": "deepseek_1_3b", "7b": "deepseek_7b"}
HIDDEN = {"1.3b": 2048, "7b": 4096}
STAGES = ("pretrain", "sft", "grpo", "ppo")
CONFIGS = {
    "pretrain": "pretrain_7b_tpu",
    "sft": "sft_7b_tpu",
    "grpo": "grpo_tpu",
    "ppo": "grpo_tpu",
}
CHIPS = ("v5e", "v5p", "v6e", "tpu7x")
SHAPES = {
    "flat": {8: "2x4", 16: "4x4", 32: "4x8", 64: "8x8", 128: "8x16", 256: "16x16"},
    "cube": {8: "2x2x2", 16: "2x2x4", 32: "2x4x4", 64: "4x4x4", 128: "4x4x8", 256: "4x8x8"}
    | {512: "8x8x8", 1024: "8x8x16", 2048: "8x16x16", 4096: "16x16x16"},
}
GIB = {"v5e": 16, "v5p": 95, "v6e": 32, "tpu7x": 96}
CURVE = (16, 64, 256, 1024, 4096)  # v5p chips, at 16 rows of 4096 tokens a chip


def topology(chip: str, chips: int) -> str:
    return f"{chip}:{SHAPES['flat' if chip in ('v5e', 'v6e') else 'cube'][chips]}"


def layout(model: str, chip: str, devices: int, rows: int) -> dict[str, int]:
    """Mesh sizes: over fsdp 16 as in the configurations, on chips with less memory as many as leave
    shards of 128 of the hidden size; data for the rest, and sequence where there are more devices
    than rows."""
    sequence = max(1, devices // rows)
    fsdp = min(devices // sequence, 16 if GIB[chip] > 90 else HIDDEN[model] // 128)
    return {"data": devices // sequence // fsdp, "fsdp": fsdp, "tensor": 1, "sequence": sequence}


def settings(model: str, stage: str, chip: str, chips: int) -> list[str]:
    """Flags of launch/train.py for a combination."""
    devices = chips * (2 if chip == "tpu7x" else 1)
    rows = {"pretrain": 2560 if model == "7b" else 1024, "sft": 256}.get(stage, 1024)
    mesh = layout(model, chip, devices, rows)
    ways = mesh["data"] * mesh["fsdp"]
    if stage == "pretrain":  # the batch nearest to the paper's that splits evenly
        rows = max(1, round(rows / ways)) * ways
    # RL's rows are half as long, and its parts small, for half of one is empty on average.
    at_once = 2 if stage in ("grpo", "ppo") else {16: 1, 32: 2, 95: 4, 96: 4}[GIB[chip]]
    at_once *= 2 if model == "1.3b" else 1
    parts = max(1, rows // ways // at_once)
    while rows // ways % parts:
        parts += 1
    flags = {"model": MODELS[model], "micro_batches": parts, "eval.batch_size": ways}
    flags |= {f"mesh.{axis}": size for axis, size in mesh.items()}
    if stage in ("pretrain", "sft"):
        flags["batch_size"] = rows
    else:
        gigabytes = 14 if model == "7b" else 3
        tensor = 1
        while gigabytes / tensor > GIB[chip] / 8 and tensor < 4:  # a host has 4 chips
            tensor *= 2
        # Keys and values of a sample's 1024 new tokens, and in an evaluation of its prompt's, too: a
        # quarter of the memory for them.
        a_sample = 1.0 if model == "7b" else 0.4
        fit = int(GIB[chip] / 4 * devices / a_sample)
        most = 64
        while most * 2 <= min(fit, 1024):
            most *= 2
        flags |= {"rl.algorithm": stage, "rl.tensor": tensor, "rl.max_rows": most}
    return [f"--config.{name}={value}" for name, value in flags.items()]


def combinations(sizes: list[int]) -> dict[str, list[str]]:
    """Name -> command, what matters most first."""
    commands = {}
    curve = {}
    for chips in CURVE:
        mesh = layout("7b", "v5p", chips, 10**9)
        flags = {"batch_size": 16 * chips, "micro_batches": 4, "eval.batch_size": chips}
        flags |= {f"mesh.{axis}": size for axis, size in mesh.items()}
        curve[f"curve-{chips}"] = command(
            "pretrain", "v5p", chips, [f"--config.{k}={v}" for k, v in flags.items()]
        )
    for chips in (64, *(s for s in sizes if s != 64)):
        if chips not in sizes:
            continue
        for model in ("7b", "1.3b"):
            for chip in ("v5p", "v5e", "v6e", "tpu7x"):
                for stage in STAGES:
                    name = f"{model}-{stage}-{chip}-{chips}"
                    commands[name] = command(
                        stage, chip, chips, settings(model, stage, chip, chips)
                    )
        commands |= curve
    return commands


def command(stage: str, chip: str, chips: int, flags: list[str]) -> list[str]:
    return [
        "launch/train.py",
        f"--config=configs/{CONFIGS[stage]}.py",
        f"--dry_run={topology(chip, chips)}",
        "--config.init.checkpoint=",
        "--nolargest_batch",
        *flags,
    ]


def compile_all(commands: dict[str, list[str]], folder: pathlib.Path) -> None:
    """The compiler's least effort takes a quarter of the time, and finds temporaries of up to a fifth
    less or more: what comes near the limit is compiled again, as a run compiles it. For TPU7x
    libtpu 0.0.42 fails with the least effort."""
    for number, (name, parts) in enumerate(commands.items(), 1):
        target = folder / name
        if (target / "dry_run.json").exists():
            continue
        print(f"{datetime.datetime.now():%H:%M:%S} {number}/{len(commands)} {name}", flush=True)
        partial = target.with_name(f"{name}.partial")
        ended = None
        for effort in ("0.0",) if "tpu7x" in name else ("-1.0", "0.0"):
            ended = compile_one(parts, partial, effort)
            if not (partial / "dry_run.json").exists() or nearness(partial) < 0.8:
                break
        if (partial / "dry_run.json").exists():
            partial.replace(target)
        else:
            print(f"  ended with {ended}: {partial}/said.txt", flush=True)


def compile_one(parts: list[str], target: pathlib.Path, effort: str) -> int:
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir(parents=True)
    start = time.perf_counter()
    with (target / "said.txt").open("w") as said:
        ended = subprocess.run(
            [sys.executable, *parts, f"--workdir={target}"],
            cwd=REPO,
            env=os.environ | {"JAX_EXEC_TIME_OPTIMIZATION_EFFORT": effort},
            stdout=said,
            stderr=subprocess.STDOUT,
            check=False,
        )
    print(f"  effort {effort}: {time.perf_counter() - start:.0f} s", flush=True)
    (target / "effort.txt").write_text(effort)
    return ended.returncode


def nearness(folder: pathlib.Path) -> float:
    """The fullest program's share of the memory there is."""
    programs = json.loads((folder / "dry_run.json").read_text())["programs"]
    return max(2.0 if p["error"] else p["peak"] / p["limit"] for p in programs)


# ---- Pages ----------------------------------------------------------------------------------------
def number(x: float) -> str:
    return f"{x:.0f}" if abs(x) >= 100 else f"{x:.3g}"


def mesh_text(mesh: dict[str, int]) -> str:
    return " x ".join(f"{axis} {size}" for axis, size in mesh.items() if size > 1)


def worst(record: dict) -> dict:
    return max(record["programs"], key=lambda p: p["peak"])


def sent(record: dict) -> float:
    """Bytes that a chip sends in one step."""
    return sum(p["runs"] * sum(p["sent"].values()) for p in record["programs"])


def bound(record: dict) -> str:
    longest = max(record["programs"], key=lambda p: p["runs"] * p["predicted_seconds"])
    return (
        longest["bound"]
        if len(record["programs"]) < 3
        else f"{longest['name']}: {longest['bound']}"
    )


def row(cells: list[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def program(record: dict, name: str) -> dict:
    return next(p for p in record["programs"] if p["name"] == name)


def main_table(records: dict[str, dict], chip: str) -> list[str]:
    lines = [
        "| model | stage | chips | mesh | micro-batches | HBM, GiB | most of it | fits | step, s | MFU | bound by | sent, GB |",
        "|" + "---|" * 12,
    ]
    for model in MODELS:
        for stage in STAGES:
            for name, record in sorted(records.items(), key=lambda r: r[1]["devices"]):
                if name.rsplit("-", 1)[0] != f"{model}-{stage}-{chip}":
                    continue
                most = worst(record)
                memory = dict(most["memory"])
                for kind, size in most["beside"].items():
                    memory[kind] = memory.get(kind, 0) + size
                kind = max(memory, key=memory.get)
                cells = [model, stage, name.rsplit("-", 1)[1], mesh_text(record["mesh"])]
                cells += [record["flags"].get("micro_batches", "")]
                cells += [
                    f"{most['peak'] / 2**30:.1f}{'*' if record['effort'] == 0 else ''}",
                    kind,
                    "yes" if record["fits"] else "**no**",
                ]
                compiled = all(not p["error"] for p in record["programs"])
                if compiled:
                    cells += [f"{number(record['step_seconds'])}", f"{record['mfu']:.0%}"]
                    cells += [bound(record), number(sent(record) / 1e9)]
                else:
                    cells += [""] * 4
                lines.append(row(cells))
    return lines


def saving_table(records: dict[str, dict]) -> list[str]:
    lines = [
        row(
            [
                "model",
                "chip",
                "chips",
                "PPO, GiB",
                "GRPO, GiB",
                "less",
                "PPO step, s",
                "GRPO step, s",
            ]
        ),
        "|" + "---|" * 8,
    ]
    for name, grpo in records.items():
        ppo = records.get(name.replace("-grpo-", "-ppo-"))
        if "-grpo-" not in name or ppo is None:
            continue
        model, _, chip, chips = name.rsplit("-", 3)
        a, b = (program_peak(r, "update") for r in (ppo, grpo))
        if a is None or b is None:
            continue
        steps = [number(r["step_seconds"]) if finished(r) else "" for r in (ppo, grpo)]
        cells = [model, chip, chips, f"{a / 2**30:.1f}", f"{b / 2**30:.1f}", f"{1 - b / a:.0%}"]
        lines.append(row(cells + steps))
    return lines


def finished(record: dict) -> bool:
    return all(not p["error"] for p in record["programs"])


def program_peak(record: dict, name: str) -> float | None:
    """None also where it was not compiled, for what is there before it starts is too much."""
    found = [p for p in record["programs"] if p["name"] == name and p["compile_seconds"]]
    return found[0]["peak"] if found else None


def curve_table(records: dict[str, dict]) -> list[str]:
    lines = [
        "| chips | slice | mesh | step, s | MFU | compute, s | interconnect, s | sent a chip, GB | all-gather | reduce-scatter | all-reduce | HBM, GiB | compiled in, s |",
        "|" + "---|" * 13,
    ]
    for chips in CURVE:
        record = records.get(f"curve-{chips}")
        if record is None:
            continue
        update = program(record, "update")
        gigabytes = {k: v / 1e9 for k, v in update["sent"].items()}
        cells = [str(chips), record["topology"], mesh_text(record["mesh"])]
        cells += [number(update["predicted_seconds"]), f"{update['mfu']:.1%}"]
        cells += [number(update["times"][k]) for k in ("compute", "interconnect")]
        cells += [number(sum(gigabytes.values()))]
        cells += [
            number(gigabytes.get(k, 0)) for k in ("all-gather", "reduce-scatter", "all-reduce")
        ]
        cells += [f"{update['peak'] / 2**30:.1f}", f"{update['compile_seconds']:.0f}"]
        lines.append(row(cells))
    return lines


def unasked_lines(records: dict[str, dict]) -> list[str]:
    """Each reason once, with the combination where it moves most."""
    largest: dict[str, tuple[float, str]] = {}
    for name, record in records.items():
        for p in record["programs"]:
            for u in p["unasked"]:
                reason = f"{p['name']}: " + u["text"].split(": ", 1)[0]
                text = f"{u['text']} (in {name}, {p['name']})"
                largest[reason] = max(largest.get(reason, (0.0, "")), (u["bytes"], text))
    return [f"- {text}" for _, text in sorted(largest.values(), reverse=True)[:20]]


def write_pages(folder: pathlib.Path, commands: dict[str, list[str]]) -> None:
    records = {}
    for name, parts in commands.items():
        path = folder / name / "dry_run.json"
        if path.exists():
            record = json.loads(path.read_text())
            flags = (p.removeprefix("--config.").split("=", 1) for p in parts[5:])
            effort = (folder / name / "effort.txt").read_text()
            more = {"command": parts, "flags": dict(flags), "effort": float(effort)}
            records[name] = record | more
    if not records:
        sys.exit(f"nothing in {folder}")
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"],
        capture_output=True,
        text=True,
        check=True,
        cwd=HERE,
    ).stdout.strip()
    versions = ", ".join(f"{p} {importlib.metadata.version(p)}" for p in ("jax", "libtpu"))
    missing = len(commands) - len(records)
    example = records.get("7b-grpo-v5p-64") or next(iter(records.values()))
    text = f"""# Dry runs: what 1.3B and 7B need on 8 to 4096 chips

Each row is one command like this, which compiles every program of the stage with the TPU's own compiler for a
slice that is not there (how, and what each figure means: [dry_run.md](../dry_run.md)):

```
python {" ".join(example["command"])}
```

Figures are per JAX device (a TPU7x chip is two). Batches are the paper's: pretraining 10M tokens (7B) and 4M
(1.3B) in rows of 4096, SFT 256 rows of 4096, RL 16 questions x 64 samples of at most 1024 new tokens. HBM is that of
the program that needs most. Step time and MFU are the roofline's (a lower and an upper bound). For RL a step is all of
generation (each sample at full length) and training, and MFU counts both. Not all batches divide evenly: pretraining
takes the nearest that does.

Programs are compiled with the compiler's least effort (JAX_EXEC_TIME_OPTIMIZATION_EFFORT=-1), in a quarter of the
time; temporary memory then differs from a run's by up to a fifth. Those marked * come within a fifth of the chip's memory
and were compiled again as a run compiles them; so was all of TPU7x.
"""
    for chip in CHIPS:
        table = main_table(records, chip)
        memory = CHIP_FIGURES[chip].memory / 2**30
        if len(table) > 2:
            text += (
                f"\n## {chip} ({memory:.4g} GiB a device for programs)\n" + "\n".join(table) + "\n"
            )
    saving = saving_table(records)
    if len(saving) > 2:
        text += """
## What GRPO saves over PPO
PPO trains a critic as large as the policy: its weights, gradients and moments, and its passes. Memory is that of the
update, with all that stays beside it.

""" + "\n".join(saving) + "\n"  # fmt: skip
    curve = curve_table(records)
    if len(curve) > 2:
        text += """
## Scaling: pretraining 7B on v5p, 16 rows of 4096 tokens a chip, 4 micro-batches
""" + "\n".join(curve) + "\n"  # fmt: skip
    named = unasked_lines(records)
    text += "\n## Transfers that the design does not explain\n"
    text += "\n".join(named) + "\n" if named else "None, in any program above.\n"
    if missing:
        text += f"\n{missing} of {len(commands)} combinations were not compiled.\n"
    text += f"\nMade by `python docs/results/make_dry_run.py` at commit {commit}; {versions}.\n"
    text += "All numbers: [dry_run.json](dry_run.json).\n"
    (HERE / "dry_run.md").write_text(text)
    rows = [json.dumps({"name": name} | record) for name, record in records.items()]
    (HERE / "dry_run.json").write_text("[\n" + ",\n".join(rows) + "\n]\n")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("folder", type=pathlib.Path)
    parser.add_argument("--sizes", type=int, nargs="+", default=[8, 64, 256])
    parser.add_argument("--only", default="")
    parser.add_argument("--table", action="store_true")
    arguments = parser.parse_args()
    wanted = combinations(arguments.sizes)
    if not arguments.table:
        some = {name: parts for name, parts in wanted.items() if arguments.only in name}
        compile_all(some, arguments.folder.resolve())
    write_pages(arguments.folder, wanted)
