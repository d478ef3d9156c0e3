"""`dsmath_jax.losses` is light enough for any JAX project."""

import json
import subprocess
import sys

PROGRAM = """
import json, sys, time
import jax, jax.numpy
start = time.perf_counter()
import dsmath_jax.losses
seconds = time.perf_counter() - start
print(json.dumps({"seconds": seconds, "modules": sorted(sys.modules)}))
"""
HEAVY = {"flax", "grain", "ray", "tensorflow", "fasttext", "torch", "transformers", "orbax"}


def test_import_is_quick_and_loads_jax_and_numpy_alone():
    run = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    seen = json.loads(run.stdout)
    assert not HEAVY & {name.split(".")[0] for name in seen["modules"]}
    ours = [m for m in seen["modules"] if m.startswith("dsmath_jax.")]
    assert ours and all(m.startswith("dsmath_jax.losses") for m in ours)
    assert seen["seconds"] < 1.0


def test_every_public_name_exists_and_is_documented():
    import dsmath_jax.losses as losses

    for name in losses.__all__:
        assert getattr(losses, name).__doc__, name
