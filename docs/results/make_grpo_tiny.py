"""Writes grpo_tiny.md, .png and .jsonl beside itself from runs of configs/grpo_tiny.py.

for s in 0 1 2; do
  python launch/train.py --config=configs/grpo_tiny.py --config.seed=$s --workdir=runs/seed$s
done
python docs/results/make_grpo_tiny.py runs/seed0 runs/seed1 runs/seed2
"""

import importlib.metadata
import inspect
import json
import os
import pathlib
import platform
import subprocess
import sys

from matplotlib.figure import Figure

from dsmath_jax.training.metrics import read_metrics

HERE = pathlib.Path(__file__).parent
CURVES = ("reward", "kl", "entropy", "completion_length", "logprob_gap_max", "grad_norm")


def share(row: dict, kind: str) -> str:
    name = f"eval/accuracy_{kind}"
    low, high = row[f"{name}_low"], row[f"{name}_high"]
    return f"{row[name]:.1%} ({100 * low:.1f} to {100 * high:.1f})"


def main(runs: list[str]) -> None:
    lines, table = [], []
    figure = Figure(figsize=(12, 5.2), layout="constrained")
    for n, name in enumerate(CURVES):
        axes = figure.add_subplot(2, 3, n + 1)
        for run in runs:
            rows = [r for r in read_metrics(run) if name in r]
            axes.plot(
                [r["step"] for r in rows], [r[name] for r in rows], label=pathlib.Path(run).name
            )
        axes.set_title(name)
        axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(HERE / "grpo_tiny.png", dpi=70)
    for run in runs:
        rows = read_metrics(run)
        seed = json.loads((pathlib.Path(run) / "config.json").read_text())["seed"]
        lines += [json.dumps({"seed": seed} | row) for row in rows]
        evaluations = [r for r in rows if "eval/accuracy_sampled" in r]
        first, last = evaluations[0], evaluations[-1]
        gain = last["eval/accuracy_sampled"] - first["eval/accuracy_sampled"]
        gap = max(r["logprob_gap_max"] for r in rows if "logprob_gap_max" in r)
        step = sorted(r["time/step"] for r in rows if "time/step" in r)
        cells = [share(r, k) for k in ("sampled", "greedy") for r in (first, last)]
        cells = [str(seed), cells[0], cells[1], f"{100 * gain:+.1f}", *cells[2:]]
        cells += [f"{gap:.1e}", f"{step[len(step) // 2]:.1f}"]
        table.append("| " + " | ".join(cells) + " |")
    (HERE / "grpo_tiny.jsonl").write_text("\n".join(lines) + "\n")
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=True
    ).stdout.strip()
    versions = [f"{p} {importlib.metadata.version(p)}" for p in ("jax", "flax", "optax")]
    text = f"""# GRPO on word problems, three seeds

512 held-out problems (never trained on, the same for every seed), 95% intervals, before and after 40
steps of GRPO (`configs/grpo_tiny.py`: 64 questions x 8 samples a step, 0.46M parameters).

| seed | sampled: before | after | points | greedy: before | after | largest log-prob gap | seconds a step |
|---|---|---|---|---|---|---|---|
{chr(10).join(table)}

![curves](grpo_tiny.png)

The largest gap is between trainer's and sampler's log-probability of a sampled token, over all steps.

```
{inspect.cleandoc(__doc__.split("configs/grpo_tiny.py.", 1)[1])}
```

Commit {commit}; Python {platform.python_version()}, {", ".join(versions)}; {os.cpu_count()} CPU cores,
no accelerator, shared with other work (seconds a step are the median, and an upper bound). Each step's
numbers are in [grpo_tiny.jsonl](grpo_tiny.jsonl).
"""
    (HERE / "grpo_tiny.md").write_text(text)


if __name__ == "__main__":
    main(sys.argv[1:])
