"""Data as stages see it: a mixture's tokens and losses by source, and rows by process."""

import json
import runpy
import subprocess
import sys

import pytest

from dsmath_jax.data.word_problems import generate
from tests.conftest import REPO, cpu_devices

CONFIG = """
import json
from dsmath_jax.stages.defaults import get_defaults, with_argument

def get_config(arg=""):
    c = with_argument(get_defaults("pretrain"), "smoke")
    c.model_changes.num_layers = 1
    c.length, c.batch_size, c.eval.batch_size, c.checkpoint.every = 64, 8, 3, 100
    c.log.tensorboard = False
    c.data.mixture = json.loads({mixture!r})
    return c
"""


@pytest.fixture
def config(tmp_path):
    """A configuration of pretraining on two sources, 3 to 1; a third has no held-out data."""
    mixture = {}
    for number, (name, weight) in enumerate({"worked": 0.625, "asked": 0.25, "odd": 0.125}.items()):
        entry = {"weight": weight, "text_field": "text"}
        for split, field in (("train", "path"), ("heldout", "heldout_path")):
            if name == "odd" and split == "heldout":
                continue
            path = tmp_path / f"{name}_{split}.jsonl"
            texts = [
                f"{p.question} {p.solution}" if name == "worked" else f"#{number} {p.answer}"
                for p in generate(60, split=split, seed=number)
            ]
            path.write_text("".join(json.dumps({"text": t}) + "\n" for t in texts))
            entry[field] = str(path)
        mixture[name] = entry
    path = tmp_path / "mixed.py"
    path.write_text(CONFIG.format(mixture=json.dumps(mixture)))
    return path


def test_tokenising_alone_makes_the_caches_that_training_uses(config, tmp_path, launch):
    flags = (f"--config={config}", f"--workdir={tmp_path / 'run'}", "--config.steps=1")
    said = launch("train.py", *flags, "--tokenise", check=True).stdout
    assert [line.split(":")[0] for line in said.splitlines()] == ["asked", "odd", "worked"]
    assert not (tmp_path / "run" / "checkpoints").exists()
    made = {p: p.stat().st_mtime_ns for p in (tmp_path / "token_cache").glob("*/tokens.bin")}
    caches = sorted(p.name.rsplit("-", 1)[0] for p in (tmp_path / "token_cache").glob("[a-z]*"))
    assert caches == ["asked_heldout", "asked_train", "odd_train", "worked_heldout", "worked_train"]
    launch("train.py", *flags, check=True)
    after = {p: p.stat().st_mtime_ns for p in (tmp_path / "token_cache").glob("*/tokens.bin")}
    assert after == made


def test_tokens_and_losses_by_source(config, tmp_path, launch):
    flags = (f"--config={config}", f"--workdir={tmp_path / 'run'}")
    launch("train.py", *flags, "--config.steps=2", check=True)
    launch("train.py", *flags, "--config.steps=3", devices=2, check=True)
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").open()]
    steps = [row for row in rows if "grad_norm" in row]
    for row, step in zip(steps, (1, 2, 3), strict=True):
        shares = {k: v for k, v in row.items() if k.startswith("share/")}
        assert shares == {"share/worked": 0.625, "share/asked": 0.25, "share/odd": 0.125}
        tokens = {k: v / (64 * step) for k, v in row.items() if k.startswith("tokens/")}
        assert tokens == {"tokens/worked": 5, "tokens/asked": 2, "tokens/odd": 1}
    final = rows[-1]
    worked, asked = final["eval/loss_worked"], final["eval/loss_asked"]
    assert "eval/loss_odd" not in final
    assert min(worked, asked) < final["eval/loss"] < max(worked, asked)
    assert len(list((tmp_path / "token_cache").glob("*/meta.json"))) == 5


def test_losses_on_named_sets(config, tmp_path, launch):
    sets = {"worked": "worked_heldout", "asked": "asked_heldout"}
    entries = {f"{k}_set": {"path": str(tmp_path / f"{v}.jsonl")} for k, v in sets.items()}
    (tmp_path / "problems.jsonl").write_text(json.dumps({"problem": "1 + 1?", "gold": "2"}))
    entries["problems"] = {
        "path": str(tmp_path / "problems.jsonl"),
        "question_field": "problem",
        "solution_field": "gold",
    }
    text = config.read_text().replace(
        "    return c",
        f"    c.data.heldout = {entries!r}\n    c.data.text_field = 'text'\n    return c",
    )
    config.write_text(text)
    flags = (f"--config={config}", f"--workdir={tmp_path / 'run'}", "--config.steps=1")
    launch("train.py", *flags, check=True)
    last = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").open()][-1]
    losses = {k.removeprefix("eval/loss_"): v for k, v in last.items() if "eval/loss_" in k}
    assert set(losses) == {"worked", "asked", "worked_set", "asked_set", "problems"}
    assert losses["worked_set"] == losses["worked"] != losses["asked"] == losses["asked_set"]
    config.write_text(text.replace("'path'", "'paht'"))
    ended = launch("train.py", *flags)
    assert ended.returncode == 2
    assert "config.data.heldout.asked_set.paht: there is no such field; did you" in ended.stderr


def test_going_on_with_reordered_lines_is_refused(config, tmp_path, launch):
    flags = (f"--config={config}", f"--workdir={tmp_path / 'run'}")
    launch("train.py", *flags, "--config.steps=1", check=True)
    path = tmp_path / "asked_train.jsonl"
    path.write_text("".join(reversed(path.read_text().splitlines(keepends=True))))
    process = launch("train.py", *flags, "--config.steps=2")
    line = process.stderr.strip().split("\n")[-1]
    assert process.returncode == 2 and "Traceback" not in process.stderr
    assert "sources asked content was" in line and "or set another --workdir" in line


def test_bad_mixtures_are_named_by_field(config, tmp_path, launch):
    def last_line(*flags):
        process = launch("train.py", f"--config={config}", f"--workdir={tmp_path / 'run'}", *flags)
        assert process.returncode == 2, process.stderr[-2000:]
        return process.stderr.strip().split("\n")[-1]

    line = last_line("--config.data.path=a.jsonl")
    assert "config.data.mixture and config.data.path (or heldout_path) are both set" in line
    line = last_line("--config.data.mixture.asked.path=/nowhere.jsonl")
    assert "/nowhere.jsonl does not exist: set config.data.mixture.asked.path" in line


def test_the_7b_run_mixes_as_in_the_paper():
    path = REPO / "configs" / "pretrain_7b_tpu.py"
    mixture = runpy.run_path(str(path))["get_config"]().data.mixture
    weights = {name: entry.weight for name, entry in mixture.items()}
    paper = {"math": 0.56, "algebraic_stack": 0.04, "arxiv": 0.1, "code": 0.2, "language": 0.1}
    assert weights == paper


# Every way to split eight devices over processes must give each device its part of the batch.
PROGRAM = """
import jax, numpy as np
from dsmath_jax.models.sharding import batch_sharding, make_mesh
from dsmath_jax.stages.setup import local_rows, put_batch, shard

whole = np.arange(16 * 8).reshape(16, 8)
meshes = [
    dict(data=8, fsdp=1), dict(fsdp=8), dict(data=2, fsdp=2, tensor=2), dict(fsdp=2, tensor=4),
    dict(fsdp=2, sequence=4), dict(fsdp=1, tensor=4, sequence=2), dict(data=2, fsdp=1, sequence=4),
]
read = []
for sizes in meshes:
    mesh = make_mesh(**sizes)
    devices = mesh.devices.ravel()
    random = np.random.RandomState(0).permutation(devices)
    for processes in (devices.reshape(2, 4), devices.reshape(4, 2), random.reshape(2, 4)):
        index = batch_sharding(mesh, whole.shape).devices_indices_map(whole.shape)
        for mine in processes:
            rows = local_rows(mesh, 16, mine)
            needed = {r for d in mine for r in range(16)[index[d][0]]}
            assert rows.tolist() == sorted(needed), (sizes, rows)
            for device in mine:
                part = shard(whole[rows], rows, index[device])
                np.testing.assert_array_equal(part, whole[index[device]])
        read.append(sum(len(local_rows(mesh, 16, mine)) for mine in processes))
    batch = {"tokens": whole, "source": whole[:, 0], "odd": whole[:7]}
    for array, given in zip(put_batch(batch, mesh).values(), batch.values()):
        np.testing.assert_array_equal(np.asarray(array), given)
        assert array.sharding == batch_sharding(mesh, given.shape)
    np.testing.assert_array_equal(put_batch({"tokens": whole}, mesh, 16)["tokens"], whole)
print(read)
"""


def test_each_process_reads_the_rows_of_its_devices():
    process = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        env=cpu_devices(8),
        cwd=REPO,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert process.returncode == 0, process.stderr[-3000:]
    read = json.loads(process.stdout)
    # data=8: each of 16 rows is read once by 2 as by 4 processes; with the batch split in two and
    # four tensor parts, 2 processes read it once and 4 twice; unsplit, each reads it all.
    assert read[0:2] == [16, 16] and read[9:11] == [16, 32] and read[15:17] == [32, 64]
