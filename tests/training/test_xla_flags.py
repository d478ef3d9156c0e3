"""Compiler flags: the user's win, unknown ones stay out, and those of the table are accepted."""

import os
import subprocess
import sys

import jax

from dsmath_jax.training import xla_flags
from dsmath_jax.training.xla_flags import TABLE, Setting, apply, knows, libraries

COMPILE = "import jax; print(jax.jit(lambda x: x + 1)(1))"


def python(code, **variables):
    environment = os.environ | {"JAX_PLATFORMS": "cpu"} | variables
    command = [sys.executable, "-c", code]
    return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300)


def flag(name, variable="XLA_FLAGS", accelerator="cpu"):
    return Setting(accelerator, variable, name, "1", "a test", "nothing")


def test_the_users_flag_stays(monkeypatch):
    monkeypatch.setattr(
        xla_flags, "TABLE", (flag("xla_cpu_max_isa"), flag("xla_dump_max_hlo_modules"))
    )
    environment = {"XLA_FLAGS": "--xla_cpu_max_isa=AVX2"}
    assert apply(environment) == []
    assert environment["XLA_FLAGS"] == "--xla_cpu_max_isa=AVX2 --xla_dump_max_hlo_modules=1"


def test_gpu_settings_are_for_gpus(monkeypatch):
    everything = xla_flags.libraries
    monkeypatch.setattr(xla_flags, "libraries", lambda packages: [])
    assert apply(environment := {}) == [] and environment == {}
    monkeypatch.setattr(xla_flags, "libraries", lambda packages: everything(("jaxlib",)))
    assert apply(environment := {"XLA_PYTHON_CLIENT_MEM_FRACTION": "0.5"}) == []
    assert environment["XLA_PYTHON_CLIENT_MEM_FRACTION"] == "0.5"
    assert "--xla_gpu_enable_latency_hiding_scheduler=true" in environment["XLA_FLAGS"]


def test_options_of_training_are_not_flags_and_reach_its_programs_on_a_gpu(monkeypatch):
    monkeypatch.setattr(xla_flags, "TABLE", (flag("xla_dump_max_hlo_modules", ""),))
    monkeypatch.setattr(xla_flags, "_training", {})
    assert apply(environment := {}) == [] and environment == {}
    assert xla_flags.training_options() is None  # no GPU
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert xla_flags.training_options() == {"xla_dump_max_hlo_modules": "1"}
    assert jax.jit(lambda x: x + 1, compiler_options=xla_flags.training_options())(1) == 2


def test_the_users_flag_stays_before_an_option(monkeypatch):
    monkeypatch.setattr(xla_flags, "TABLE", (flag("xla_dump_max_hlo_modules", ""),))
    monkeypatch.setattr(xla_flags, "_training", {})
    apply({"XLA_FLAGS": "--xla_dump_max_hlo_modules=3"})
    assert xla_flags._training == {}


def test_an_unknown_flag_stays_out(monkeypatch):
    monkeypatch.setattr(xla_flags, "TABLE", (flag("xla_cpu_no_such_flag"),))
    environment = {}
    assert apply(environment) == ["xla_cpu_no_such_flag"]
    assert environment == {}


def test_what_is_not_known_would_end_the_process():
    """So the search in the library stands for asking the compiler."""
    (library,) = libraries(("jaxlib",))
    assert knows(library, "xla_cpu_max_isa") and not knows(library, "xla_cpu_no_such_flag")
    assert python(COMPILE, XLA_FLAGS="--xla_cpu_max_isa=AVX2").returncode == 0
    refused = python(COMPILE, XLA_FLAGS="--xla_cpu_no_such_flag=1")
    assert refused.returncode != 0 and "xla_cpu_no_such_flag" in refused.stderr


def test_the_table_is_accepted_on_a_cpu():
    """Also its GPU flags: the compiler for CPUs knows them all."""
    flags = [f"--{s.name}={s.value}" for s in TABLE if s.variable == "XLA_FLAGS"]
    assert flags
    process = python(COMPILE, XLA_FLAGS=" ".join(flags))
    assert process.returncode == 0, process.stderr
    options = {s.name: s.value for s in TABLE if not s.variable}
    assert options and jax.jit(lambda x: x + 1, compiler_options=options)(1) == 2


def test_every_setting_says_why():
    assert all(s.reason and s.measured for s in TABLE)
