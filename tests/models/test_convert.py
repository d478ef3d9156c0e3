"""launch/convert.py and the checkpoints that it writes: both ways bit-exact, or one clear error."""

import gc
import json
import pathlib
import signal
import subprocess
import sys
import time

import jax
import jax.numpy as jnp
import make_random_checkpoint
import numpy as np
import pytest

from dsmath_jax.models import init_params, load_params, preset, save_params
from dsmath_jax.models.config import ModelConfig, RopeScaling
from dsmath_jax.models.convert import ProgressLines, convert
from dsmath_jax.models.hf_files import open_hf

ROOT = pathlib.Path(__file__).parents[2]
TINY = preset("tiny", num_layers=2, vocab_size=64, rope_scaling=RopeScaling("linear", 4.0))


def run(*args):
    command = [sys.executable, "launch/convert.py", *args]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)


@pytest.fixture
def hf(tmp_path):
    """A .bin checkpoint with its tokenizer's files."""
    path = tmp_path / "hf"
    make_random_checkpoint.make(path, TINY)
    (path / "tokenizer.json").write_text('{"model": {}}')
    (path / "generation_config.json").write_text('{"eos_token_id": 100001}')
    (path / "README.md").write_text("not copied")
    return path


@pytest.fixture
def orbax(hf, tmp_path):
    convert(hf, tmp_path / "orbax")
    return tmp_path / "orbax"


def bits(directory):
    return {n: t.array().tobytes() for n, t in open_hf(directory).tensors.items()}


# ---- Both ways ----------------------------------------------------------------------------------


def test_command_line_round_trip_is_bit_exact(hf, tmp_path):
    there = run(f"--from={hf}", f"--to={tmp_path / 'deep' / 'orbax'}")
    assert (there.returncode, there.stderr) == (0, "")
    assert "reading: " in there.stdout
    assert "peak memory" in there.stdout
    back = run(f"--from={tmp_path / 'deep' / 'orbax'}", f"--to={tmp_path / 'back'}")
    assert (back.returncode, back.stderr) == (0, "")
    assert bits(hf) == bits(tmp_path / "back")
    for name in ("tokenizer.json", "generation_config.json"):
        assert (tmp_path / "back" / name).read_bytes() == (hf / name).read_bytes()
    assert not (tmp_path / "back" / "README.md").exists()
    config = json.loads((tmp_path / "back" / "config.json").read_text())
    assert (config["bos_token_id"], config["eos_token_id"]) == (100000, 100001)
    assert config["dtype"] == config["torch_dtype"] == "bfloat16"


def test_dtype_is_cast_both_ways(hf, tmp_path):
    convert(hf, tmp_path / "wide", dtype="float32")
    params, _ = load_params(tmp_path / "wide")
    assert {x.dtype for x in jax.tree.leaves(params)} == {jnp.dtype(jnp.float32)}
    convert(tmp_path / "wide", tmp_path / "back", dtype="bfloat16")
    assert bits(tmp_path / "back") == bits(hf)


def test_what_is_saved_is_loaded(tmp_path):
    params = init_params(TINY, 0)
    save_params(params, TINY, tmp_path / "out")
    loaded, config = load_params(tmp_path / "out")
    assert config == TINY
    assert jax.tree.structure(loaded) == jax.tree.structure(params)
    jax.tree.map(np.testing.assert_array_equal, loaded, params)
    loaded, _ = load_params(tmp_path / "out", dtype=jnp.bfloat16)
    expected = jax.tree.map(lambda x: x.astype(jnp.bfloat16), params)
    jax.tree.map(np.testing.assert_array_equal, loaded, expected)


def test_progress_lines_without_a_terminal(capsys):
    with ProgressLines("reading", 4_000_000_000, every=0.02) as progress:
        progress(1_000_000_000)
        time.sleep(0.1)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("reading: 1.0 of 4.0 GB, ")
    assert lines[0].endswith(" s left")
    assert lines[-1].startswith("reading: 4.0 GB in 0.1 s")


# ---- One sentence, status 2, nothing left -------------------------------------------------------


def assert_refused(result, message):
    assert result.returncode == 2
    assert result.stderr.startswith("convert: ")
    assert result.stderr.count("\n") == 1
    assert message in result.stderr


def test_command_line_errors(hf, tmp_path):
    shard = hf / "pytorch_model-00001-of-00002.bin"
    shard.write_bytes(shard.read_bytes()[:-100])
    assert_refused(run(f"--from={hf}", f"--to={tmp_path / 'out'}"), f"{shard} is truncated")
    assert_refused(run(f"--from={hf}"), "the following arguments are required: --to")
    bad_mesh = run(f"--from={hf}", f"--to={tmp_path / 'out'}", "--mesh=rows=2")
    assert_refused(bad_mesh, "--mesh=rows=2: give AXIS=SIZE,... with axes data, fsdp, tensor")
    assert [p.name for p in tmp_path.iterdir()] == ["hf"]


def test_an_existing_target_is_kept(hf, orbax, tmp_path):
    before = sorted(orbax.rglob("*"))
    with pytest.raises(FileExistsError, match="orbax exists: remove it or choose another"):
        convert(hf, orbax)
    assert sorted(orbax.rglob("*")) == before


def test_a_full_disk_is_said_before_anything_is_read(hf, orbax, tmp_path, monkeypatch):
    usage = type("usage", (), {"free": 1000})
    monkeypatch.setattr("shutil.disk_usage", lambda _: usage)
    for source in (hf, orbax):
        with pytest.raises(ValueError, match=r"out needs 0\.0 GB and its disk has 0\.0 GB free"):
            convert(source, tmp_path / "out")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["hf", "orbax"]


def test_a_terminated_conversion_leaves_nothing(hf, tmp_path):
    code = (
        "import faulthandler, sys, time; from dsmath_jax.models import convert\n"
        "def stall(*_):\n"
        "    faulthandler.dump_traceback_later(50, exit=True)  # says where it hangs, if it does\n"
        "    print('stalled', flush=True)\n"
        "    while True: time.sleep(0.01)\n"
        "convert.write_params = stall; convert.main('', sys.argv[1:])"
    )
    command = [sys.executable, "-c", code, f"--from={hf}", f"--to={tmp_path / 'out'}"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    for line in process.stdout:
        if "stalled" in line:
            break
    assert (tmp_path / ".out.partial").exists()
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=60) == 143
    assert [p.name for p in tmp_path.iterdir()] == ["hf"]


def test_neither_kind(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"holds no checkpoint: neither model\.json"):
        convert(tmp_path, tmp_path / "out")


def test_not_a_converted_checkpoint(hf):
    with pytest.raises(FileNotFoundError, match=r"model\.json is missing: .*launch/convert\.py"):
        load_params(hf)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"hidden": 3}', '{"rope_scaling": 3}'])
def test_a_damaged_model_json(orbax, text):
    (orbax / "model.json").write_text(text)
    with pytest.raises(ValueError, match=r"model\.json is damaged"):
        load_params(orbax)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"vocab_size": 65}, r"parameter embed in .*params has shape \[64, 128\]; .* \[65, 128\]"),
        ({"qkv_bias": True}, r"parameter layers\.bq of model\.json's model is missing from"),
        ({"tie_embeddings": True}, r"parameter head in .*params does not belong to"),
    ],
)
def test_parameters_of_another_model(orbax, changes, message):
    fields = json.loads((orbax / "model.json").read_text()) | changes
    (orbax / "model.json").write_text(json.dumps(fields))
    with pytest.raises(ValueError, match=message):
        load_params(orbax)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # Orbax's loops
def test_damaged_parameters_are_said(orbax):
    """Whatever file of params/ is gone, empty or cut: an error in one sentence, or all is read."""
    intact, _ = load_params(orbax)
    refused = 0
    for path in [p for p in (orbax / "params").rglob("*") if p.is_file()]:
        content = path.read_bytes()
        for damage in (None, b"", content[: len(content) // 2]):
            path.unlink() if damage is None else path.write_bytes(damage)
            try:
                params, _ = load_params(orbax)
                jax.tree.map(np.testing.assert_array_equal, params, intact)
            except ValueError as e:
                refused += 1
                assert "params is damaged: " in str(e)
                assert "\n" not in str(e)
            path.write_bytes(content)
    gc.collect()  # the event loops that Orbax left open, while their warnings are ignored
    assert refused >= 8
    jax.tree.map(np.testing.assert_array_equal, load_params(orbax)[0], intact)


def test_missing_params(orbax):
    (orbax / "params").rename(orbax / "elsewhere")
    with pytest.raises(FileNotFoundError, match=r"params is missing: convert the checkpoint again"):
        load_params(orbax)


@pytest.mark.slow
def test_memory_stays_within_the_arrays_and_2_gb(tmp_path):
    """A 1.3B-shaped checkpoint, 3.3 GB; measure_conversion.py does the same at 7B."""
    pytest.importorskip("torch", reason="needs torch: pip install -e '.[parity]'")
    script = ROOT / "tests" / "models" / "measure_conversion.py"
    args = [f"--work={tmp_path / 'work'}", "--model=deepseek_1_3b", f"--json={tmp_path / 'out'}"]
    subprocess.run([sys.executable, script, *args], check=True, timeout=1200)
    figures = json.loads((tmp_path / "out").read_text())
    assert figures["tensors_equal_bit_for_bit"] == 24 * 9 + 3
    for way in ("hf_to_orbax", "orbax_to_hf"):
        assert figures[way]["beyond_arrays_bytes"] < 2e9


def test_model_json_holds_every_field(orbax):
    fields = json.loads((orbax / "model.json").read_text())
    assert fields["rope_scaling"]["kind"] == "linear"
    rope = RopeScaling(**fields.pop("rope_scaling"))
    assert ModelConfig(**fields, rope_scaling=rope) == TINY
