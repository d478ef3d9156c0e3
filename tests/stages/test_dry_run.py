"""Programs compiled by the TPU's own compiler for slices that are not there."""

import dataclasses
import json
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec
from ml_collections import ConfigDict

pytest.importorskip("libtpu", reason="the TPU compiler: pip install -e '.[tpu]'")

from dsmath_jax.compilation.design import Design
from dsmath_jax.compilation.programs import Program, analyse
from dsmath_jax.compilation.topologies import open_topology
from dsmath_jax.data.errors import InputError
from dsmath_jax.models.config import preset
from dsmath_jax.models.flops import causal_pairs, forward_flops
from dsmath_jax.models.sharding import make_mesh
from dsmath_jax.stages.defaults import get_defaults
from dsmath_jax.stages.dry_run import dry_run
from dsmath_jax.stages.dry_run_programs import rl_programs, supervised_programs
from dsmath_jax.training.hardware import CHIPS

pytestmark = pytest.mark.usefixtures("quick_compiler")


@pytest.fixture(scope="module")
def slice_of_four():
    devices, chip = open_topology("v5e:2x2")
    return make_mesh(fsdp=4, devices=devices), chip


def spread(mesh, shape, *axes, dtype=jnp.float32):
    return jax.ShapeDtypeStruct(shape, dtype, sharding=NamedSharding(mesh, PartitionSpec(*axes)))


@pytest.mark.parametrize(("name", "chip", "devices", "memory"), [
    ("v5e:2x4", "TPU v5e", 8, 15.75),
    ("v5p:4x4x4", "TPU v5p", 64, 95.74),
    ("v6e:16x16", "TPU v6e", 256, 31.25),
    ("tpu7x:2x2x1", "TPU7x, one of a chip's two devices", 8, 94.75),
])  # fmt: skip
def test_slices(name, chip, devices, memory):
    found, made_of = open_topology(name)
    assert (len(found), made_of.name, made_of.memory) == (devices, chip, memory * 2**30)


WRONG = ["v5e", "v5e:2by4", "v9:2x2", "v5e:0x0", "v5e:2x4:8", "v5e:4x4x4", "v6e:32x32"]
WRONG += ["v5e:3x5", "v5p:4x4", "v5p:3x3x3", "v5p:0x4x4", "v5p:16x24x24", "tpu7x:2x2"]


@pytest.mark.parametrize("name", WRONG)
def test_a_slice_that_does_not_exist_is_an_input_error(name):
    with pytest.raises(InputError, match="v5p:4x4x4"):
        open_topology(name)


def test_decoding_multiplies_the_head_once_a_token(slice_of_four):
    """The draw and the log-probability take their scores from one product. (A CPU's compiler joins
    two that differ in their dimensions alone, a TPU's does not.)"""
    mesh, _ = slice_of_four
    config = get_defaults("rl")
    config.length, config.rl.max_new_tokens, config.data.num_heldout = 64, 32, 0
    config.rl.questions, config.rl.group = 8, 8  # two questions a chip
    model = dataclasses.replace(preset("tiny"), num_layers=1, vocab_size=640)
    programs = rl_programs(config, mesh, model)
    program = next(programs)
    while True:
        with jax.set_mesh(program.mesh):
            compiled = program.function.lower(*program.arguments).compile()
        if program.name == "decode":
            break
        program = programs.send(compiled)
    products = re.findall(r"= (\S+) (?:convolution|dot)\(", compiled.as_text())
    assert sum(",640]" in shape for shape in products) == 1, products


def test_a_held_out_loss_has_the_models_flops_and_all_its_memory(slice_of_four):
    mesh, chip = slice_of_four
    config = get_defaults("pretrain")
    config.batch_size, config.eval.batch_size, config.length = 8, 8, 128
    model = dataclasses.replace(preset("tiny"), num_layers=2)
    _, program = supervised_programs(config, mesh, model)
    report, compiled = analyse(program, chip)
    tokens = 8 * 128
    assert report.flops * 4 == forward_flops(model, tokens, 8 * causal_pairs([128]), tokens)
    stats = compiled.memory_analysis()
    allotted = stats.argument_size_in_bytes + stats.temp_size_in_bytes
    allotted += stats.output_size_in_bytes + stats.generated_code_size_in_bytes
    assert sum(report.memory.values()) == allotted
    weights = model.num_params * 4 / 4  # float32 over four, less what is not split: the norms
    np.testing.assert_allclose(report.memory["weights"], weights, rtol=0.01)
    assert report.beside["optimizer"] == pytest.approx(2 * report.memory["weights"], rel=0.01)
    assert report.sent["all-gather"] > 0
    assert report.unasked == []


def test_a_bad_sharding_is_named(slice_of_four):
    mesh, chip = slice_of_four

    def transposed(x):
        return jax.lax.with_sharding_constraint(
            x * 2, NamedSharding(mesh, PartitionSpec(None, "fsdp"))
        )

    program = Program(
        "move", jax.jit(transposed), (spread(mesh, (2048, 2048), "fsdp"),), mesh, Design(0)
    )
    report, _ = analyse(program, chip)
    (named,) = report.unasked
    assert "all-to-all over fsdp" in named.reason
    assert named.collective.sent == 2048 * 2048 * 4 / 4 * 3 / 4


def test_a_loop_that_ends_by_its_data_is_said_to_be_counted_once(slice_of_four):
    mesh, chip = slice_of_four

    def doubled(x):
        return jax.lax.while_loop(lambda x: x.sum() < 1e6, lambda x: x @ x, x)

    arguments = (spread(mesh, (256, 256)),)
    report, _ = analyse(Program("loop", jax.jit(doubled), arguments, mesh, Design(0)), chip)
    assert "1 loops end by their data" in report.warnings[0]
    known = Program("loop", jax.jit(doubled), arguments, mesh, Design(0), turns=7)
    seven, _ = analyse(known, chip)
    assert seven.warnings == [] and seven.flops == 7 * report.flops == 7 * 2 * 256**3


def test_what_does_not_fit_says_how_much_is_missing(slice_of_four):
    mesh, chip = slice_of_four
    x = spread(mesh, (2**16, 2**17), "fsdp")  # 8 GiB a chip, and the result as much
    program = Program("square", jax.jit(lambda batch: batch @ batch.T), (x,), mesh, Design(0))
    report, compiled = analyse(program, chip)
    assert compiled is None and not report.fits and report.error
    assert report.memory["batch"] == 8 * 2**30
    assert report.peak > report.limit > 15 * 2**30


def test_an_update_prints_its_table(tmp_path, capsys):
    config = get_defaults("sft")
    config.batch_size, config.micro_batches, config.length, config.mesh.fsdp = 8, 2, 128, 4
    config.model_changes = ConfigDict({"num_layers": 1})
    config.init.checkpoint = str(tmp_path / "not here")
    out = tmp_path / "run" / "dry_run.json"
    assert dry_run(config, "v5e:2x2", out, largest=False)
    printed = capsys.readouterr().out
    for text in (
        "weights",
        "optimizer",
        "of",
        "reduce-scatter",
        "predicted step",
        "MFU",
        "v5e:2x2",
    ):
        assert text in printed
    record = json.loads(out.read_text())
    assert record["fits"] and record["mesh"] == {"data": 1, "fsdp": 4, "tensor": 1, "sequence": 1}
    update = record["programs"][0]
    assert update["name"] == "update" and update["flops"] > update["model_flops"] / 4
    assert 0 < record["mfu"] <= 1


def test_the_command_ends_with_1_when_it_does_not_fit(launch):
    flags = ("--config=configs/sft_7b_tpu.py", "--dry_run=v5e:2x2", "--nolargest_batch")
    ended = launch("train.py", *flags, "--config.mesh.data=1", "--config.mesh.fsdp=4")
    assert ended.returncode == 1, ended.stderr[-2000:]
    assert "update does not fit" in ended.stdout and "larger slice" in ended.stdout


@pytest.mark.parametrize(
    ("flag", "said"),
    [
        ("rl.algorithm=PPO", "config.rl.algorithm='PPO': choose one of grpo, ppo"),
        ("rl.aggregation=mean", "config.rl.aggregation='mean': choose one of"),
        ("attention=flash", "config.attention: attention='flash' does not run on tpu"),
    ],
)
def test_the_command_refuses_what_a_run_refuses(launch, flag, said):
    flags = ("--config=configs/grpo_tiny.py", "--dry_run=v5e:2x2", f"--config.{flag}")
    ended = launch("train.py", *flags)
    assert ended.returncode == 2 and said in ended.stderr


def test_the_command_refuses_an_unknown_slice(launch):
    ended = launch("train.py", "--config=configs/sft_tiny.py", "--dry_run=v5e:five")
    assert ended.returncode == 2 and "v5e:16x16" in ended.stderr


@pytest.mark.slow
def test_all_of_rl_and_what_grpo_saves(tmp_path):
    records = {}
    for algorithm in ("grpo", "ppo"):
        config = get_defaults("rl")
        config.model_changes = ConfigDict({"num_layers": 2})
        config.length, config.rl.max_new_tokens = 128, 64
        config.rl.questions, config.rl.group, config.rl.max_rows = 8, 8, 32
        config.rl.tensor, config.rl.algorithm = 2, algorithm
        config.micro_batches = 1  # sums of so small gradients are reduced, not scattered
        out = tmp_path / f"{algorithm}.json"
        assert dry_run(config, "v5e:2x2", out, largest=False)
        records[algorithm] = json.loads(out.read_text())
    grpo, ppo = ({p["name"]: p for p in records[a]["programs"]} for a in ("grpo", "ppo"))
    evaluation = [f"eval {n}" for n in ("prefill", "decode", "greedy decode")]
    sampling = ["reshard", "prefill", "decode", *evaluation]
    common = [*sampling, "log-probs", "update"]
    assert list(grpo) == common and set(ppo) == {*common, "values"}
    # Each of two pairs of chips reads 4 prompts, 2 at a time, and twice fills its 16 slots for 8
    # intervals of 8 tokens.
    assert (grpo["prefill"]["runs"], grpo["decode"]["runs"]) == (2, 16)
    kinds = ("critic", "critic's optimizer")
    assert not any(kind in grpo["update"]["memory"] for kind in kinds)
    critic, moments = (ppo["update"]["memory"][kind] for kind in kinds)
    assert moments == pytest.approx(2 * critic, rel=0.01)
    assert ppo["update"]["peak"] > grpo["update"]["peak"] + critic + moments
    # Keys and values of 64 tokens and a spare block for 16 slots, and of 8 prompts of 64 tokens, of
    # 2 layers, 4 heads of 32, in bfloat16; on each chip of a pair half.
    cache = 2 * 2 * 4 * 32 * (16 * 64 + 32 + 8 * 64) * 2 / 2
    assert grpo["decode"]["memory"]["KV cache"] == pytest.approx(cache, rel=0.01)
    # Evaluation: 32 samples of 32 questions, each with a prompt of its own.
    cache = 2 * 2 * 4 * 32 * (16 * 64 + 32 + 16 * 64) * 2 / 2
    assert grpo["eval decode"]["memory"]["KV cache"] == pytest.approx(cache, rel=0.01)
    assert grpo["eval greedy decode"]["runs"] == 0
    weights = grpo["decode"]["memory"]["generation weights"]
    assert weights == pytest.approx(2 * records["grpo"]["parameters"] / 2, rel=0.05)
    for programs in (grpo, ppo):
        for p in programs.values():
            assert p["unasked"] == [], p["name"]


@pytest.mark.slow
@pytest.mark.usefixtures("quick_compiler")
@pytest.mark.parametrize("topology", ["v5e:4x4", "v6e:4x4"])
def test_hosts_of_chips_that_need_the_whole_slice_generate_in_step(topology, tmp_path):
    config = get_defaults("rl")
    config.model_changes = ConfigDict({"num_layers": 2})
    config.mesh.fsdp = 16
    config.rl.max_rows, config.rl.tensor = 64, 4
    out = tmp_path / "dry_run.json"
    assert dry_run(config, topology, out, largest=False)
    programs = {p["name"]: p for p in json.loads(out.read_text())["programs"]}
    assert programs["decode"]["compile_seconds"] > 0
    for name in ("reshard", "prefill", "decode", "eval prefill", "eval decode"):
        assert programs[name]["unasked"] == [], name


@pytest.mark.slow
@pytest.mark.parametrize("name", ["pretrain_1_3b_tpu", "pretrain_7b_tpu", "sft_7b_tpu", "grpo_tpu"])
def test_the_paper_s_configs_fit_a_pod_and_send_nothing_unasked(name, tmp_path, launch):
    flags = (f"--config=configs/{name}.py", "--dry_run=v5p:4x4x4", "--nolargest_batch")
    launch("train.py", *flags, f"--workdir={tmp_path}", check=True, timeout=600)
    record = json.loads((tmp_path / "dry_run.json").read_text())
    assert record["fits"] and record["devices"] == 64
    assert [u["text"] for p in record["programs"] for u in p["unasked"]] == []
    assert record["step_seconds"] > 0 and 0 < record["mfu"] <= 0.8
    for p in record["programs"]:
        if p["name"] == "decode":  # without a copy of the cache
            assert p["memory"]["temporary"] < p["memory"]["KV cache"] / 8


@pytest.fixture
def thorough_compiler(quick_compiler):
    """libtpu 0.0.42 fails with less effort on what SparseCores do."""
    jax.config.update("jax_exec_time_optimization_effort", 0.0)
    yield
    jax.config.update("jax_exec_time_optimization_effort", -1.0)


@pytest.mark.slow
def test_an_update_on_sparse_cores(thorough_compiler, tmp_path):
    config = get_defaults("sft")
    config.batch_size, config.length, config.mesh.fsdp = 8, 512, 8
    config.model_changes = ConfigDict({"num_layers": 2, "hidden_size": 1024, "vocab_size": 8192})
    out = tmp_path / "dry_run.json"
    assert dry_run(config, "tpu7x:2x2x1", out, largest=False)
    update = json.loads(out.read_text())["programs"][0]
    assert update["unasked"] == []
    assert update["sent"]["all-gather"] > 0 and update["sent"]["reduce-scatter"] > 0
    assert update["flops"] > update["model_flops"] / 8


@pytest.mark.slow
def test_the_largest_batch_fits(monkeypatch, tmp_path):
    monkeypatch.setitem(CHIPS, "v5e", dataclasses.replace(CHIPS["v5e"], memory=2.0**27))
    config = get_defaults("sft")
    config.model_changes = ConfigDict({"num_layers": 1})
    config.batch_size = config.eval.batch_size = 32
    out = tmp_path / "dry_run.json"
    assert dry_run(config, "v5e:2x2", out)
    most = json.loads(out.read_text())["largest_rows"]
    assert most > 8
    config.batch_size = 4 * most
    assert dry_run(config, "v5e:2x2", largest=False)
