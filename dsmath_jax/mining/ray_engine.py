"""Shards on a Ray cluster: Ray says where and when, and again where a process or a node is lost.

A task runs one shard in a watched process beside it, as local workers do (`workers`), so a page
that hangs or kills is left out in the same way. Only jobs and counts travel through Ray: every
node reads inputs and writes shards itself, in the same file system.
"""

from __future__ import annotations

import importlib
import os
import pathlib
import pickle
import socket
import sys
from collections.abc import Callable, Sequence
from typing import Any

from dsmath_jax.data.errors import InputError
from dsmath_jax.mining.shards import Engine, do_shard
from dsmath_jax.mining.workers import WorkerError, Workers, sendable

RETRIES = 100  # of a shard whose Ray process or node is lost, which says nothing about the shard
CONNECT_SECONDS = 10.0
OBJECT_STORE = 100 << 20  # bytes of a cluster that is started here; hardly anything is in it


def run_on_ray(
    jobs: Sequence[tuple], engine: Engine, ended: Callable[[dict[str, Any]], None]
) -> list[dict[str, Any]]:
    """[do_shard(job) for job in jobs], on the cluster at `engine.ray`.

    Raises:
      InputError: Ray is not installed, or no cluster answers.
      WorkerError: processes keep dying at a shard.
      Exception: what a stage raised first; other shards that had begun are waited for.
    """
    ray = _connect(engine)
    root = str(pathlib.Path(__file__).parents[2])
    how = (os.getcwd(), engine.stuck_seconds, engine.memory_gb)

    # Ray sends this function by value, and what it refers to: nothing of a module of the project,
    # which can be imported there only once it knows where.
    @ray.remote(num_cpus=1, max_retries=RETRIES)
    def task(job: bytes) -> tuple[bool, Any]:
        if root not in sys.path:
            sys.path.insert(0, root)
        module = importlib.import_module("dsmath_jax.mining.ray_engine")
        return module.one_shard(job, *how)  # type: ignore[no-any-return]

    results: dict[int, dict[str, Any]] = {}
    waiting = list(range(len(jobs)))[::-1]
    running: dict[Any, int] = {}
    error: BaseException | None = None
    try:
        while (waiting and error is None) or running:
            most = engine.workers or int(ray.cluster_resources().get("CPU", 1))
            while waiting and error is None and len(running) < max(1, most):
                number = waiting.pop()
                running[task.remote(pickle.dumps(jobs[number]))] = number
            for reference in ray.wait(list(running), timeout=5.0)[0]:
                number = running.pop(reference)
                try:
                    good, value = ray.get(reference)
                except ray.exceptions.RayError as e:
                    name = jobs[number][1].name
                    good, value = False, WorkerError(f"Ray gave up shard {name}: {e}")
                if good:
                    results[number] = value
                    ended(value)
                else:
                    error = error or value
        if error is not None:
            raise error
    finally:
        for reference in running:
            ray.cancel(reference, force=True)
    return [results[n] for n in range(len(jobs))]


def one_shard(job: bytes, folder: str, stuck_seconds: float, memory_gb: float) -> tuple[bool, Any]:
    """In a Ray process: (True, what was counted) or (False, what was raised)."""
    try:
        try:
            os.chdir(folder)  # paths may be relative
        except OSError as e:
            raise InputError(
                f"{folder}: {e.strerror} on node {socket.gethostname()}; all nodes of a cluster "
                "must have the same files at the same paths"
            ) from None
        # Else the watched process imports Ray, too, which takes it a second and 100 MB.
        vars(sys.modules["__main__"]).pop("__file__", None)
        return True, Workers(1, stuck_seconds, memory_gb).run(do_shard, [pickle.loads(job)])[0]
    except Exception as e:
        return False, sendable(e)


def _connect(engine: Engine) -> Any:
    try:
        import ray
    except ImportError:
        raise InputError("--engine=ray needs Ray: pip install 'dsmath-jax[ray]'") from None
    if ray.is_initialized():
        return ray
    # What processes print stays in Ray's logs: with it, Ray sends all that libtpu logs on a host.
    options: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR"}
    try:
        if engine.ray == "local":
            os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
            options |= {"num_cpus": engine.workers or None, "include_dashboard": False}
            options |= {"object_store_memory": OBJECT_STORE}
        elif engine.ray != "auto":
            host, _, port = engine.ray.rpartition(":")
            socket.create_connection((host, int(port)), CONNECT_SECONDS).close()
        ray.init(address=engine.ray, **options)
    except (OSError, ValueError, RuntimeError, ray.exceptions.RayError) as e:
        raise InputError(
            f"--address={engine.ray}: no Ray cluster that lets this process in ({e}). Give "
            "HOST:PORT of `ray start --head`, from one of its nodes and with its token (see "
            "docs/mining_clusters.md), or 'local'"
        ) from None
    return ray
