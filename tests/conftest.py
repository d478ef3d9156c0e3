"""Fixtures that every test may use."""

import json
import os
import pathlib
import subprocess
import sys
import tempfile
from collections.abc import Iterator

# Most of a test's time is compilation: the least optimised code, without the newer emitters of
# fusions, compiles in a third of it, and what several tests, workers or processes compile comes
# from one cache. The workers inherit both.
os.environ.setdefault(
    "XLA_FLAGS",
    "--xla_backend_optimization_level=0"
    " --xla_backend_extra_options=xla_cpu_disable_new_fusion_emitters",
)
if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
    COMPILED = tempfile.TemporaryDirectory(prefix="compiled_")  # removed when this process ends
    os.environ["JAX_COMPILATION_CACHE_DIR"] = COMPILED.name
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
# Threads of torch that wait for a core which the other worker has take 20 times as long.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import jax
import pytest

REPO = pathlib.Path(__file__).resolve().parents[1]


def cpu_devices(count: int) -> dict[str, str]:
    """The environment of a process with so many simulated devices."""
    flags = f"{os.environ['XLA_FLAGS']} --xla_force_host_platform_device_count={count}"
    return dict(os.environ) | {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": flags}


@pytest.fixture(scope="module")
def quick_compiler() -> Iterator[None]:
    """Programs for TPUs are compiled with the least effort, in a quarter of the time."""
    jax.config.update("jax_exec_time_optimization_effort", -1.0)
    os.environ["JAX_EXEC_TIME_OPTIMIZATION_EFFORT"] = "-1.0"
    yield
    jax.config.update("jax_exec_time_optimization_effort", 0.0)
    del os.environ["JAX_EXEC_TIME_OPTIMIZATION_EFFORT"]


@pytest.fixture(scope="session")
def data_dir() -> pathlib.Path:
    """The folder of real data: $DSMATH_DATA, or shared/data beside the repository."""
    path = pathlib.Path(os.environ.get("DSMATH_DATA", REPO.parent / "shared" / "data"))
    if not path.is_dir():
        pytest.skip(f"real data: no folder {path} (set DSMATH_DATA)")
    return path


@pytest.fixture(scope="session")
def launch():
    """launch("train.py", *flags, devices=1) runs a command of launch/; gives the ended process."""

    def run(script: str, *flags: str, devices: int = 1, check: bool = False, timeout: int = 300):
        process = subprocess.run(
            [sys.executable, str(REPO / "launch" / script), *map(str, flags)],
            capture_output=True,
            text=True,
            env=cpu_devices(devices),
            cwd=REPO,
            timeout=timeout,
        )
        if check:
            assert process.returncode == 0, process.stderr[-3000:]
        return process

    return run


@pytest.fixture(scope="session")
def run_on():
    """run_on(8, program, *arguments) runs Python text on so many simulated devices; gives what its
    last line says, as JSON."""

    def run(devices: int, program: str, *arguments: str):
        command = [sys.executable, "-c", program, *arguments]
        env = cpu_devices(devices)
        process = subprocess.run(command, capture_output=True, text=True, env=env, cwd=REPO)
        assert process.returncode == 0, process.stderr[-3000:]
        return json.loads(process.stdout.splitlines()[-1])

    return run
