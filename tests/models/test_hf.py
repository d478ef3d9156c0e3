"""Hugging Face checkpoints: read onto any mesh, written as transformers reads them, or refused."""

import dataclasses
import json
import pathlib
import shutil
import subprocess
import sys
import textwrap

import jax
import jax.numpy as jnp
import make_random_checkpoint
import numpy as np
import pytest
from flax import nnx

from dsmath_jax.models import ModelConfig, RopeScaling, Transformer, load_hf, preset, save_hf
from dsmath_jax.models.hf_files import open_hf
from dsmath_jax.models.new_directory import new_directory
from dsmath_jax.models.parameters import param_specs
from dsmath_jax.models.safetensors_io import SafetensorsWriter, read_safetensors
from tests.conftest import cpu_devices

LLAMA = ModelConfig(
    vocab_size=64,
    hidden_size=32,
    intermediate_size=48,
    num_layers=3,
    num_heads=4,
    num_kv_heads=2,
    head_dim=8,
)
CONFIGS = {
    "llama": LLAMA,
    "qwen2": dataclasses.replace(LLAMA, qkv_bias=True),
    "tied": dataclasses.replace(LLAMA, tie_embeddings=True),
    "linear rope": dataclasses.replace(LLAMA, rope_scaling=RopeScaling("linear", 4.0)),
    "llama3 rope": dataclasses.replace(
        LLAMA, rope_scaling=RopeScaling("llama3", 8.0, 1.0, 4.0, 64), rope_theta=500000.0
    ),
}
TOKENS = np.random.default_rng(0).integers(0, 64, (2, 20))


def random_model(config, dtype=jnp.float32):
    """With norms and biases that are not all one or zero."""
    rng = np.random.default_rng(1)

    def init(spec):
        value = (spec.init == "ones") + 0.1 * rng.standard_normal(spec.shape)
        return jnp.asarray(value.astype(dtype))

    return Transformer(config, params=jax.tree.map(init, param_specs(config)), dtype=dtype)


def params_of(model):
    flat = jax.tree_util.tree_flatten_with_path(nnx.to_pure_dict(nnx.state(model)))[0]
    return {jax.tree_util.keystr(k): np.asarray(v) for k, v in flat}


def assert_same_params(a, b):
    a, b = params_of(a), params_of(b)
    assert a.keys() == b.keys()
    for name in a:
        assert a[name].dtype == b[name].dtype
        assert a[name].tobytes() == b[name].tobytes(), name


@pytest.fixture
def checkpoint(tmp_path):
    """Two safetensors shards with an index."""
    path = tmp_path / "hf"
    make_random_checkpoint.make(path, LLAMA, form="safetensors")
    return path


def edit_tensors(path, edit):
    """Rewrites a directory's tensors as one safetensors file, after edit(dict of arrays)."""
    tensors = {n: t.array().copy() for p in shards(path) for n, t in read_safetensors(p).items()}
    edit(tensors)
    for old in [*shards(path), *path.glob("*.index.json")]:
        old.unlink()
    entries = [(name, value.dtype.name, value.shape) for name, value in tensors.items()]
    with SafetensorsWriter(path / "model.safetensors", entries) as writer:
        for value in tensors.values():
            writer.write(np.ascontiguousarray(value).reshape(-1).view(np.uint8).data)


def edit_json(path, **changes):
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def shards(path):
    return sorted(path.glob("*.safetensors"))


# ---- Round trips --------------------------------------------------------------------------------


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_save_then_load_gives_the_same_bits(name, dtype, tmp_path):
    model = random_model(CONFIGS[name], jnp.dtype(dtype))
    save_hf(model, tmp_path / "out")
    loaded = load_hf(tmp_path / "out")
    assert_same_params(model, loaded)
    assert loaded.dtype == jnp.dtype(dtype)
    assert dataclasses.replace(loaded.config, max_positions=4096) == model.config


@pytest.mark.parametrize("form", ["bin", "safetensors"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_both_forms_of_file(form, dtype, tmp_path):
    make_random_checkpoint.make(tmp_path / "hf", LLAMA, form=form, dtype=dtype)
    model = load_hf(tmp_path / "hf")
    tensors = open_hf(tmp_path / "hf").tensors
    q = np.stack([tensors[f"model.layers.{i}.self_attn.q_proj.weight"].array().T for i in range(3)])
    assert np.asarray(model.layers.wq[...]).tobytes() == q.tobytes()
    save_hf(model, tmp_path / "out")
    for name, tensor in read_safetensors(tmp_path / "out" / "model.safetensors").items():
        assert tensor.dtype == dtype
        assert tensor.array().tobytes() == tensors[name].array().tobytes()


def test_large_tensors_are_copied_in_blocks(tmp_path, monkeypatch):
    for module in ("hf", "tensor_file"):
        monkeypatch.setattr(f"dsmath_jax.models.{module}.CHUNK_BYTES", 5000)
    config = dataclasses.replace(LLAMA, hidden_size=72, intermediate_size=300)
    model = random_model(config)
    save_hf(model, tmp_path / "out")
    assert_same_params(model, load_hf(tmp_path / "out"))


def test_dtype_is_cast_in_both_directions(checkpoint, tmp_path):
    as_stored, wide = load_hf(checkpoint), load_hf(checkpoint, dtype=jnp.float32)
    assert as_stored.embed[...].dtype == jnp.bfloat16
    assert wide.layers.w_up[...].dtype == jnp.float32
    assert (wide.layers.w_up[...] == as_stored.layers.w_up[...].astype(jnp.float32)).all()
    save_hf(wide, tmp_path / "out", dtype="bfloat16")
    assert json.loads((tmp_path / "out" / "config.json").read_text())["dtype"] == "bfloat16"
    assert_same_params(as_stored, load_hf(tmp_path / "out"))


def test_shards_and_index(checkpoint, tmp_path):
    model = load_hf(checkpoint)
    written = []
    save_hf(model, tmp_path / "out", max_shard_bytes=8000, progress=written.append)
    files = shards(tmp_path / "out")
    assert files[0].name == f"model-00001-of-{len(files):05d}.safetensors"
    assert len(files) > 2
    largest = max(t.array().nbytes for p in files for t in read_safetensors(p).values())
    for file in files:
        size = sum(t.array().nbytes for t in read_safetensors(file).values())
        assert size <= max(8000, largest)
    index = json.loads((tmp_path / "out" / "model.safetensors.index.json").read_text())
    assert index["metadata"]["total_size"] == sum(written) == 2 * LLAMA.num_params
    assert_same_params(model, load_hf(tmp_path / "out"))


def test_the_safetensors_library_reads_what_is_written(checkpoint, tmp_path):
    numpy = pytest.importorskip("safetensors.numpy")
    save_hf(load_hf(checkpoint, dtype=jnp.float32), tmp_path / "out")
    theirs = numpy.load_file(tmp_path / "out" / "model.safetensors")
    ours = read_safetensors(tmp_path / "out" / "model.safetensors")
    assert theirs.keys() == ours.keys()
    assert all((theirs[n] == ours[n].array()).all() for n in ours)


@pytest.mark.parametrize("name", CONFIGS)
def test_transformers_agrees(name, tmp_path):
    torch = pytest.importorskip("torch", reason="needs torch: pip install -e '.[parity]'")
    transformers = pytest.importorskip("transformers", reason="pip install -e '.[parity]'")
    model = random_model(CONFIGS[name])
    save_hf(model, tmp_path / "out", extra_config={"eos_token_id": 7})
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    assert (theirs.config.bos_token_id, theirs.config.eos_token_id) == (None, 7)
    with torch.no_grad():
        want = theirs(torch.tensor(TOKENS)).logits.numpy()
    np.testing.assert_allclose(model(jnp.array(TOKENS)), want, atol=2e-5, rtol=2e-5)
    # What transformers writes of it comes back, from either of its formats.
    theirs.save_pretrained(tmp_path / "again")
    assert_same_params(model, load_hf(tmp_path / "again"))
    shutil.copytree(tmp_path / "again", tmp_path / "bin")
    (tmp_path / "bin" / "model.safetensors").unlink()
    torch.save(theirs.state_dict(), tmp_path / "bin" / "pytorch_model.bin")
    assert_same_params(model, load_hf(tmp_path / "bin"))


# ---- What may differ ----------------------------------------------------------------------------


def test_rotary_frequencies_are_ignored(checkpoint):
    def edit(tensors):
        tensors["model.layers.0.self_attn.rotary_emb.inv_freq"] = np.zeros(4, np.float32)

    before = load_hf(checkpoint)
    edit_tensors(checkpoint, edit)
    assert_same_params(before, load_hf(checkpoint))


def test_a_tied_model_may_store_its_head_too(tmp_path):
    make_random_checkpoint.make(tmp_path / "hf", CONFIGS["tied"], form="safetensors")
    edit_tensors(
        tmp_path / "hf",
        lambda t: t.update({"lm_head.weight": t["model.embed_tokens.weight"]}),
    )
    assert not hasattr(load_hf(tmp_path / "hf"), "head")
    edit_tensors(
        tmp_path / "hf",
        lambda t: t.update({"lm_head.weight": t["model.embed_tokens.weight"][:-1]}),
    )
    with pytest.raises(ValueError, match=r"tensor lm_head\.weight in .* does not belong"):
        load_hf(tmp_path / "hf")


def test_a_cut_vocabulary_is_the_tensors(checkpoint):
    edit_json(checkpoint / "config.json", vocab_size=80)
    assert load_hf(checkpoint).config.vocab_size == 64

    def edit(tensors):
        tensors["lm_head.weight"] = tensors["lm_head.weight"][:-1]

    edit_tensors(checkpoint, edit)
    with pytest.raises(ValueError, match=r"vocab_size 80.*\[64, 32\].*\[63, 32\]: they must agree"):
        load_hf(checkpoint)


def test_shards_without_an_index(checkpoint):
    before = load_hf(checkpoint)
    (checkpoint / "model.safetensors.index.json").unlink()
    assert_same_params(before, load_hf(checkpoint))
    shutil.copy(shards(checkpoint)[0], checkpoint / "model-00009-of-00009.safetensors")
    with pytest.raises(ValueError, match=r"tensor .* is both in model-00001-of-00002\.safetensors"):
        load_hf(checkpoint)


def test_layers_of_two_types_take_the_wider(checkpoint):
    def edit(tensors):
        name = "model.layers.1.mlp.up_proj.weight"
        tensors[name] = tensors[name].astype(np.float32)

    before = load_hf(checkpoint)
    edit_tensors(checkpoint, edit)
    model = load_hf(checkpoint)
    assert model.layers.w_up[...].dtype == jnp.float32
    assert model.layers.w_gate[...].dtype == jnp.bfloat16
    assert (model.layers.w_up[...] == before.layers.w_up[...]).all()


# ---- What is refused, in one sentence -----------------------------------------------------------

NORM = "model.layers.2.input_layernorm.weight"
BAD_TENSORS = {
    r"tensor model\.layers\.2\.input_layernorm\.weight is missing from .*hf: ": lambda t: t.pop(
        NORM
    ),
    r"is missing from .*: get its files again, or correct config\.json": lambda t: t.pop(NORM),
    r"tensor score\.weight \(and 1 more\) in .*model\.safetensors does not": lambda t: t.update(
        {"score.weight": t[NORM], "score.bias": t[NORM]}
    ),
    r"has shape \[31\]; config\.json asks for \[32\]": lambda t: t.update({NORM: t[NORM][:-1]}),
    r"has shape \[32, 1\]; config\.json asks for \[32\]": lambda t: t.update(
        {NORM: t[NORM][:, None]}
    ),
}


@pytest.mark.parametrize("message", BAD_TENSORS)
def test_bad_tensors_are_named(message, checkpoint):
    edit_tensors(checkpoint, BAD_TENSORS[message])
    with pytest.raises(ValueError, match=message):
        load_hf(checkpoint)


def set_header(path, change):
    data = path.read_bytes()
    length = int.from_bytes(data[:8], "little")
    header = change(data[8 : 8 + length])
    path.write_bytes(len(header).to_bytes(8, "little") + header + data[8 + length :])


def truncate(path, size):
    path.write_bytes(path.read_bytes()[:size])


FIRST = "model-00001-of-00002.safetensors"
INDEX = "model.safetensors.index.json"
BAD_FILES = {
    r"00001-of-00002\.safetensors is truncated: \d+ bytes, expected \d+; get it again": lambda d: (
        truncate(d / FIRST, -1)
    ),
    r"00001-of-00002\.safetensors is truncated: 100 bytes, expected at least \d\d+": lambda d: (
        truncate(d / FIRST, 100)
    ),
    r"00001-of-00002\.safetensors is truncated: 0 bytes, expected at least 8": lambda d: truncate(
        d / FIRST, 0
    ),
    r"is longer than its header says": lambda d: (d / FIRST).write_bytes(
        (d / FIRST).read_bytes() + b"x"
    ),
    r"00001-of-00002\.safetensors is not a safetensors file: its header is damaged": lambda d: (
        set_header(d / FIRST, lambda h: h.replace(b"dtype", b"dtyp3"))
    ),
    r"has dtype I16; save it as one of bfloat16, float16, float32": lambda d: set_header(
        d / FIRST, lambda h: h.replace(b"BF16", b"I16")
    ),
    r"is a Git LFS pointer, not the file itself: run `git lfs pull`": lambda d: (
        d / FIRST
    ).write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n"),
    r"00001-of-00002\.safetensors is missing, and model\.safetensors\.index\.json": lambda d: (
        d / FIRST
    ).unlink(),
    r"tensor extra\.weight is missing from .*00002\.safetensors, where the index": lambda d: (
        edit_json(
            d / INDEX,
            weight_map=json.loads((d / INDEX).read_text())["weight_map"] | {"extra.weight": FIRST},
        )
    ),
    r"index\.json is damaged: it has no weight_map": lambda d: edit_json(
        d / INDEX, weight_map={"a": "../../etc/passwd"}
    ),
    r"config\.json is missing": lambda d: (d / "config.json").unlink(),
    r"holds no weights": lambda d: [p.unlink() for p in [*shards(d), d / INDEX]],
}


@pytest.mark.parametrize("message", BAD_FILES)
def test_bad_files_are_named(message, checkpoint):
    BAD_FILES[message](checkpoint)
    with pytest.raises((ValueError, FileNotFoundError), match=message) as error:
        load_hf(checkpoint)
    assert "\n" not in str(error.value)


def test_a_truncated_bin_shard_tells_its_size_and_the_expected(tmp_path):
    make_random_checkpoint.make(tmp_path / "hf", LLAMA)
    truncate(tmp_path / "hf" / "pytorch_model-00002-of-00002.bin", 5000)
    message = r"00002-of-00002\.bin is truncated or damaged: 5000 bytes.*has about \d{5} bytes"
    with pytest.raises(ValueError, match=message):
        load_hf(tmp_path / "hf")


# ---- Nothing half-written -----------------------------------------------------------------------


def test_an_error_leaves_nothing(checkpoint, tmp_path):
    def fail(_):
        raise RuntimeError("disk on fire")

    model = load_hf(checkpoint)
    with pytest.raises(RuntimeError):
        save_hf(model, tmp_path / "out", progress=fail)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["hf"]


def test_what_a_killed_process_left_is_replaced_and_a_running_one_is_not(tmp_path):
    stale = tmp_path / ".out.partial"
    (stale / "params").mkdir(parents=True)
    (stale / "half.safetensors").write_text("half")
    with new_directory(tmp_path / "out") as partial:
        assert list(partial.iterdir()) == []
        (partial / "new").write_text("whole")
        with (
            pytest.raises(FileExistsError, match="another process is writing"),
            new_directory(tmp_path / "out"),
        ):
            pass
    assert [p.name for p in tmp_path.iterdir()] == ["out"]
    with (
        pytest.raises(FileExistsError, match=r"out exists: remove it or choose"),
        new_directory(tmp_path / "out"),
    ):
        pass
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["new"]
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


# ---- Meshes -------------------------------------------------------------------------------------


def run_python(code, *args, devices=8):
    command = [sys.executable, "-c", textwrap.dedent(code), *map(str, args)]
    here = str(pathlib.Path(__file__).parent)
    return subprocess.Popen(
        command, env=cpu_devices(devices) | {"PYTHONPATH": here}, stdout=subprocess.PIPE, text=True
    )


ON_EIGHT_DEVICES = """
    import sys
    import jax, numpy as np
    from flax import nnx
    from dsmath_jax.models import load_hf, load_params, save_hf, save_params
    from dsmath_jax.models.hf import read_slice
    from dsmath_jax.models.hf_files import hf_names, open_hf
    from dsmath_jax.models.parameters import flat_specs
    from dsmath_jax.models.sharding import make_mesh, param_sharding
    source, work = sys.argv[1:]

    # One device of eight reads an eighth of every parameter that the mesh splits.
    checkpoint, mesh = open_hf(__import__("pathlib").Path(source)), make_mesh(fsdp=4, tensor=2)
    read = []
    for name, spec in flat_specs(checkpoint.config).items():
        index = param_sharding(spec, mesh).devices_indices_map(spec.shape)[jax.devices()[5]]
        index = tuple(slice(*s.indices(n)[:2]) for s, n in zip(index, spec.shape))
        stored = [checkpoint.tensors[t] for t in hf_names(spec, checkpoint.config)]
        of_this = []
        read_slice(spec, stored, index, np.dtype(np.float32), of_this.append)
        split = 1 if "norm" in name else 8
        assert sum(of_this) * split == 2 * spec.size, name

    whole = jax.tree.map(np.asarray, nnx.to_pure_dict(nnx.state(load_hf(source))))
    for sizes in (dict(fsdp=8), dict(fsdp=2, tensor=2, data=2)):
        mesh, read = make_mesh(**({"fsdp": 1} | sizes)), []
        model = load_hf(source, mesh, progress=read.append)
        assert sum(read) == checkpoint.nbytes, "replicas must share one read"
        params = nnx.to_pure_dict(nnx.state(model))
        assert params["layers"]["wq"].sharding.mesh.shape == mesh.shape
        same = lambda a, b: np.testing.assert_array_equal(np.asarray(a), b)
        jax.tree.map(same, params, whole)
        out = f"{work}/{'-'.join(sizes)}{sizes.get('data')}"
        save_hf(model, out)
        jax.tree.map(same, nnx.to_pure_dict(nnx.state(load_hf(out))), whole)
        save_params(params, model.config, out + "-orbax")
        again, config = load_params(out + "-orbax", make_mesh(fsdp=4, tensor=2))
        assert config == model.config and again["layers"]["wq"].sharding.mesh.shape["tensor"] == 2
        jax.tree.map(same, again, whole)
    print("ok")
"""


def test_onto_meshes_of_eight_devices(tmp_path):
    make_random_checkpoint.make(tmp_path / "hf", preset("tiny", num_kv_heads=2))
    process = run_python(ON_EIGHT_DEVICES, tmp_path / "hf", tmp_path)
    assert process.communicate(timeout=120)[0].strip() == "ok"


ON_TWO_PROCESSES = """
    import sys
    import jax, numpy as np
    from flax import nnx
    source, work, port, rank = sys.argv[1:]
    jax.distributed.initialize(f"localhost:{port}", 2, int(rank))
    from dsmath_jax.models import load_hf, load_params, save_hf, save_params
    from dsmath_jax.models.hf_files import open_hf
    from dsmath_jax.models.sharding import make_mesh
    read = []
    model = load_hf(source, make_mesh(fsdp=8), progress=read.append)
    total = 2 * model.config.num_params
    assert total / 2 < sum(read) < 0.51 * total, sum(read) / total  # half, and the norms
    save_hf(model, f"{work}/out")
    save_params(nnx.to_pure_dict(nnx.state(model)), model.config, f"{work}/orbax")
    params, _ = load_params(f"{work}/orbax", make_mesh(fsdp=4, tensor=2))
    print("ok")
"""


def test_two_processes_read_a_half_each_and_write_together(tmp_path, unused_port):
    make_random_checkpoint.make(tmp_path / "hf", preset("tiny"))
    args = (ON_TWO_PROCESSES, tmp_path / "hf", tmp_path, unused_port)
    processes = [run_python(*args, rank, devices=4) for rank in range(2)]
    for process in processes:
        assert process.communicate(timeout=120)[0].strip().endswith("ok")
    assert_same_params(load_hf(tmp_path / "hf"), load_hf(tmp_path / "out"))


@pytest.fixture
def unused_port():
    import socket

    with socket.socket() as s:
        s.bind(("localhost", 0))
        return s.getsockname()[1]
