"""Two processes give the samples and scores of one: each by itself, or both in step."""

import os
import socket
import subprocess
import sys

import numpy as np
import pytest

from tests.conftest import cpu_devices

SAMPLE = """
import sys
import jax
import numpy as np
from dsmath_jax.models import Transformer, preset
from dsmath_jax.models.sharding import make_mesh
from dsmath_jax.rollout import Sampler
from dsmath_jax.rollout.local import joint_mesh, local_arrays, local_mesh, weight_shardings

joint = sys.argv[2] == "joint"
if len(sys.argv) > 3:
    jax.distributed.initialize(sys.argv[3], 2, int(sys.argv[4]))
model = Transformer(preset("tiny", vocab_size=29, num_layers=2, hidden_size=32, num_kv_heads=2))
all_devices = make_mesh(fsdp=len(jax.devices()))
mesh = joint_mesh(all_devices, 2) if joint else local_mesh(all_devices, 1)
sampler = Sampler(model, max_rows=64, interval=4, mesh=mesh)  # 16 slots a shard: they shrink
if joint:
    def placed(x, where):
        x = np.asarray(x)
        return jax.make_array_from_callback(x.shape, where, lambda part: x[part])

    weights = weight_shardings(model.config, all_devices, 2)
    weights = jax.tree.map(placed, sampler.params, weights)
    sampler.params = local_arrays(weights, model.config, mesh)
prompts, GROUP = [[1, 2, 3 + n] for n in range(5)], 24
seen = []
limits = [9, 8, 7, 60, 5]
options = dict(samples_per_prompt=GROUP, max_new_tokens=limits, eos_ids=[5], seed=1)
jax.set_mesh(all_devices)  # as a training loop has it
samples = sampler(prompts, on_sample=lambda q, g, ids: seen.append(GROUP * q + g), **options)
scores = sampler.score(prompts, [[samples.ids(q, g) for g in range(GROUP)] for q in range(5)])
few = sampler(prompts[:1], max_new_tokens=5, eos_ids=[5])  # one host has none
few_scores = sampler.score(prompts[:1], [[few.ids(0, 0)]])
found = vars(samples) | {"few": few.tokens, "few_scores": few_scores}
np.savez(sys.argv[1], scores=scores, seen=seen, **found)
"""


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["alone", "joint"])
def test_two_processes_sample_and_score_like_one(mode, tmp_path):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{probe.getsockname()[1]}"

    def start(name, *arguments):
        command = [sys.executable, "-c", SAMPLE, str(tmp_path / name), mode, *arguments]
        environment = os.environ | cpu_devices(4)
        return subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)

    for process in (start("one"), start("two0", address, "0"), start("two1", address, "1")):
        _, errors = process.communicate(timeout=300)
        assert process.returncode == 0, errors[-2000:]
    one, *two = (np.load(tmp_path / f"{name}.npz") for name in ("one", "two0", "two1"))
    assert sorted(one["seen"]) == list(range(120))
    assert sorted(np.concatenate([x["seen"] for x in two])) == list(range(120))
    for host in two:
        assert 0 < len(host["seen"]) < 120
        for name in ("tokens", "lengths", "stopped", "few"):
            np.testing.assert_array_equal(host[name], one[name])
        for name in ("logprobs", "scores", "few_scores"):
            np.testing.assert_allclose(host[name], one[name], atol=1e-5)
    width = one["scores"].shape[2]
    np.testing.assert_allclose(one["scores"], one["logprobs"][:, :, :width], atol=1e-4)
